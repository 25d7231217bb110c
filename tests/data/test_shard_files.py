"""Which shards a directory has, and reading its manifest."""

import json

import pytest

from pf_keras.data import shard_files
from pf_keras.errors import UserError

MANIFEST = {
    "format": "pf_keras tfrecords 1",
    "images": 3,
    "bytes": 300,
    "source": {"kind": "folder", "files": []},
    "settings": {"seed": 0},
    "splits": {"train": {"images": 3, "bytes": 300, "shards": 1, "classes": {"1": 2, "unlabelled": 1}}},
    "odd": {"grey": 0},
    "classes": [{"label": 1, "synset": "cat", "text": "cat"}],
    "shards": [{"file": "train-00000-of-00001", "records": 3, "bytes": 300, "sha256": "ab", "odd": {}, "bad": []}],
}


def touch(directory, *names):
    for name in names:
        (directory / name).write_bytes(b"")


@pytest.mark.parametrize("suffix", ["", ".tfrecord", ".tfrec"])
@pytest.mark.parametrize("validation", ["validation", "val", "valid", "test"])
def test_split_files_finds_all_usual_names(tmp_path, suffix, validation):
    names = [f"train-{i:05d}-of-00003{suffix}" for i in range(3)]
    touch(tmp_path, "notes", "other.json", *names, f"{validation}-00000-of-00001{suffix}")
    found = shard_files.split_files(str(tmp_path))
    assert found["train"] == [str(tmp_path / name) for name in names]
    assert found["validation"] == [str(tmp_path / f"{validation}-00000-of-00001{suffix}")]


def test_validation_shards_are_preferred_to_test_shards(tmp_path):
    touch(tmp_path, "test-00000-of-00001", "validation-00000-of-00001")
    assert shard_files.split_files(str(tmp_path)) == {
        "train": [],
        "validation": [str(tmp_path / "validation-00000-of-00001")],
    }


@pytest.mark.parametrize(
    "names, words",
    [
        ([], "has no TFRecord shards"),
        (["train-00000-of-00002.gz"], "train-00000-of-00002.gz is compressed with GZIP. Write it again without compression"),
        (["ld_train01-180.tfrec"], "only ld_train01-180.tfrec and the like. Rename"),
        (["a.array_record-00000-of-00001"], "ArrayRecord files. Convert them with python -m tfrecords.from_array_record"),
        (["train-00000-of-00002"], "lacks 1 of 2 train shards: the first is train-00001-of-00002"),
        (["train-00000-of-00001", "train-00001-of-00002", "train-00000-of-00002"], "several sets of train shards"),
        (["train-00000-of-00001", "train-00000-of-00001.tfrecord"], "2 files for 1 train shards. Remove those that"),
        (["train-00000-of-00001", "train-00001-of-00001"], "has 2 files for 1 train shards. .* have a number above 00000"),
    ],
)
def test_incomplete_or_doubled_sets_are_an_error(tmp_path, names, words):
    touch(tmp_path, *names)
    with pytest.raises(UserError, match=words):
        shard_files.split_files(str(tmp_path))


@pytest.mark.parametrize("config", ["", "big"])
def test_directory_of_a_tfds_dataset_is_an_error_that_names_the_source_to_use(tmp_path, config):
    root = tmp_path / "tensorflow_datasets"
    version = root / "ants" / config / "1.2.0"
    version.mkdir(parents=True)
    touch(version, "ants-train.tfrecord-00000-of-00001")
    info = {"name": "ants", "version": "1.2.0", "fileFormat": "tfrecord"} | ({"configName": config} if config else {})
    (version / "dataset_info.json").write_text(json.dumps(info))
    name = "ants/big:1.2.0" if config else "ants:1.2.0"
    for folder in (version, version.parent, root / "ants", root):
        with pytest.raises(UserError) as error:
            shard_files.split_files(str(folder))
        assert str(error.value) == f"{folder} is a TFDS dataset. Use --data=tfds:{name} with TFDS_DATA_DIR={root}."
    (version / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "array_record"}))
    with pytest.raises(UserError, match=f"Convert them with python -m tfrecords.from_array_record {version} NEW"):
        shard_files.split_files(str(root))


def test_missing_directory_is_an_error():
    with pytest.raises(UserError, match="There is no directory /absent"):
        shard_files.split_files("/absent")


def test_read_manifest(tmp_path):
    assert shard_files.read_manifest(str(tmp_path)) is None
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    assert shard_files.read_manifest(str(tmp_path)) == MANIFEST


@pytest.mark.parametrize("text", ["{", "[]"])
def test_manifest_that_is_not_a_json_object_is_an_error(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="manifest.json is not a JSON object"):
        shard_files.read_manifest(str(tmp_path))


@pytest.mark.parametrize("content", [{}, {"format": "another"}, {"format": "pf_keras tfrecords 1", "images": 3}])
def test_json_of_another_tool_is_not_a_manifest(tmp_path, content):
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="manifest.json is damaged or not a manifest of tfrecords.build"):
        shard_files.read_manifest(str(tmp_path))

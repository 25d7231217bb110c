"""Which shards there are, how many records, and names and labels without reading images."""

import json
import shutil

import pytest

from tfrecords import files, listing, schema
from tfrecords.errors import UserError


def touch(directory, *names):
    for name in names:
        (directory / name).write_bytes(b"")


@pytest.mark.parametrize("suffix", ["", ".tfrecord"])
@pytest.mark.parametrize("validation", ["validation", "val", "test"])
def test_split_files(tmp_path, suffix, validation):
    names = [f"train-{i:05d}-of-00003{suffix}" for i in range(3)]
    touch(tmp_path, "manifest.json", "notes", *names, f"{validation}-00000-of-00001{suffix}")
    found = files.split_files(str(tmp_path))
    assert found["train"] == [str(tmp_path / name) for name in names]
    assert found["validation"] == [str(tmp_path / f"{validation}-00000-of-00001{suffix}")]


def test_validation_goes_before_test(tmp_path):
    touch(tmp_path, "test-00000-of-00001", "validation-00000-of-00001")
    assert files.split_files(str(tmp_path)) == {
        "train": [],
        "validation": [str(tmp_path / "validation-00000-of-00001")],
    }


@pytest.mark.parametrize(
    "names, words",
    [
        ([], "found none"),
        (["train-00000-of-00002"], "missing is train-00001-of-00002"),
        (["train-00000-of-00001", "train-00001-of-00002", "train-00000-of-00002"], "several"),
        (["train-00000-of-00001", "train-00000-of-00001.tfrecord"], "each shard once"),
        (["train-00000-of-00001", "train-00001-of-00001"], "received number 1"),
    ],
)
def test_incomplete_sets_are_an_error(tmp_path, names, words):
    touch(tmp_path, *names)
    with pytest.raises(UserError, match=words):
        files.split_files(str(tmp_path))


def test_absent_directory():
    with pytest.raises(UserError, match="expected a directory"):
        files.split_files("/absent")


def test_counts_and_listing_against_tensorflow(helpers, built):
    found = files.split_files(str(built))
    for split, paths in found.items():
        records = helpers.records(built, split)
        assert sum(files.count_records(paths)) == len(records)
        for processes in (1, 2):
            names, labels = listing.read_listing(paths, processes)
            assert names == [record["image/filename"].decode() for record in records]
            assert labels == [record["image/class/label"] for record in records]


def test_listing_names_a_record_that_is_no_example(tmp_path):
    import tensorflow as tf

    path = str(tmp_path / "train-00000-of-00001")
    fields = dict(height=1, width=1, channels=3, colorspace="RGB", format="JPEG", filename="a")
    damaged = bytearray(schema.make_example(encoded=b"x", **fields))
    damaged[damaged.index(b"image/filename") + 18] ^= 0x7F  # within the feature
    for bad in (b"not an example", b"\x0a\x7f\x0a", bytes(damaged)):
        with tf.io.TFRecordWriter(path) as writer:
            writer.write(tf.train.Example().SerializeToString())
            writer.write(bad)
        with pytest.raises(UserError, match="record 1 at byte"):
            listing.read_listing([path], 1)


def test_manifest(built, tmp_path):
    assert files.read_manifest(str(tmp_path)) is None
    assert files.read_manifest(str(built))["images"] == 28
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="expected JSON"):
        files.read_manifest(str(tmp_path))
    for change in ({"shards": [{}]}, {"images": "3"}, {"splits": {"train": {}}}, {"classes": [1]}):
        (tmp_path / "manifest.json").write_text(json.dumps(json.loads((built / "manifest.json").read_text()) | change))
        with pytest.raises(UserError, match="damaged"):
            files.read_manifest(str(tmp_path))
    content = json.loads((built / "manifest.json").read_text())
    content["splits"]["train"]["classes"]["one"] = 1
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="classes by their number, received 'one'"):
        files.read_manifest(str(tmp_path))
    shutil.copy(built / "manifest.json", tmp_path)
    assert files.read_manifest(str(tmp_path))["format"] == "pf_keras tfrecords 1"

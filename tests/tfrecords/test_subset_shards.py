"""Label subsets with shards of their own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, command, refused

from pf_keras import filesystem as fs
from pf_keras.config import DataConfig
from pf_keras.data.labels import labelled_subset
from pf_keras.data.sources import open_source
from pf_keras.errors import UserError
from tfrecords import shards, subsets

NAME = "subsets/train_20pct_seed0"


@pytest.fixture(scope="module")
def dataset(helpers, tmp_path_factory):
    """60 training images in 3 shards and 8 validation images, with 20% of the training images in shards of their own."""
    root = tmp_path_factory.mktemp("dataset")
    for split, count in (("train", 30), ("val", 4)):
        for label in ("cat", "dog"):
            for i in range(count):
                data = helpers.image(f"{split}{label}{i}", size=(18, 18))
                helpers.write(root / "in" / split / label / f"{label}{i}.jpg", data)
    helpers.build("--source=folder", f"--input={root / 'in'}", f"--output={root / 'out'}", "--train_shards=3")
    done = helpers.command("subsets", root / "out", "--fraction=0.2", "--shards", "--processes=1")
    assert done.returncode == 0, done.stderr
    return root / "out"


@pytest.fixture
def copy(dataset, tmp_path):
    return shutil.copytree(dataset, tmp_path / "copy")


def raw(directory):
    """The training records of a directory in order, as bytes."""
    import tensorflow as tf

    paths = sorted(map(str, Path(directory).glob("train-*-of-*")))
    return list(tf.data.TFRecordDataset(paths).as_numpy_iterator())


def test_records_are_those_of_the_list_byte_for_byte_and_in_order(helpers, dataset):
    listed = set((dataset / f"{NAME}.txt").read_text().splitlines())
    names = [record["image/filename"].decode() for record in helpers.records(dataset, "train")]
    wanted = [record for record, name in zip(raw(dataset), names, strict=True) if name in listed]
    assert raw(dataset / NAME) == wanted and len(wanted) == len(listed) == 12


def test_manifest_has_counts_and_digests_and_a_second_command_changes_nothing(helpers, dataset):
    before = helpers.hashes(dataset)
    manifest = json.loads((dataset / NAME / "manifest.json").read_text())
    assert [(note["file"], note["sha256"]) for note in manifest["shards"]] == [
        (name.split("/")[-1], digest) for name, digest in sorted(before.items()) if name.startswith(f"{NAME}/train-")
    ]
    size = sum(path.stat().st_size for path in (dataset / NAME).glob("train-*"))
    train = {"images": 12, "bytes": size, "shards": 1, "classes": {"1": 6, "2": 6}}
    assert manifest["splits"] == {"train": train} and manifest["subset_of"] == {"directory": "../..", "images": 60}
    assert manifest["classes"] == json.loads((dataset / "manifest.json").read_text())["classes"]
    done = helpers.command("subsets", dataset, "--fraction=0.2", "--shards", "--processes=1")
    assert done.returncode == 0 and f"their records, {size} bytes in 1 shards" in done.stdout
    assert helpers.hashes(dataset) == before


def test_finetuning_reads_the_images_of_the_list_and_the_same_validation_images(dataset, tmp_path):
    place, listed = dataset / NAME, dataset / f"{NAME}.txt"
    flags = ("--mode=finetune", "--init=scratch", *TINY, "--config.finetune.epochs=1", "--config.finetune.batch=4")
    by_list = command(*flags, f"--data=tfrecord:{dataset}", f"--label_list={listed}", f"--workdir={tmp_path / 'list'}")
    by_shards = command(*flags, f"--data=tfrecord:{place}", f"--workdir={tmp_path / 'shards'}")
    assert by_list.code == by_shards.code == 0, by_list.err + by_shards.err
    same = ("label_fraction", "labels", "train_images", "images", "steps")
    assert [by_shards.result[key] for key in same] == [by_list.result[key] for key in same] == [0.2, 12, 12, 8, 3]
    texts = [sorted((tmp_path / run / "labels.txt").read_text().splitlines()) for run in ("list", "shards")]
    assert texts[0] == texts[1] == sorted(listed.read_text().splitlines())
    splits = [json.loads((tmp_path / run / "data.json").read_text())["splits"] for run in ("list", "shards")]
    assert splits[0]["validation"] == splits[1]["validation"] and splits[1]["train"]["images"] == 12
    half = command(*flags, f"--data=tfrecord:{place}", "--label_fraction=0.5", f"--workdir={tmp_path / 'half'}")
    assert half.result["labels"] == 6 and half.result["label_fraction"] == 0.1, half.err


def test_images_and_labels_are_those_of_the_list(dataset):
    def content(split):
        load = split.loader()
        rows = ((key, *load(key)) for key in split.keys(shuffle=False))
        return sorted((encoded.numpy(), int(label)) for _, encoded, label in rows)

    whole, part = (open_source(DataConfig(source=f"tfrecord:{place}")) for place in (dataset, dataset / NAME))
    chosen = labelled_subset(whole.train, None, str(dataset / f"{NAME}.txt"))
    np.testing.assert_array_equal(part.train.labels, chosen.labels)
    assert part.train.names == chosen.names
    expected = sorted(zip(chosen.values, chosen.labels.tolist(), strict=True))
    assert content(part.train) == expected
    assert content(part.validation) == content(whole.validation)
    assert part.classes == whole.classes == ("cat", "dog")


def test_verify_checks_a_subset(helpers, copy):
    done = helpers.command("verify", copy / NAME, "--decode")
    assert done.returncode == 0 and f"a subset of {copy}, whose validation shards it uses" in done.stdout
    assert "12 images in 1 shards, every image decoded" in done.stdout
    shard = copy / NAME / "train-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    (copy / "validation-00000-of-00001").unlink()
    done = helpers.command("verify", copy / NAME)
    assert done.returncode == 1 and "the checksum of its data does not match" in done.stdout
    assert f"uses the validation shards of {copy}, which has none" in done.stdout


def test_subset_without_its_dataset_is_an_error(copy, tmp_path):
    alone = shutil.move(copy / NAME, tmp_path / "alone" / "there" / "subset")
    line = refused("--mode=finetune", "--init=scratch", *TINY, f"--data=tfrecord:{alone}", f"--workdir={tmp_path / 'run'}")
    assert f"uses the validation shards of {tmp_path / 'alone'}" in line


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of at most 4 images, made in this process."""
    monkeypatch.setattr(shards, "_SHARD_IMAGES", 4)
    monkeypatch.setattr(shards, "_LEAST_IMAGES", 1)
    monkeypatch.setattr("pf_keras.processes.run", lambda work, tasks, _: map(work, tasks))


def test_interrupted_copy_is_no_dataset_and_resumes(helpers, copy, small_shards, monkeypatch):
    arguments = [str(copy), "--fraction=0.2", "--shards"]
    whole, made = shutil.copytree(copy, copy / "whole"), []
    shutil.rmtree(whole / "subsets")
    shutil.rmtree(copy / "subsets")
    assert subsets.main([str(whole), *arguments[1:]]) == 0
    write = shards.make_noted

    def interrupted(task, *others):
        made.append(task["file"])
        if len(made) == 3:
            raise KeyboardInterrupt
        return write(task, *others)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shards, "make_noted", interrupted)
        subsets.main(arguments)
    left = copy / NAME
    kept = {path.name: path.stat().st_mtime_ns for path in left.glob("train-*")}
    assert len(kept) == 2 and not (left / "manifest.json").exists() and not left.with_suffix(".txt").exists()
    with pytest.raises(UserError, match="has not finished. Run the same command again"):
        open_source(DataConfig(source=f"tfrecord:{left}"))
    assert subsets.main(arguments) == 0
    assert {name: (left / name).stat().st_mtime_ns for name in kept} == kept
    assert helpers.hashes(copy / "subsets") == helpers.hashes(whole / "subsets")
    assert len(list(left.glob("train-*"))) == 3


def test_damaged_record_is_named_and_nothing_is_half_done(helpers, copy):
    shard = copy / "train-00000-of-00003"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1  # within the image of the first record
    shard.write_bytes(data)
    done = helpers.command("subsets", copy, "--fraction=1", "--shards", "--processes=1")
    helpers.fails(done, f"{shard}: the record at byte 0 is damaged")
    left = copy / "subsets" / "train_100pct_seed0"
    assert not list(left.glob("train-*")) and not list(left.rglob("*.partial")) and not left.with_suffix(".txt").exists()


def test_other_content_at_the_place_is_an_error_and_stays(helpers, copy, tmp_path):
    output = tmp_path / "lists"
    theirs = helpers.write(output / "train_20pct_seed0" / "train-00000-of-00001", b"theirs")
    done = helpers.command("subsets", copy, "--fraction=0.2", "--shards", "--processes=1", f"--output={output}")
    helpers.fails(done, "train_20pct_seed0 has shards but no manifest.json")
    assert theirs.read_bytes() == b"theirs" and not (output / "train_20pct_seed0.txt").exists()
    arguments = ("--fraction=0.04", "--shards", "--processes=1")  # one image of each class
    one, two = (helpers.write(tmp_path / f"{i}.txt", f"cat{i}.jpg".encode()) for i in (1, 2))
    assert helpers.command("subsets", copy, *arguments, f"--include={one}").returncode == 0
    done = helpers.command("subsets", copy, *arguments, f"--include={two}")
    helpers.fails(done, "train_4pct_seed0_with_list was built with other input files")


@pytest.fixture
def labelled_only(helpers, tmp_path):
    for label in ("cat", "dog"):
        helpers.write(tmp_path / "in" / label / "a.jpg", helpers.image(label))
    helpers.build("--source=folder", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'labelled'}", "--train_shards=1")
    return tmp_path / "labelled"


def test_wrong_fractions_and_datasets_are_an_error(helpers, copy, labelled_only):
    def refused(directory, *words, fraction=0.5):
        helpers.fails(helpers.command("subsets", directory, f"--fraction={fraction}", "--shards", "--processes=1"), *words)

    refused(copy, "label fraction is 1.5", fraction=1.5)
    refused(copy / NAME, "is a subset itself")
    refused(labelled_only, "has no validation shards")
    (copy / "manifest.json").unlink()
    refused(copy, "has no manifest.json")


def test_subset_at_a_url_finds_its_dataset(helpers, copy):
    shutil.rmtree(copy / "subsets")
    done = helpers.command("subsets", f"file://{copy}/", "--fraction=0.2", "--shards", "--processes=1")
    assert done.returncode == 0, done.stderr
    source = open_source(DataConfig(source=f"tfrecord:file://{copy}/{NAME}"))
    assert source.validation.files == [f"file://{copy}/validation-00000-of-00001"]
    assert (source.train.size, source.validation.size, source.whole) == (12, 8, 60)


@pytest.mark.parametrize("path, directory, expected", [
    ("gs://b/data", "gs://b/data/subsets/ten", "../.."),
    ("gs://b/data", "gs://c/ten", "gs://b/data"),
    ("gs://b/data", "/local/ten", "gs://b/data"),
    ("/data", "gs://b/ten", "/data"),
    ("/data", "/data/subsets/ten", "../.."),
])  # fmt: skip
def test_relative_path_leads_back(path, directory, expected):
    assert fs.relative(path, directory) == expected
    assert fs.resolve(directory, expected) == path

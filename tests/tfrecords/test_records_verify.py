"""The verifier finds what is wrong and says where."""

import json
import shutil

import pytest

from tfrecords import records
from tfrecords import schema as record_schema


@pytest.fixture
def copy(built, tmp_path):
    return shutil.copytree(built, tmp_path / "copy")


def starts(path):
    """The byte at which each record begins, found by TensorFlow's framing rules and nothing of ours."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        found.append(at)
        at += 16 + int.from_bytes(data[at : at + 8], "little")
    return found


def test_a_whole_build_passes(helpers, built):
    done = helpers.command("verify", built, "--decode")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "28 images in 5 shards, every image decoded; 0 contents occur more than once; 0 failures" in done.stdout


@pytest.mark.parametrize("place, words", [(30, "the checksum of its data"), (2, "the checksum of its length")])
def test_a_damaged_record_is_named_with_its_position(helpers, copy, place, words):
    shard = copy / "train-00001-of-00003"
    begin = starts(shard)[2]
    data = bytearray(shard.read_bytes())
    data[begin + place] ^= 4
    shard.write_bytes(data)
    done = helpers.command("verify", copy)
    assert done.returncode == 1
    assert f"FAILED: train-00001-of-00003: record 2 at byte {begin}: {words}" in done.stdout


def test_truncated_missing_and_additional_shards(helpers, copy):
    shard = copy / "train-00000-of-00003"
    shard.write_bytes(shard.read_bytes()[:-3])
    (copy / "validation-00000-of-00002").unlink()
    (copy / "train-00009-of-00010").write_bytes(b"")
    done = helpers.command("verify", copy)
    assert done.returncode == 1
    assert (
        f"train-00000-of-00003: record {len(starts(shard)) - 1} at byte {starts(shard)[-1]}: the file is" in done.stdout
    )
    assert "validation-00000-of-00002: the shard is missing" in done.stdout
    assert "train-00009-of-00010: not in the manifest" in done.stdout


def test_whole_records_that_are_not_those_of_the_manifest(helpers, copy):
    shard = copy / "train-00002-of-00003"
    data = shard.read_bytes()
    shard.write_bytes(data[: starts(shard)[-1]])
    done = helpers.command("verify", copy)
    assert done.returncode == 1
    assert "train-00002-of-00003: expected 7 records by the manifest, received 6" in done.stdout
    assert "expected 5 images of class" in done.stdout
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["splits"]["train"]["classes"]["1"] = 6
    (copy / "manifest.json").write_text(json.dumps(manifest))
    shard.write_bytes(data)
    done = helpers.command("verify", copy)
    assert "train: expected 6 images of class 1 (n01440764), received 5" in done.stdout and done.returncode == 1


def one_shard(directory, split, *images):
    directory.mkdir(exist_ok=True)
    framed = []
    for i, encoded in enumerate(images):
        fields = dict(height=1, width=1, channels=3, colorspace="RGB", format="JPEG", filename=f"{split}{i}.jpg")
        framed += records.frame(record_schema.make_example(encoded=encoded, label=1, **fields))
    (directory / f"{split}-00000-of-00001").write_bytes(b"".join(framed))


def test_duplicates_are_reported_within_and_across_splits(helpers, tmp_path):
    a, b, c, d = (helpers.image(name) for name in "abcd")
    one_shard(tmp_path, "train", a, b, a, c)
    one_shard(tmp_path, "validation", c, d)
    done = helpers.command("verify", tmp_path)
    assert done.returncode == 0
    assert "duplicate: across splits, 2 times: train/train3.jpg, validation/validation0.jpg" in done.stdout
    assert "duplicate: within a split, 2 times: train/train0.jpg, train/train2.jpg" in done.stdout
    assert "2 contents occur more than once; 0 failures" in done.stdout and "no manifest.json" in done.stdout


def test_decode_finds_what_checksums_cannot(helpers, tmp_path):
    good = helpers.image("a")
    one_shard(tmp_path, "train", good, good[:-200], b"no image")
    assert helpers.command("verify", tmp_path).returncode == 0
    done = helpers.command("verify", tmp_path, "--decode")
    assert done.returncode == 1
    assert "record 1 at byte" in done.stdout and "train1.jpg: damaged image data" in done.stdout
    assert "train2.jpg: not a readable image" in done.stdout


def test_records_that_are_no_examples(helpers, tmp_path):
    framed = [piece for data in (b"", b"\xff\xff") for piece in records.frame(data)]
    (tmp_path / "train-00000-of-00001").write_bytes(b"".join(framed))
    done = helpers.command("verify", tmp_path)
    assert done.returncode == 1 and "record 1 at byte 16: expected a tf.train.Example" in done.stdout


def test_unfinished_builds_and_usage(helpers, copy, tmp_path):
    (copy / "manifest.json").unlink()
    (copy / ".build").mkdir()
    (copy / ".build" / "settings.json").write_text("{}")
    (copy / "train-00000-of-00003").unlink()
    done = helpers.command("verify", copy)
    assert done.returncode == 1 and "expected a finished build" in done.stdout
    helpers.fails(helpers.command("verify", tmp_path / "absent"), "expected a directory")
    helpers.fails(helpers.command("verify"), "required")
    (tmp_path / "empty").mkdir()
    helpers.fails(helpers.command("verify", tmp_path / "empty"), "found none")

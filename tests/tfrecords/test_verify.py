"""The command that checks shards finds damage and says where it is."""

import json
import shutil

import pytest

from pf_keras.data import record_container, record_schema


@pytest.fixture
def copy(built, tmp_path):
    return shutil.copytree(built, tmp_path / "copy")


def starts(path):
    """The byte at which each record begins, found without our own reader."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        found.append(at)
        at += 16 + int.from_bytes(data[at : at + 8], "little")
    return found


def test_intact_build_passes(helpers, built):
    done = helpers.command("verify", built, "--decode")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "28 images in 5 shards, every image decoded; 0 contents occur more than once; 0 failures" in done.stdout


@pytest.mark.parametrize("place, words", [(30, "the checksum of its data"), (2, "the checksum of its length")])
def test_damaged_record_is_named_with_its_position(helpers, copy, place, words):
    shard = copy / "train-00001-of-00003"
    begin = starts(shard)[2]
    data = bytearray(shard.read_bytes())
    data[begin + place] ^= 4
    shard.write_bytes(data)
    done = helpers.command("verify", copy)
    assert done.returncode == 1
    assert f"FAILED: train-00001-of-00003: record 2 at byte {begin}: {words}" in done.stdout


def test_truncated_missing_and_extra_shards_are_named(helpers, copy):
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


def test_counts_that_differ_from_the_manifest_are_named(helpers, copy):
    shard = copy / "train-00002-of-00003"
    data = shard.read_bytes()
    shard.write_bytes(data[: starts(shard)[-1]])
    done = helpers.command("verify", copy)
    assert done.returncode == 1
    assert "train-00002-of-00003: 6 records, but 7 in the manifest" in done.stdout
    assert "train: 4 images of class" in done.stdout
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["splits"]["train"]["classes"]["1"] = 6
    (copy / "manifest.json").write_text(json.dumps(manifest))
    shard.write_bytes(data)
    done = helpers.command("verify", copy)
    assert "train: 5 images of class 1 (n01440764), but 6 in the manifest" in done.stdout and done.returncode == 1


def one_shard(directory, split, *images):
    directory.mkdir(exist_ok=True)
    framed = []
    for i, encoded in enumerate(images):
        fields = dict(height=1, width=1, channels=3, colorspace="RGB", format="JPEG", filename=f"{split}{i}.jpg")
        framed += record_container.frame(record_schema.make_example(encoded=encoded, label=1, **fields))
    (directory / f"{split}-00000-of-00001").write_bytes(b"".join(framed))


def test_duplicates_are_listed_within_and_across_splits(helpers, tmp_path):
    a, b, c, d = (helpers.image(name) for name in "abcd")
    one_shard(tmp_path, "train", a, b, a, c)
    one_shard(tmp_path, "validation", c, d)
    done = helpers.command("verify", tmp_path)
    assert done.returncode == 0
    assert "duplicate: across splits, 2 times: train/train3.jpg, validation/validation0.jpg" in done.stdout
    assert "duplicate: within a split, 2 times: train/train0.jpg, train/train2.jpg" in done.stdout
    assert "2 contents occur more than once; 0 failures" in done.stdout and "no manifest.json" in done.stdout


def test_decode_finds_damage_that_checksums_do_not_show(helpers, tmp_path):
    good = helpers.image("a")
    one_shard(tmp_path, "train", good, good[:-200], b"no image")
    assert helpers.command("verify", tmp_path).returncode == 0
    done = helpers.command("verify", tmp_path, "--decode")
    assert done.returncode == 1
    assert "record 1 at byte" in done.stdout and "train1.jpg: damaged image data" in done.stdout
    assert "train2.jpg: not a readable image" in done.stdout


def test_record_that_is_not_an_example_is_named(helpers, tmp_path):
    framed = [piece for data in (b"", b"\xff\xff") for piece in record_container.frame(data)]
    (tmp_path / "train-00000-of-00001").write_bytes(b"".join(framed))
    done = helpers.command("verify", tmp_path)
    assert done.returncode == 1 and "record 1 at byte 16: not a tf.train.Example" in done.stdout


def test_unfinished_build_fails_and_wrong_directories_are_an_error(helpers, copy, tmp_path):
    (copy / "manifest.json").unlink()
    (copy / ".build").mkdir()
    (copy / ".build" / "settings.json").write_text("{}")
    (copy / "train-00000-of-00003").unlink()
    done = helpers.command("verify", copy)
    assert done.returncode == 1 and "has not finished" in done.stdout
    helpers.fails(helpers.command("verify", tmp_path / "absent"), "There is no directory")
    helpers.fails(helpers.command("verify"), "required")
    (tmp_path / "empty").mkdir()
    helpers.fails(helpers.command("verify", tmp_path / "empty"), "has no TFRecord shards")

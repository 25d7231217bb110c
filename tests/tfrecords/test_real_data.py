"""Real images in the layout of the ImageNet download. Skipped if the sample is not beside the project."""

import csv
import hashlib
import tarfile

import pytest

from pf_keras.data.selection import read_list


@pytest.fixture(scope="module")
def sample(helpers, tmp_path_factory):
    archive = helpers.root.parent / "shared" / "data" / "ilsvrc2012-sample-mini.tar"
    if not archive.exists():
        pytest.skip(f"the real ImageNet sample is not at {archive}")
    directory = tmp_path_factory.mktemp("sample")
    with tarfile.open(archive) as tar:
        tar.extractall(directory, filter="data")
    return directory / "ilsvrc2012-sample-mini"


def test_both_archives_keep_their_bytes_and_get_the_right_labels(helpers, sample, tmp_path):
    helpers.build(
        "--source=imagenet", f"--input={sample}", f"--output={tmp_path}", "--train_shards=4", "--validation_shards=2"
    )
    with open(sample / "manifest.tsv") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if ".tar:" in row["path"]]
    expected = {row["path"].rpartition(":")[2]: row for row in rows}
    synsets = (sample / "labels" / "synsets.txt").read_text().split()
    names = dict(line.split("\t") for line in (sample / "labels" / "wnid_to_name.tsv").read_text().splitlines())
    counts = {}
    for split in ("train", "validation"):
        for record in helpers.records(tmp_path, split):
            row = expected.pop(record["image/filename"].decode())
            assert hashlib.sha256(record["image/encoded"]).hexdigest() == row["sha256"]
            assert record["image/class/synset"].decode() == row["wnid"]
            assert record["image/class/label"] == synsets.index(row["wnid"]) + 1
            assert record["image/class/text"].decode() == names[row["wnid"]]
            assert (record["image/width"], record["image/height"]) == (int(row["width"]), int(row["height"]))
            assert record["image/channels"] == {"RGB": 3, "L": 1}[row["mode"]]
            counts[split] = counts.get(split, 0) + 1
    assert counts == {"train": 36, "validation": 18} and not expected
    done = helpers.command("verify", tmp_path, "--decode")
    assert done.returncode == 0, done.stdout


def test_unusual_images_keep_their_bytes_unless_they_are_turned(helpers, sample, tmp_path):
    source = sample / "one_per_class"
    helpers.build("--source=folder", f"--input={source}", f"--output={tmp_path}", "--train_shards=1")
    records = {record["image/filename"].decode(): record for record in helpers.records(tmp_path, "train")}
    assert len(records) == 22 and "n03992509_potter's_wheel.JPEG" in records
    turned = records.pop("n02951585_can_opener.JPEG")  # by EXIF orientation 6
    assert (turned["image/width"], turned["image/height"]) == (294, 392)
    for name, record in records.items():
        assert record["image/encoded"] == (source / name).read_bytes()


@pytest.mark.slow
def test_imagenette_and_its_published_lists(helpers, tmp_path):
    archive = helpers.root.parent / "shared" / "data" / "imagenette224.tar.xz"
    if not archive.exists():
        pytest.skip(f"imagenette is not at {archive}")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    source, output = tmp_path / "imagenette224", tmp_path / "out"
    shards = ("--train_shards=16", "--validation_shards=4")
    done = helpers.build("--source=folder", f"--input={source}", f"--output={output}", *shards)
    assert "13394 images (train 9469, validation 3925)" in done.stdout
    done = helpers.command("verify", output, "--decode")
    assert done.returncode == 0 and "13394 images in 20 shards" in done.stdout
    published = source / "splits" / "simclr_10pct.txt"
    done = helpers.command("subsets", output, "--fraction=0.2", f"--include={published}")
    assert "1894 of 9469 images, 909 of the 909" in done.stdout, done.stdout + done.stderr
    ours = {name.rpartition("/")[2] for name in read_list(str(output / "subsets" / "train_20pct_seed0_with_list.txt"))}
    assert {name.rpartition("/")[2] for name in read_list(str(published))} <= ours

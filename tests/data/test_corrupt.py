"""Corrupt images and records: a run names them, or counts them and leaves them out."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest

from pf_keras.config import Config
from pf_keras.data.corrupt import corrupt_images, find_corrupt, leave_out, naming_corrupt_images
from pf_keras.data.folder import open_folder
from pf_keras.data.pipeline import evaluation_batches, training_batches
from pf_keras.data.sources import Source, open_source
from pf_keras.errors import UserError
from tests.data import images_made as made


@pytest.fixture
def folder(tmp_path):
    return made.photos(tmp_path / "images")


def config_of(folder):
    size = {"model.image_size": "16", "model.grid": "4", "target.size": "2", "augment.jitter_size": "0"}
    return Config().override({"data.source": f"folder:{folder}", **size})


def read_all(source, config):
    with naming_corrupt_images(source):
        return [np.asarray(b["image"]) for split in (source.train, source.validation)
                for b in evaluation_batches(split, config, 4)]


@pytest.mark.parametrize("kind", made.CORRUPT)
def test_error_names_the_corrupt_image(folder, kind):
    (folder / "train" / "class1" / kind).write_bytes(made.CORRUPT[kind]())
    config = config_of(folder)
    with pytest.raises(UserError, match=f"^class1/{kind} cannot be read: [^\n]*$"):
        read_all(open_source(config.data), config)


def test_corrupt_images_are_found_and_left_out(folder, capsys):
    made.add_corrupt(folder / "train" / "class1")
    config = config_of(folder)
    source = open_source(config.data)
    corrupt = find_corrupt(source)
    assert {image["name"] for image in corrupt} == {f"class1/{name}" for name in made.CORRUPT}
    assert all(image["split"] == "train" and image["reason"] for image in corrupt)
    left = leave_out(source, corrupt, 0.2)
    assert "4 of 28 images are corrupt and are left out, the first class1/bomb.png" in capsys.readouterr().err
    assert (left.train.size, left.validation.size) == (12, 12)
    for label, name in zip(left.train.labels, left.train.names, strict=True):
        assert name.startswith(f"class{label}/good")
    assert sum(len(batch) for batch in read_all(left, config)) == 24


def test_source_without_corrupt_images_is_left_as_it_is(folder, capsys):
    source = open_source(config_of(folder).data)
    assert find_corrupt(source) == []
    gone = [{"split": "train", "name": "class1/removed.jpg", "reason": "cut"}]
    assert leave_out(source, [], 0.0) is source and leave_out(source, gone, 0.0) is source
    assert capsys.readouterr().err == ""


def test_corrupt_images_of_data_taken_whole_leave_both_splits(folder):
    made.add_corrupt(folder / "train" / "class1")
    source = open_source(config_of(folder / "train").data, whole=True)
    left = leave_out(source, find_corrupt(source), 0.5)
    assert left.train is left.validation and left.validation.size == 12


def test_too_many_corrupt_images_are_refused(folder):
    made.add_corrupt(folder / "train" / "class1")
    source = open_source(config_of(folder).data)
    expected = r"4 of 28 images are corrupt, more than data.max_bad_fraction=0.1 allows \(class1/bomb.png: .*; \.\.\.\)"
    with pytest.raises(UserError, match=expected):
        leave_out(source, find_corrupt(source), 0.1)


def test_split_of_corrupt_images_alone_is_refused(folder):
    for file in (folder / "val").glob("*/*.jpg"):
        file.write_bytes(b"")
    source = open_source(config_of(folder).data)
    with pytest.raises(UserError, match="All images of the validation split are corrupt"):
        leave_out(source, find_corrupt(source), 0.9)


def test_file_removed_while_it_is_read_is_named(folder):
    config = config_of(folder)
    source = open_source(config.data)
    batches = iter(training_batches(source.train, config, 4, {"n": (1,)}))
    next(batches)
    os.remove(folder / "train" / "class0" / "good04.jpg")
    with pytest.raises(UserError, match="class0/good04.jpg cannot be read: .*No such file"), naming_corrupt_images(source):
        for _ in range(20):
            next(batches)


def test_file_whose_name_is_not_utf_8_is_named(folder):
    place = os.path.join(os.fsencode(folder), b"train", b"class0")
    os.rename(os.path.join(place, b"good04.jpg"), os.path.join(place, b"caf\xe9.jpg"))
    config = config_of(folder)
    source = open_source(config.data)
    os.remove(os.path.join(place, b"caf\xe9.jpg"))
    with pytest.raises(UserError, match=r"class0/caf\\xe9.jpg cannot be read: .*No such file"):
        read_all(source, config)


def test_error_says_so_where_the_image_decodes_again(folder):
    config = config_of(folder)
    source = open_source(config.data)
    file = folder / "train" / "class0" / "good00.jpg"
    content = file.read_bytes()
    expected = "failed to decode a moment ago but decodes now.*Run the same command again"
    with pytest.raises(UserError, match=expected), naming_corrupt_images(source):
        file.unlink()
        try:
            list(evaluation_batches(source.train, config, 4))
        finally:
            file.write_bytes(content)


def test_label_outside_of_the_classes_is_an_error(folder):
    config = config_of(folder)
    source = open_source(config.data)
    source.train.labels[3] = 2
    with pytest.raises(UserError, match="class0/good06.jpg cannot be read: its label 2 is not one of 2 classes"):
        with naming_corrupt_images(source):
            for _, _ in training_batches(source.train, config, 4, {"n": (1,)}, classes=2).take(6):
                pass
    assert [name for name, _ in corrupt_images(source.train, 2)] == ["class0/good06.jpg"]


def test_errors_outside_of_the_pipeline_pass_unchanged():
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError), naming_corrupt_images(Source(None, None)):
        tf.reshape(tf.zeros(3), (2,))


FIELDS = {"height": 40, "width": 60, "channels": 3, "colorspace": "RGB", "format": "JPEG", "filename": ""}


def write_shards(folder, change=None, label=lambda number: 1 + number % 2, count=6):
    """Write a train and a validation shard, with records changed by `change`. Returns the config that reads them."""
    from pf_keras.data import record_container as records
    from pf_keras.data import record_schema as schema

    folder.mkdir(exist_ok=True)
    for split in ("train", "validation"):
        with open(folder / f"{split}-00000-of-00001", "wb") as file:
            for number in range(count):
                example = schema.make_example(encoded=made.jpeg(), label=label(number), **FIELDS)
                file.write(b"".join(records.frame(change(number, example) if change else example)))
    return config_of(folder).override({"data.source": f"tfrecord:{folder}", "data.first_label": "1"})


def renamed(number, example):
    return example.replace(b"image/encoded", b"image/renamed") if number == 4 else example


def flip_a_bit(shard, place=1 / 2):
    content = bytearray(shard.read_bytes())
    content[int(place * len(content))] ^= 1
    shard.write_bytes(content)


@pytest.mark.parametrize("damage", ["flipped", "cut", "other keys", "wrong label", "no example"])
def test_damaged_records_are_named(tmp_path, damage):
    changes = {"other keys": renamed, "no example": lambda n, example: b"\xff\n\n" * (n == 4) + example}
    wrong = {"label": lambda n: 9 if n == 4 else 1 + n % 2} if damage == "wrong label" else {}
    config = write_shards(tmp_path, changes.get(damage), **wrong)
    shard = tmp_path / "train-00000-of-00001"
    if damage == "flipped":
        flip_a_bit(shard)
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(UserError, match="train-00000-of-00001[: ]") as error:
        source = dataclasses.replace(open_source(config.data), classes=("a", "b"))
        with naming_corrupt_images(source):
            for _ in training_batches(source.train, config, 2, {"n": (1,)}, classes=2).take(9):
                pass
    assert "\n" not in str(error.value)
    reason = {"other keys": "is required but could not be found. ", "no example": "record 4 cannot be read: not a tf.train.Ex"}
    assert reason.get(damage, "") in str(error.value)


def test_records_behind_a_damaged_one_cannot_be_left_out(tmp_path):
    config = write_shards(tmp_path)
    flip_a_bit(tmp_path / "train-00000-of-00001", 7 / 12)  # in the middle of record 3, not in its length
    expected = "damaged record follows .*train-00000-of-00001 record 2 .*Write its file again"
    with pytest.raises(UserError, match=expected):
        find_corrupt(open_source(config.data))


def test_corrupt_records_are_left_out_by_shard_and_place_in_any_folder(tmp_path):
    config = write_shards(tmp_path / "shards", renamed)
    source = open_source(config.data)
    corrupt = find_corrupt(source)
    assert [image["name"].rpartition("/")[2] for image in corrupt] == [
        "train-00000-of-00001 record 4",
        "validation-00000-of-00001 record 4",
    ]
    (tmp_path / "shards").rename(tmp_path / "moved")
    moved = config.override({"data.source": f"tfrecord:{tmp_path / 'moved'}"})
    left = leave_out(open_source(moved.data), corrupt, 0.2)
    assert left.train.size == left.validation.size == 5
    assert len(read_all(left, moved)) == 4  # batches of 4, two of each split


def test_folder_with_names_of_any_bytes_pipes_and_broken_links(tmp_path, capsys):
    names = [b"caf\xe9.jpg", "naïve.jpg".encode(), b"two\nlines.jpg"]
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(made.jpeg())
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait forever
    os.symlink(tmp_path, tmp_path / "loop")
    os.symlink(tmp_path / "nowhere", tmp_path / "broken.jpg")
    config = config_of(tmp_path)
    source = Source(*open_folder(str(tmp_path), config.data))
    assert source.train.size + source.validation.size == 3
    assert "skipped: 2 not regular files, 1 folders listed already" in capsys.readouterr().err
    read = np.concatenate(read_all(source, config))
    assert len(read) >= 3 and read.any((1, 2, 3)).sum() == 3  # the zeros that fill up a batch are black


@pytest.mark.parametrize("count", [2_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_mutated_records_parse_or_raise(count):
    """Runs in its own process, so that a crash of native code fails the test."""
    command = [sys.executable, "-m", "tests.data.fuzz", "records", str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)
    assert done.stdout.startswith(f"{count} inputs")


def test_order_of_records_does_not_depend_on_the_global_seed(tmp_path):
    """A run sets the global seed. With 0, tf.data's shuffle rejects a computed seed."""
    import keras

    config = write_shards(tmp_path, count=9)
    orders = []
    for seed in (0, 7):
        keras.utils.set_random_seed(seed)
        split = open_source(config.data).train
        orders.append([int(key["index"]) for key in split.keys(seed=3).take(18)])
    assert orders[0] == orders[1]
    assert sorted(orders[0][:9]) == sorted(orders[0][9:]) == list(range(9)) and orders[0][:9] != orders[0][9:]

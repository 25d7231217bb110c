"""Data that is wrong is used rightly, or counted and named."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from pf_keras.config import Config
from pf_keras.data.bad import bad_images, naming_bad_images, open_readable
from pf_keras.data.folder import open_folder
from pf_keras.data.pipeline import evaluation_batches, training_batches
from pf_keras.data.sources import Source, open_source
from pf_keras.errors import UserError
from pf_keras.training.workdir import Workdir
from tests.data import images_made as made

KINDS = {
    "truncated.jpg": lambda: made.jpeg()[:-600],
    "empty.png": lambda: b"",
    "page.jpg": lambda: made.HTML,
    "bomb.png": made.png_bomb,
}


@pytest.fixture
def folder(tmp_path):
    """A train and a val folder of two classes, 12 good images each."""
    for split in ("train", "val"):
        for number in range(12):
            place = tmp_path / "images" / split / f"class{number % 2}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"good{number:02d}.jpg").write_bytes(made.encoded(made.pixels(seed=number), "JPEG"))
    return tmp_path / "images"


def config_of(folder, share=0.0):
    size = {"model.image_size": "16", "model.grid": "4", "target.size": "2", "augment.jitter_size": "0"}
    return Config().override({"data.source": f"folder:{folder}", "data.max_bad_fraction": str(share), **size})


def spoil(folder):
    for name, content in KINDS.items():
        (folder / "train" / "class1" / name).write_bytes(content())


def read_all(source, config):
    with naming_bad_images(source):
        return [np.asarray(b["image"]) for split in (source.train, source.validation)
                for b in evaluation_batches(split, config, 4)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_image_is_an_error_that_names_it(folder, kind):
    (folder / "train" / "class1" / kind).write_bytes(KINDS[kind]())
    config = config_of(folder)
    with pytest.raises(UserError, match=f"every image to be readable, received class1/{kind}: [^\n]*$"):
        read_all(open_source(config.data), config)


def test_bad_images_are_left_out_by_name_and_remembered(folder, tmp_path):
    spoil(folder)
    config, workdir = config_of(folder, 0.2), Workdir(tmp_path / "run")
    source, bad = open_readable(config.data, workdir)
    assert sorted(image["name"] for image in bad) == sorted(f"class1/{name}" for name in KINDS)
    assert (source.train.size, source.validation.size) == (12, 12)
    assert all(name.startswith(f"class{label}/good") for name, label in zip(source.train.names, source.train.labels))  # noqa: B905
    assert sum(len(batch) for batch in read_all(source, config)) == 24

    workdir.start("pretrain", config)
    workdir.write_data(source.splits(), bad, config.data)
    os.remove(folder / "train" / "class1" / "page.jpg")
    again, remembered = open_readable(config_of(folder, 0.2).data, workdir)
    assert remembered == bad and again.train.names == source.train.names
    assert json.loads(workdir.bad_file.read_text().splitlines()[0]).keys() == {"split", "name", "reason"}


def test_a_run_that_found_none_need_not_look_again(folder, tmp_path, monkeypatch):
    config, workdir = config_of(folder, 0.2), Workdir(tmp_path / "run")
    workdir.start("pretrain", config)
    source, bad = open_readable(config.data, workdir)
    assert bad == []
    workdir.write_data(source.splits(), bad, config.data)
    monkeypatch.setattr("pf_keras.data.bad.bad_images", lambda *_: pytest.fail("it looked again"))
    assert open_readable(config.data, workdir)[1] == []


def test_a_run_that_leaves_none_out_keeps_no_list_and_may_forgive_some_later(folder, tmp_path):
    config, workdir = config_of(folder), Workdir(tmp_path / "run")
    workdir.start("pretrain", config)
    workdir.write_data({}, open_readable(config.data, workdir)[1], config.data)
    spoil(folder)
    forgiving = config_of(folder, 0.2)
    assert len(open_readable(forgiving.data, workdir)[1]) == len(KINDS)


def test_too_many_bad_images_are_an_error_that_counts_them(folder, tmp_path):
    spoil(folder)
    config = config_of(folder, 0.1)
    with pytest.raises(UserError, match=r"max_bad_fraction=0.1 of 28 images .* received 4 \(class1/bomb.png: .*; \.\.\.\)"):
        open_readable(config.data, Workdir(tmp_path / "run"))


def test_a_file_removed_while_it_is_read_is_named(folder):
    config = config_of(folder)
    source = open_source(config.data)
    batches = iter(training_batches(source.train, config, 4, {"n": (1,)}))
    next(batches)
    os.remove(folder / "train" / "class0" / "good04.jpg")
    with pytest.raises(UserError, match="received class0/good04.jpg: .*No such file"), naming_bad_images(source):
        for _ in range(20):
            next(batches)


def test_a_file_of_a_name_that_is_no_text_is_named_too(folder):
    place = os.path.join(os.fsencode(folder), b"train", b"class0")
    os.rename(os.path.join(place, b"good04.jpg"), os.path.join(place, b"caf\xe9.jpg"))
    config = config_of(folder)
    source = open_source(config.data)
    os.remove(os.path.join(place, b"caf\xe9.jpg"))
    with pytest.raises(UserError, match=r"received class0/caf\\xe9.jpg: .*No such file"):
        read_all(source, config)


def test_a_file_that_is_back_when_it_is_looked_for(folder):
    config = config_of(folder)
    source = open_source(config.data)
    file = folder / "train" / "class0" / "good00.jpg"
    content = file.read_bytes()
    with pytest.raises(UserError, match="one that is so now and was not before"), naming_bad_images(source):
        file.unlink()
        try:
            list(evaluation_batches(source.train, config, 4))
        finally:
            file.write_bytes(content)


def test_a_label_that_is_no_class_is_an_error_and_never_a_target(folder):
    config = config_of(folder)
    source = open_source(config.data)
    source.train.labels[3] = 2
    with pytest.raises(UserError, match="received class0/good06.jpg: its label 2 is none of 2 classes"):
        with naming_bad_images(source):
            for _, _ in training_batches(source.train, config, 4, {"n": (1,)}, classes=2).take(6):
                pass
    assert [name for name, _ in bad_images(source.train, 2)] == ["class0/good06.jpg"]


def test_errors_that_are_not_the_datas_pass():
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError), naming_bad_images(Source(None, None)):
        tf.reshape(tf.zeros(3), (2,))


FIELDS = {"height": 40, "width": 60, "channels": 3, "colorspace": "RGB", "format": "JPEG", "filename": ""}


def write_shards(folder, change=None, label=lambda number: 1 + number % 2, count=6):
    """A train and a validation shard of some records, perhaps each changed; returns the config that reads them."""
    from tfrecords import records, schema

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
def test_damaged_records(tmp_path, damage):
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
        with naming_bad_images(source):
            for _ in training_batches(source.train, config, 2, {"n": (1,)}, classes=2).take(9):
                pass
    assert "\n" not in str(error.value)
    said = {"other keys": "is required but could not be found: ", "no example": "record 4: not a tf.train.Example: "}
    assert said.get(damage, "") in str(error.value)


def test_what_follows_a_broken_record_cannot_be_left_out(tmp_path):
    config = write_shards(tmp_path / "shards").override({"data.max_bad_fraction": "0.9"})
    flip_a_bit(tmp_path / "shards" / "train-00000-of-00001", 7 / 12)  # in the middle of record 3, not in its length
    with pytest.raises(UserError, match="what follows .*train-00000-of-00001 record 2: .*write that file anew"):
        open_readable(config.data, Workdir(tmp_path / "run"))


def test_bad_records_are_known_again_by_another_spelling_of_their_place(tmp_path):
    config = write_shards(tmp_path / "shards", renamed).override({"data.max_bad_fraction": "0.2"})
    workdir = Workdir(tmp_path / "run")
    source, bad = open_readable(config.data, workdir)
    assert source.train.size == source.validation.size == 5 and len(bad) == 2
    workdir.start("pretrain", config)
    workdir.write_data(source.splits(), bad, config.data)
    (tmp_path / "link").symlink_to(tmp_path / "shards")
    linked = config.override({"data.source": f"tfrecord:{tmp_path / 'link'}"})
    again, _ = open_readable(linked.data, workdir)
    assert again.train.size == 5
    assert len(read_all(again, linked)) == 4  # batches of 4, two of each split


@pytest.fixture
def run_on_one_folder(folder, tmp_path):
    """A run on images without a split of their own, of which a few are bad, and its config."""
    spoil(folder)
    config, workdir = config_of(folder / "train", 0.5).override({"data.holdout": "0.25"}), Workdir(tmp_path / "run")
    source, bad = open_readable(config.data, workdir)
    workdir.start("pretrain", config)
    workdir.write_data(source.splits(), bad, config.data)
    return config, workdir, source


def test_data_that_were_moved_are_not_scored_whole(run_on_one_folder, folder, tmp_path, capsys):
    config, workdir, source = run_on_one_folder
    shutil.copytree(folder / "train", tmp_path / "disk" / "photos")
    moved = config.override({"data.source": f"folder:{tmp_path / 'disk' / 'photos'}"})
    again, bad = open_readable(moved.data, workdir, whole=True)
    assert len(bad) == len(KINDS) and again.train is not again.validation
    assert again.validation.names == source.validation.names and again.train.names == source.train.names
    assert f"holds the data of {workdir.path}, which were in {config.data.source}" in capsys.readouterr().err
    workdir.start("pretrain", moved, splits=again.splits())  # and the run goes on there
    assert workdir.config().data.source == moved.data.source


def test_other_data_are_scored_whole_and_no_run_goes_on_with_them(run_on_one_folder, folder, tmp_path, capsys):
    config, workdir, source = run_on_one_folder
    shutil.copytree(folder / "train", tmp_path / "others")
    (tmp_path / "others" / "class0" / "good00.jpg").rename(tmp_path / "others" / "class0" / "another.jpg")
    other = config.override({"data.source": f"folder:{tmp_path / 'others'}"})
    whole, _ = open_readable(other.data, workdir, whole=True)
    assert whole.validation.size == 12 and whole.train is whole.validation
    said = capsys.readouterr().err
    assert "holds the data" not in said and "4 of 16 images cannot be read" in said
    with pytest.raises(UserError, match="data.source: .*/train -> .*/others"):
        workdir.start("pretrain", other, splits=open_readable(other.data, workdir)[0].splits())


def test_forgiving_bad_images_later_is_no_change_of_the_data(folder, tmp_path, capsys):
    config, workdir = config_of(folder), Workdir(tmp_path / "run")
    spoil(folder)
    source, bad = open_readable(config.data, workdir)
    workdir.start("pretrain", config)
    workdir.write_data(source.splits(), bad, config.data)
    for forgiving in (config_of(folder, 0.2), config_of(folder, 0.3)):
        source, bad = open_readable(forgiving.data, workdir)
        workdir.write_data(source.splits(), bad, forgiving.data)
        assert len(bad) == len(KINDS) and "not those" not in capsys.readouterr().err


def test_a_list_of_bad_records_is_of_these_records_alone(tmp_path, monkeypatch, capsys):
    """Of shards written anew a place may hold another image: what was bad there is looked for again."""

    def manifest(_):
        digests = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in (tmp_path / "shards").iterdir()}
        return {"classes": [], "shards": [{"file": name, "records": 6, "sha256": d} for name, d in digests.items()]}

    def place_2(number, example):
        return example.replace(b"image/encoded", b"image/renamed") if number == 2 else example

    monkeypatch.setattr("pf_keras.data.tfrecord.read_manifest", manifest)
    config = write_shards(tmp_path / "shards", renamed).override({"data.max_bad_fraction": "0.2"})
    workdir = Workdir(tmp_path / "run")
    source, bad = open_readable(config.data, workdir)
    workdir.start("pretrain", config)
    workdir.write_data(source.splits(), bad, config.data)
    assert open_readable(config.data, workdir)[1] == bad and "not those" not in capsys.readouterr().err
    write_shards(tmp_path / "shards", place_2)
    source, bad = open_readable(config.data, workdir)
    assert [image["name"].rpartition(" ")[2] for image in bad] == ["2", "2"]
    assert "the data for train are not those" in capsys.readouterr().err
    assert 2 not in source.train.wanted and 4 in source.train.wanted


def test_a_run_whose_data_changed_is_told_each_time_but_looks_through_them_once(folder, tmp_path, monkeypatch, capsys):
    looked = []
    monkeypatch.setattr("pf_keras.data.bad.bad_images", lambda *split: looked.append(split) or bad_images(*split))
    config, workdir = config_of(folder), Workdir(tmp_path / "run")
    source, bad = open_readable(config.data, workdir)
    workdir.start("pretrain", config)
    workdir.write_data(source.splits(), bad, config.data)
    (folder / "train" / "class0" / "new.jpg").write_bytes(made.jpeg())
    spoil(folder)
    forgiving = config_of(folder, 0.2)
    for _ in range(3):
        source, bad = open_readable(forgiving.data, workdir)
        workdir.write_data(source.splits(), bad, forgiving.data)
        said = capsys.readouterr().err
        assert "the data for train are not those with which this run began, 12 images then and 13 now" in said
        assert said.count("are left out") == 1 and len(looked) == 2  # both splits, once
    for name in KINDS:
        os.remove(folder / "train" / "class1" / name)  # as the error says
    again, _ = open_readable(config_of(folder, 0.01).data, workdir)
    assert again.train.names == source.train.names and len(looked) == 2


def test_a_process_that_trains_with_others_leaves_out_what_they_do(folder, tmp_path):
    from pf_keras.training.follower import follower_workdir

    spoil(folder)
    config, workdir = config_of(folder, 0.2), Workdir(tmp_path / "run")
    source, bad = open_readable(config.data, workdir)
    workdir.start("pretrain", config)
    workdir.write_data(source.splits(), bad, config.data)
    (folder / "train" / "class1" / "good01.jpg").write_bytes(b"")
    (folder / "train" / "class1" / "page.jpg").write_bytes(made.jpeg())
    (folder / "train" / "class0" / "new.jpg").write_bytes(made.jpeg())
    chief, follower = (open_readable(config.data, w)[0] for w in (workdir, follower_workdir(workdir.path)))
    assert chief.train.names == follower.train.names and "class1/page.jpg" in chief.train.names


def test_data_that_changed_since_the_run_began_are_told_of(tmp_path, capsys):
    for number in range(40):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(made.jpeg())
    config, workdir = config_of(tmp_path / "photos"), Workdir(tmp_path / "run")
    source, bad = open_readable(config.data, workdir)
    workdir.start("pretrain", config)
    workdir.write_data(source.splits(), bad, config.data)
    open_readable(config.data, workdir)
    assert "not those" not in capsys.readouterr().err
    os.remove(tmp_path / "photos" / source.validation.names[0])
    open_readable(config.data, workdir)
    said = capsys.readouterr().err
    assert f"the data for train are not those with which this run began, {source.train.size} images then" in said
    assert "the data for validation are not those" in said


def test_folder_names_of_any_bytes_and_things_that_are_no_files(tmp_path, capsys):
    names = [b"caf\xe9.jpg", "naïve.jpg".encode(), b"two\nlines.jpg"]
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(made.jpeg())
    os.mkfifo(tmp_path / "pipe.jpg")  # to read it would wait for ever
    os.symlink(tmp_path, tmp_path / "loop")
    os.symlink(tmp_path / "nowhere", tmp_path / "broken.jpg")
    config = config_of(tmp_path)
    source = Source(*open_folder(str(tmp_path), config.data))
    assert source.train.size + source.validation.size == 3
    assert "3 others are not read" in capsys.readouterr().err
    read = np.concatenate(read_all(source, config))
    assert len(read) >= 3 and read.any((1, 2, 3)).sum() == 3  # what fills up a batch is black


@pytest.mark.parametrize("count", [2_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_mutated_records_parse_or_raise(count):
    """In a process of its own, so that a crash of native code is seen."""
    command = [sys.executable, "-m", "tests.data.fuzz", "records", str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)
    assert done.stdout.startswith(f"{count} inputs")


def test_records_are_shuffled_under_a_global_seed_of_0_as_under_any(tmp_path):
    """As runs set it: shuffling by a computed seed used to fail then."""
    import keras

    config = write_shards(tmp_path, count=9)
    orders = []
    for seed in (0, 7):
        keras.utils.set_random_seed(seed)
        split = open_source(config.data).train
        orders.append([int(key["index"]) for key in split.keys(seed=3).take(18)])
    assert orders[0] == orders[1]
    assert sorted(orders[0][:9]) == sorted(orders[0][9:]) == list(range(9)) and orders[0][:9] != orders[0][9:]

"""A run recognises its own data by names and sizes, wherever they are, and leaves out the same corrupt images each time."""

import json

import pytest
from PIL import Image, ImageOps

from pf_keras.config import Config
from pf_keras.errors import UserError
from pf_keras.training.data_record import open_other_data, open_run_data, same_source
from pf_keras.training.identity import RunIdentity, start_run
from pf_keras.training.workdir import Workdir, open_workdir
from tests.data import images_made as made


@pytest.fixture
def photos(tmp_path):
    return made.photos(tmp_path / "photos")


def config_of(folder, max_bad_fraction=0.0):
    return Config().override({"data.source": f"folder:{folder}", "data.max_bad_fraction": str(max_bad_fraction)})


def begin(path, config):
    """Start a run as a task does. Returns its workdir and data."""
    workdir = Workdir(path)
    data = open_run_data(workdir, config.data)
    start_run(workdir, RunIdentity("pretrain", config), data)
    return workdir, data


def names_of(data):
    return {name: split.names for name, split in data.source.splits().items()}


def no_search(monkeypatch):
    monkeypatch.setattr("pf_keras.training.data_record.find_corrupt", lambda *_: pytest.fail("it reads all images again"))


def test_list_of_corrupt_images_is_reused_on_resume(photos, tmp_path, monkeypatch):
    made.add_corrupt(photos / "train" / "class1")
    config = config_of(photos, 0.2)
    workdir, data = begin(tmp_path / "run", config)
    assert sorted(image["name"] for image in data.corrupt) == sorted(f"class1/{name}" for name in made.CORRUPT)
    lines = workdir.corrupt_file.read_text().splitlines()
    assert json.loads(lines[0]).keys() == {"split", "name", "reason"} and len(lines) == len(made.CORRUPT)
    no_search(monkeypatch)
    resumed = begin(tmp_path / "run", config)[1]
    assert resumed.corrupt == data.corrupt and names_of(resumed) == names_of(data)


def test_run_without_corrupt_images_reads_them_all_only_once(photos, tmp_path, monkeypatch):
    config = config_of(photos, 0.2)
    assert begin(tmp_path / "run", config)[1].corrupt == []
    no_search(monkeypatch)
    assert begin(tmp_path / "run", config)[1].corrupt == []


def test_corrupt_images_may_be_left_out_later(photos, tmp_path, capsys):
    made.add_corrupt(photos / "train" / "class1")
    workdir, data = begin(tmp_path / "run", config_of(photos))
    assert data.corrupt == [] and not workdir.corrupt_file.exists()
    for fraction in (0.2, 0.3):
        assert len(begin(tmp_path / "run", config_of(photos, fraction))[1].corrupt) == len(made.CORRUPT)
    assert "warning" not in capsys.readouterr().err


def test_too_many_corrupt_images_are_refused_on_resume_too(photos, tmp_path):
    made.add_corrupt(photos / "train" / "class1")
    begin(tmp_path / "run", config_of(photos, 0.2))
    with pytest.raises(UserError, match="4 of 28 images are corrupt, more than data.max_bad_fraction=0.1 allows"):
        begin(tmp_path / "run", config_of(photos, 0.1))


@pytest.fixture
def folder_run(photos, tmp_path):
    """A run on a folder without a validation split and with a few corrupt images: its config, workdir and data."""
    folder = photos / "train"
    made.add_corrupt(folder / "class1")
    config = config_of(folder, 0.5).override({"data.holdout": "0.25"})
    return config, *begin(tmp_path / "run", config)


def test_moved_data_are_accepted(folder_run, photos, tmp_path, capsys):
    config, workdir, data = folder_run
    (tmp_path / "disk").mkdir()
    moved = config.override({"data.source": f"folder:{(photos / 'train').rename(tmp_path / 'disk' / 'photos')}"})
    capsys.readouterr()
    _, again = begin(workdir.path, moved)
    assert names_of(again) == names_of(data) and again.corrupt == data.corrupt
    assert "warning" not in capsys.readouterr().err
    assert json.loads(workdir.config_file.read_text())["config"]["data"]["source"] == moved.data.source


def test_another_spelling_of_the_path_is_accepted(folder_run, photos, tmp_path):
    config, workdir, data = folder_run
    (tmp_path / "link").symlink_to(photos / "train")
    for place in (f"{photos}/train/", f"{photos}/val/../train", tmp_path / "link"):
        again = begin(workdir.path, config.override({"data.source": f"folder:{place}"}))[1]
        assert names_of(again) == names_of(data)


def test_inverted_copies_with_the_same_names_are_refused(folder_run, photos, tmp_path):
    config, workdir, data = folder_run
    for file in sorted((photos / "train").glob("*/good*.jpg")):
        copy = tmp_path / "inverted" / file.parent.name / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        ImageOps.invert(Image.open(file)).save(copy)
    made.add_corrupt(tmp_path / "inverted" / "class1")
    other = config.override({"data.source": f"folder:{tmp_path / 'inverted'}"})
    with pytest.raises(UserError, match=f"folder:{tmp_path}/inverted does not hold the data of the run in {workdir.path}"):
        begin(workdir.path, other)


def test_inverted_copies_of_the_same_sizes_are_refused(tmp_path):
    """Bitmaps are as long as their inverted copies."""
    for i in range(12):
        image = Image.new("RGB", (20, 20), (20 * i, 0, 0))
        for place, copy in (("own", image), ("inverted", ImageOps.invert(image))):
            (tmp_path / place).mkdir(exist_ok=True)
            copy.save(tmp_path / place / f"{i}.bmp")
    config = config_of(tmp_path / "own")
    workdir, _ = begin(tmp_path / "run", config)
    with pytest.raises(UserError, match="does not hold the data of the run"):
        begin(workdir.path, config_of(tmp_path / "inverted"))


def test_data_with_one_other_name_are_refused(folder_run, photos, tmp_path):
    config, workdir, data = folder_run
    copy = (photos / "train").rename(tmp_path / "copy")
    (copy / "class0" / "good00.jpg").rename(copy / "class0" / "another.jpg")
    with pytest.raises(UserError, match="with other names, sizes or content"):
        begin(workdir.path, config.override({"data.source": f"folder:{copy}"}))


def test_other_data_are_whole_and_without_their_own_corrupt_images(photos, capsys):
    made.add_corrupt(photos / "train" / "class1")
    data = open_other_data(config_of(photos / "train", 0.5).data, evaluation_only=True)
    assert data.source.train is data.source.validation and data.source.validation.size == 12
    assert len(data.corrupt) == len(made.CORRUPT) and "4 of 16 images are corrupt" in capsys.readouterr().err


def test_changed_data_at_the_same_place_are_reported_at_each_start(photos, tmp_path, capsys):
    config = config_of(photos / "train").override({"data.holdout": "0.25"})
    begin(tmp_path / "run", config)
    begin(tmp_path / "run", config)
    assert "warning" not in capsys.readouterr().err
    (photos / "train" / "class0" / "new.jpg").write_bytes(made.jpeg())
    for _ in range(2):
        begin(tmp_path / "run", config)
        said = capsys.readouterr().err
        assert f"the data in folder:{photos}/train changed since this run began (" in said
        assert "train: 8 images then, 9 now" in said


def test_records_are_recognised_in_another_folder(tmp_path, capsys):
    """A list of corrupt records has their shard and place, whatever folder the shards are in."""
    from tests.data.test_corrupt import renamed, write_shards

    config = write_shards(tmp_path / "shards", renamed).override({"data.max_bad_fraction": "0.2"})
    workdir, data = begin(tmp_path / "run", config)
    assert data.source.train.size == data.source.validation.size == 5 and len(data.corrupt) == 2
    (tmp_path / "shards").rename(tmp_path / "moved")
    moved = config.override({"data.source": f"tfrecord:{tmp_path / 'moved'}"})
    again = begin(workdir.path, moved)[1]
    assert again.source.train.wanted.tolist() == data.source.train.wanted.tolist() == [0, 1, 2, 3, 5]
    write_shards(tmp_path / "other", renamed, label=lambda number: 300)  # one byte more per record
    other = config.override({"data.source": f"tfrecord:{tmp_path / 'other'}"})
    with pytest.raises(UserError, match="does not hold the data of the run"):
        begin(workdir.path, other)


def test_follower_leaves_out_what_the_run_leaves_out(photos, tmp_path, monkeypatch):
    made.add_corrupt(photos / "train" / "class1")
    config = config_of(photos, 0.2)
    workdir, data = begin(tmp_path / "run", config)
    no_search(monkeypatch)
    chief, follower = (open_run_data(w, config.data) for w in (workdir, open_workdir(workdir.path, chief=False)))
    assert names_of(chief) == names_of(follower) == names_of(data)


def labels_of(data):
    return {name: split.labels.tolist() for name, split in data.source.splits().items()}


def test_first_label_that_a_run_found_is_used_for_other_data(tmp_path, capsys):
    """The other data lack the first class, so they alone would give another label."""
    from tests.data.test_corrupt import write_shards

    own = write_shards(tmp_path / "own", label=lambda number: number % 3).override({"data.first_label": "-1"})
    other = write_shards(tmp_path / "other", label=lambda number: 1 + number % 2).override({"data.first_label": "-1"})
    workdir, data = Workdir(tmp_path / "run"), open_run_data(Workdir(tmp_path / "run"), own.data)
    assert labels_of(data)["train"] == [0, 1, 2] * 2
    start_run(workdir, RunIdentity("finetune", own), data)
    assert json.loads(workdir.data_file.read_text())["first_label"] == 0
    assert labels_of(open_other_data(other.data))["validation"] == [0, 1] * 3
    capsys.readouterr()
    assert labels_of(open_other_data(other.data, workdir=workdir))["validation"] == [1, 2] * 3
    assert labels_of(open_run_data(workdir, own.data))["train"] == [0, 1, 2] * 2
    said = capsys.readouterr().err
    assert said.count("labels begin at 0, as in the data of this run") == 2 and "seem" not in said
    told = other.override({"data.first_label": "1"})
    assert labels_of(open_other_data(told.data, workdir=workdir))["validation"] == [0, 1] * 3


@pytest.mark.parametrize("reads_labels", [True, False])
def test_first_label_is_recorded_where_labels_are_read(tmp_path, reads_labels):
    from tests.data.test_corrupt import write_shards

    config = write_shards(tmp_path / "shards")  # with data.first_label=1
    if not reads_labels:
        config = config.override({"data.first_label": "-1"})
    workdir = Workdir(tmp_path / "run")
    data = open_run_data(workdir, config.data, labels=reads_labels)
    assert set(labels_of(data)["train"]) == ({0, 1} if reads_labels else {-1})
    start_run(workdir, RunIdentity("pretrain", config), data)
    assert json.loads(workdir.data_file.read_text()).get("first_label") == (1 if reads_labels else None)


def test_classes_of_folders_are_numbered_from_0_for_other_data(photos, tmp_path):
    """Shards of class 1 alone would seem to begin at 1."""
    from tests.data.test_corrupt import write_shards

    workdir, _ = begin(tmp_path / "run", config_of(photos))
    shards = write_shards(tmp_path / "shards", label=lambda number: 1).override({"data.first_label": "-1"})
    assert labels_of(open_other_data(shards.data, workdir=workdir))["validation"] == [1] * 6


def test_list_of_corrupt_images_is_made_anew_when_the_data_change(photos, tmp_path, capsys):
    """An image that went bad later, and one that was repaired."""
    made.add_corrupt(photos / "train" / "class1")
    config = config_of(photos, 0.5)
    workdir, data = begin(tmp_path / "run", config)
    (photos / "train" / "class0" / "good00.jpg").write_bytes(b"no image any more")
    repaired = next(iter(made.CORRUPT))
    (photos / "train" / "class1" / repaired).write_bytes(made.jpeg())
    again = begin(workdir.path, config)[1]
    names = {image["name"] for image in again.corrupt}
    assert "class0/good00.jpg" in names and f"class1/{repaired}" not in names
    assert "changed since this run began" in capsys.readouterr().err
    assert [json.loads(line) for line in workdir.corrupt_file.read_text().splitlines()] == again.corrupt


def test_changed_number_of_images_of_a_run_of_version_0_1_is_reported(photos, tmp_path, capsys):
    config = config_of(photos)
    workdir, data = begin(tmp_path / "run", config)
    began = {name: {"images": split["images"], "fingerprint": "of names"} for name, split in data.digests.items()}
    workdir.write_json(workdir.data_file, {"began": began})
    begin(workdir.path, config)
    assert "warning" not in capsys.readouterr().err
    workdir.write_json(workdir.data_file, {"began": began})
    (photos / "train" / "class0" / "new.jpg").write_bytes(made.jpeg())
    begin(workdir.path, config)
    assert "changed since this run began (train: 12 images then, 13 now)" in capsys.readouterr().err
    with pytest.raises(UserError, match="made by version 0.1"):
        workdir.write_json(workdir.data_file, {"began": began})
        begin(workdir.path, config_of(photos.rename(tmp_path / "moved")))


def test_sources_at_the_same_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to("photos")
    for one, other in (("digits", "digits"), ("folder:photos", f"folder:{tmp_path}/photos/"), ("folder:link", "folder:photos"),
                       ("tfrecord:gs://b/x/", "tfrecord:gs://b/x")):
        assert same_source(one, other)
    for one, other in (("digits", "folder:digits"), ("folder:photos", "tfrecord:photos"), ("tfds:a", "tfds:b")):
        assert not same_source(one, other)


def test_a_start_that_held_out_other_images_of_the_same_data_is_a_warning(digits_folder, tmp_path, capsys):
    config = Config().override({"data.source": f"folder:{digits_folder}"})
    begin(tmp_path / "first", config)
    _, same = begin(tmp_path / "same", config)
    same.warn_of_hold_out(str(tmp_path / "first"))
    assert "warning" not in capsys.readouterr().err
    _, other = begin(tmp_path / "other", config.override({"data.holdout": "0.3"}))
    other.warn_of_hold_out(str(tmp_path / "first"))
    assert "first seems to have the same data, but held out other images" in capsys.readouterr().err


@pytest.fixture
def digits_folder(tmp_path):
    """Two classes of 20 images, without a validation split."""
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "data" / label / f"{number}.png")
    return tmp_path / "data"

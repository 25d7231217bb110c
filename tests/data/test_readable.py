"""`predict` and `embed` read what can be read, in order, and say why the rest cannot."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from pf_keras.config import Config
from pf_keras.data.pipeline import evaluation_batches
from pf_keras.data.readable import PADDING, photographs, pictures, readable_batches, unreadable
from pf_keras.data.reader import DEFAULTS
from pf_keras.data.sources import open_source
from tests.data import images_made as made

CONFIG = Config().override(
    {"model.image_size": "16", "model.grid": "4", "target.size": "2", "augment.jitter_size": "0", "data.eval_crop": "1.0"}
)


def open_split(source):
    return open_source(CONFIG.override({"data.source": source}).data).train


def indices_of(split, batch=5, **options):
    batches = [x["index"].numpy() for x in readable_batches(split, CONFIG, batch, **options)]
    assert all(len(x) == batch for x in batches)
    found = np.concatenate(batches) if batches else np.zeros(0, "int64")
    read = int((found != PADDING).sum())
    assert (found[read:] == PADDING).all()
    return found[:read]


def test_batches_are_those_of_an_evaluation():
    split = open_source(CONFIG.override({"data.source": "digits"}).data).validation.sample(12)
    batches = readable_batches(split, CONFIG, 5).as_numpy_iterator()
    for found, expected in zip(batches, evaluation_batches(split, CONFIG, 5).as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(found["image"], expected["image"])
    assert indices_of(split).tolist() == list(range(12))
    assert indices_of(split, after=6).tolist() == list(range(7, 12))


def test_corrupt_images_do_not_stop_the_others(tmp_path):
    folder = made.photos(tmp_path)
    made.add_corrupt(folder / "train" / "class1")
    split = open_split(f"folder:{folder}")
    read = indices_of(split)
    reasons = {split.name_of(index): reason for index, reason in unreadable(split, read, DEFAULTS)}
    assert set(reasons) == {f"class1/{name}" for name in made.CORRUPT} and len(read) == 12
    assert "HTML" in reasons["class1/page.jpg"] and all(reasons.values())


def test_image_that_can_be_read_again_has_another_reason(tmp_path):
    split = open_split(f"folder:{made.photos(tmp_path)}")
    (index, reason), = unreadable(split, np.delete(split.indices, 3), DEFAULTS)
    assert index == 3 and "run the same command again" in reason
    assert unreadable(split, np.delete(split.indices, 3), DEFAULTS, "because") == [(3, "because")]


def test_damaged_record_ends_only_its_own_file(tmp_path):
    command = [sys.executable, "-m", "tfrecords.build", "--source=folder", f"--input={made.photos(tmp_path / 'photos')}"]
    subprocess.run([*command, f"--output={tmp_path / 'records'}", "--train_shards=3"], check=True, capture_output=True)
    damaged = sorted((tmp_path / "records").glob("train-*"))[1]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 255
    damaged.write_bytes(content)
    split = open_split(f"tfrecord:{tmp_path / 'records'}")
    read, missing = indices_of(split), unreadable(split, indices_of(split), DEFAULTS)
    assert split.size == len(read) + len(missing) == 12 and missing
    assert {split.name_of(index).split(" record ")[0] for index, _ in missing} == {str(damaged)}
    assert {reason for _, reason in missing} == {"its file is damaged here or before it"}
    assert indices_of(split, after=int(read[4])).tolist() == read[5:].tolist()
    last = int(read[-1])
    assert pictures(split, [last], CONFIG, 8)[last].shape == (8, 8, 3)  # behind the damage


def test_pictures_are_of_the_images_that_were_asked_for(tmp_path):
    split = open_split(f"folder:{made.photos(tmp_path)}")
    found = pictures(split, [7, 2, 7], CONFIG, 16)
    images = np.concatenate([x["image"] for x in evaluation_batches(split, CONFIG, 6).as_numpy_iterator()])
    assert set(found) == {2, 7}
    for index, picture in found.items():
        np.testing.assert_array_equal(picture, images[index])
    assert photographs(split, [2], CONFIG)[2].shape == (160, 160, 3)
    assert pictures(split, [], CONFIG, 16) == {}


@pytest.mark.parametrize("replicas", [1, 2])
def test_replicas_get_consecutive_parts(replicas):
    split = open_source(CONFIG.override({"data.source": "digits"}).data).validation.sample(6)
    batches = readable_batches(split, CONFIG, 4, replicas=replicas)
    assert isinstance(batches, tf.data.Dataset)
    found = [x["index"].numpy().tolist() for x in batches]
    assert sum(found, []) == [*range(6), PADDING, PADDING] and {len(part) for part in found} == {4 // replicas}

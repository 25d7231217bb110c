"""The label of the first class belongs to the run: other records are read with it, even where they lack that class."""

import json

import pytest
import tensorflow as tf
from commands import TINY, command, refused
from PIL import Image

from pf_keras.data.record_schema import make_example
from tests.data import images_made as made

GREY = (0, 120, 240)  # of the images of each class
SMALL = (*TINY, "--config.target.size=2", "--config.augment.jitter_size=0", "--label_fraction=1")
FIELDS = {"height": 24, "width": 24, "channels": 3, "colorspace": "RGB", "format": "JPEG"}


def write_shard(folder, split, labels, first):
    """Write one shard of a split, with an image for each of the labels, which are stored from `first` on."""
    folder.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / f"{split}-00000-of-00001")) as writer:
        for i, label in enumerate(labels):
            image = made.encoded(Image.new("RGB", (24, 24), (GREY[label] + i % 8,) * 3), "JPEG")
            writer.write(make_example(encoded=image, filename=f"{split}{i}.jpg", label=label + first, **FIELDS))


@pytest.mark.long
def test_other_records_without_the_first_class_are_scored_right(tmp_path):
    own, other, workdir = tmp_path / "own", tmp_path / "other", tmp_path / "run"
    write_shard(own, "train", [0, 1, 2] * 8, first=0)
    write_shard(own, "validation", [0, 1, 2] * 3, first=0)
    write_shard(other, "train", [1, 2] * 9, first=0)
    trained = command("--mode=finetune", "--init=scratch", f"--data=tfrecord:{own}", f"--workdir={workdir}", *SMALL,
                      "--config.finetune.epochs=20", "--config.finetune.batch=8",
                      "--config.finetune.learning_rate=3e-3")  # fmt: skip
    assert trained.code == 0 and "labels seem to begin at 0" in trained.err, trained.err
    data = json.loads((workdir / "data.json").read_text())
    assert data["first_label"] == 0 and list(data["splits"]) == ["train", "validation"]

    def evaluate(*flags):
        """The top-1 accuracy, the images of each class, and what the command prints."""
        done = command("--mode=evaluate", f"--workdir={workdir}", f"--data=tfrecord:{other}", *flags)
        assert done.code == 0, done.err
        lines = (workdir / "evaluate" / "classes.csv").read_text().splitlines()[1:]
        return done.result["top1"], [int(line.split(",")[1]) for line in lines], done.err

    *right, said = evaluate()
    assert right == [*evaluate("--config.data.first_label=0")[:2]] and right[0] > 0.9 and right[1] == [0, 9, 9]
    assert "labels begin at 0, as in the data of this run" in said and "seem" not in said

    # A run without the record finds the label in the other data and says so. Without class 0 it takes 1 for the first label.
    (workdir / "data.json").write_text(json.dumps({"splits": data["splits"]}))
    top1, images, said = evaluate()
    assert "labels seem to begin at 1" in said and images == [9, 9, 0] and top1 < 0.1


def test_label_below_the_first_is_named(tmp_path):
    for split in ("train", "validation"):
        write_shard(tmp_path / "own", split, [0, 1, 2], 0)
    line = refused("--mode=finetune", "--init=scratch", f"--data=tfrecord:{tmp_path / 'own'}", f"--workdir={tmp_path / 'run'}",
                   *SMALL, "--config.data.first_label=1")  # fmt: skip
    assert "train-00000-of-00001 record 0 has label 0, but the first class has label 1. Set data.first_label=0" in line

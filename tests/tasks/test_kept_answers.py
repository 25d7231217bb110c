"""Answers that a stopped command kept are used only for the same weights, images, labels and way of reading."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
from commands import refused
from PIL import Image
from tiny import randomize

from pf_keras.errors import UserError
from pf_keras.evaluation import any_images
from pf_keras.training.checkpoint import latest_checkpoint, save_checkpoint
from pf_keras.training.weights import load

BATCH, IMAGES = 4, 6


class Client(tf.Module):
    """Signed as an export is, but its answers depend on one number."""

    def __init__(self, number):
        super().__init__()
        self.number = tf.Variable(number)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "encoded")])
    def serve(self, encoded):
        return {"probabilities": tf.ones((tf.shape(encoded)[0], 10)) * self.number}


def write_export(folder, number):
    model = Client(number)
    tf.saved_model.save(model, str(folder / "saved_model"), {"serve_jpeg": model.serve})
    (folder / "classes.txt").write_text("".join(f"{digit}\n" for digit in range(10)))


def write_image(folder, number, seed):
    """An image whose file has the same size whatever is on it."""
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), "uint8")
    Image.fromarray(pixels).save(folder / f"{number}.bmp")


def write_labels(folder, last):
    labels = ["3", "7", "3", "7", "3", last]
    (folder / "list.csv").write_text("path,label\n" + "".join(f"{i}.bmp,{label}\n" for i, label in enumerate(labels)))


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(IMAGES):
        write_image(folder, number, number)
    write_labels(folder, "7")
    return folder


def change_checkpoint(workdir):
    """Other weights in a checkpoint of the same step and place."""
    found = latest_checkpoint(workdir / "checkpoints")
    save_checkpoint(workdir / "checkpoints", found.step, randomize(load(workdir)))
    assert latest_checkpoint(workdir / "checkpoints").path == found.path


def change_export(folder):
    """Other weights beside the same graph."""
    (folder / "other").mkdir()
    write_export(folder / "other", 0.2)
    shutil.rmtree(folder / "saved_model" / "variables")
    shutil.copytree(folder / "other" / "saved_model" / "variables", folder / "saved_model" / "variables")


@pytest.mark.parametrize("mode", ["predict", "embed", "export"])
def test_change_of_anything_discards_them(pretrained, finetuned, data, tmp_path, monkeypatch, mode):
    workdir, init = tmp_path / "run", []
    if mode == "export":
        (tmp_path / "export").mkdir()
        write_export(tmp_path / "export", 0.1)
        init = [f"--init={tmp_path / 'export'}"]
    else:
        run = finetuned if mode == "predict" else pretrained
        shutil.copytree(run.workdir, workdir, ignore=shutil.ignore_patterns("export", "evaluate", "predict", "embed"))
    command = [f"--mode={'embed' if mode == 'embed' else 'predict'}", f"--workdir={workdir}", f"--data=csv:{data}/list.csv"]
    kept = []

    def stop(saved, *rest):
        """Stands for a command that is stopped after its first batch."""
        kept.append(saved.kept)
        saved.append(np.zeros(BATCH, saved.kind))
        raise UserError("stopped")

    monkeypatch.setattr(any_images, "collect", stop)

    def answers_kept(*flags):
        """How many answers of earlier commands this one keeps."""
        assert "stopped" in refused(*command, *init, f"--config.run.eval_batch={BATCH}", *flags)
        return kept[-1]

    assert (answers_kept(), answers_kept()) == (0, BATCH)
    change_export(tmp_path / "export") if mode == "export" else change_checkpoint(workdir)
    assert answers_kept() == 0, "other weights"
    write_image(data, 2, seed=99)
    assert answers_kept() == 0, "other images"
    write_labels(data, "3")
    assert answers_kept() == 0, "other labels"
    assert answers_kept("--config.data.eval_crop=0.5") == 0, "another crop"

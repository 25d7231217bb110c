"""Workdirs, checkpoints and `.keras` files of version 0.1 still load and compute the same (tests/old_runs/record.py)."""

import importlib.util
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from commands import command, refused
from PIL import Image

import pf_keras

OLD = Path(__file__).parent / "old_runs" / "version_0.1"
OUTPUTS = np.load(OLD / "outputs.npz")
# float32 through some ten layers, on other processors and the other backend
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def inputs():
    spec = importlib.util.spec_from_file_location("record", OLD.parent / "record.py")
    record = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(record)
    return record.inputs()


def outputs(model):
    batch = inputs()
    if isinstance(model, pf_keras.models.Pretrainer):
        return keras.ops.convert_to_numpy(model(batch, training=False)["logits"])
    return keras.ops.convert_to_numpy(model(batch["image"], training=False))


@pytest.mark.parametrize("run", ["pretrain", "finetune"])
def test_an_old_keras_file_computes_the_same(run):
    np.testing.assert_allclose(outputs(keras.saving.load_model(OLD / run / "model.keras")), OUTPUTS[run], **CLOSE)


@pytest.mark.parametrize("run", ["pretrain", "finetune"])
def test_load_reads_an_old_workdir(run):
    np.testing.assert_allclose(outputs(pf_keras.load(OLD / run)), OUTPUTS[run], **CLOSE)


@pytest.fixture
def runs(tmp_path):
    shutil.copytree(OLD, tmp_path / "runs")
    return tmp_path / "runs"


def test_an_old_fine_tuning_evaluates_as_before(runs):
    done = command("--mode=evaluate", f"--workdir={runs / 'finetune'}")
    assert done.code == 0, done.err
    before = json.loads((runs / "finetune" / "result.json").read_text())
    assert {name: done.result[name] for name in ("top1", "top5", "images", "steps")} == {
        name: before[name] for name in ("top1", "top5", "images", "steps")
    }


def test_an_old_run_resumes_and_records_its_data_in_the_new_form(runs, monkeypatch):
    monkeypatch.chdir(runs.parent)
    finished = command("--mode=pretrain", f"--workdir={runs / 'pretrain'}")
    assert finished.code == 0 and "resuming from" in finished.err and finished.result["steps"] == 20, finished.err
    assert set(json.loads((runs / "pretrain" / "data.json").read_text())) == {"splits"}
    # From the old pre-training a new fine-tuning starts.
    tuned = command(
        "--mode=finetune", f"--init={runs / 'pretrain'}", f"--workdir={runs / 'new'}", "--label_fraction=0.1",
        "--config.finetune.epochs=1", "--config.finetune.batch=16",
    )  # fmt: skip
    assert tuned.code == 0 and "loaded the backbone" in tuned.err, tuned.err


def test_an_old_run_resumes_by_the_command_that_began_it(runs, monkeypatch):
    """The config file knows nothing of how the old version read images."""
    monkeypatch.chdir(runs.parent)
    content = json.loads((runs / "pretrain" / "config.json").read_text())["config"]
    (runs / "began.py").write_text(f"from pf_keras.config import Config\nconfig = Config.from_dict({content!r})\n")
    begun = ("--mode=pretrain", f"--config={runs / 'began.py'}", f"--workdir={runs / 'pretrain'}")
    assert command(*begun).result["steps"] == 20
    line = refused(*begun, "--config.data.exif=true")
    assert "data.exif: False -> True" in line and "background" not in line


def test_moved_data_of_an_old_run_are_refused(runs):
    photos = runs / "photos"
    (photos / "train" / "a").mkdir(parents=True)
    for number in range(3):
        Image.new("L", (8, 8), 50 * number).save(photos / "train" / "a" / f"{number}.png")
    done = command("--mode=evaluate", f"--workdir={runs / 'finetune'}", f"--config.data.source=folder:{photos}")
    assert done.code == 2 and "made by version 0.1" in done.err, done.err

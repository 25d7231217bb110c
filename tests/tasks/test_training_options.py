"""Options of a training on the command line: continuing from another run, parts of a batch, an average of the weights."""

import os
import shutil
import signal
import zipfile

import numpy as np
import pytest
from commands import TINY, command, refused, succeed

import pf_keras
from pf_keras.tasks.pretrain import warn_if_nothing_learned
from pf_keras.training.callbacks import Guard
from pf_keras.training.checkpoint import latest_checkpoint
from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.workdir import Workdir
from tests.data import images_made as made

SHORT = ("--config.pretrain.steps=2", "--config.pretrain.batch=8", "--config.run.eval_batch=8")


@pytest.mark.long
def test_pretraining_continues_from_another_with_other_data_and_settings(pretrained, tmp_path):
    start, run = f"--init={pretrained.workdir}", f"--workdir={tmp_path / 'run'}"
    still = ("--config.pretrain.steps=2", "--config.pretrain.learning_rate=1e-12", "--config.pretrain.warmup_steps=0",
             "--config.pretrain.batch=16", "--config.model.drop_path=0.5", "--config.data.crop_scale=(0.9,1)")  # fmt: skip
    done = command("--mode=pretrain", start, run, *still)
    assert done.code == 0, done.err
    assert "loaded the backbone and the decoder from" in done.err and "step-00000020" in done.err
    before, after = (pf_keras.load(path).trainable_variables for path in (pretrained.workdir, tmp_path / "run"))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=1e-6, err_msg=one.path)
    assert (done.result["init"], done.result["init_step"]) == (str(pretrained.workdir), 20)
    again = command("--mode=pretrain", start, run)  # takes the config of the workdir
    assert again.code == 0 and again.result == done.result and "loaded the backbone" not in again.err
    assert "init: " in refused("--mode=pretrain", run) and "-> scratch" in refused("--mode=pretrain", run)
    photos = made.photos(tmp_path / "photos")
    other = succeed("--mode=pretrain", start, f"--workdir={tmp_path / 'other'}", f"--data=folder:{photos}", *SHORT)
    assert other["init_step"] == 20


def test_a_start_that_does_not_fit_is_refused(pretrained, finetuned, tmp_path):
    new, start = ("--mode=pretrain", f"--workdir={tmp_path / 'run'}"), f"--init={pretrained.workdir}"
    for wrong, words in (
        ((f"--init={finetuned.workdir}",), "--mode=finetune"),
        (("--init=/no/such/run",), "There is no run in /no/such/run"),
        ((start, "--config.model.width=32"), "model.width: 16 -> 32"),
        ((start, "--config.model.decoder_width=16"), "model.decoder_width: 8 -> 16"),
        ((start, "--config.model.decode_position=additive"), "model.decode_position"),
        ((start, "--config.target.bits=3"), "target.bits: 2 -> 3"),
        (("--mode=pretrain", f"--workdir={pretrained.workdir}", start), "init: scratch -> "),
    ):
        assert words in refused(*new, *wrong)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("pretrain.accumulate=3", "pretrain.batch is 8, which pretrain.accumulate=3 does not divide evenly."),
        ("pretrain.accumulate=0", "pretrain.accumulate is 0. Use a number above 0"),
        ("pretrain.ema=1", "pretrain.ema is 1.0. Use a fraction in [0, 1)"),
        ("pretrain.learning_rate_per_256=-1", "pretrain.learning_rate_per_256 is -1.0. Use a number of 0 or more"),
        ("model.drop_path=1", "model.drop_path is 1.0. Use a fraction in [0, 1)"),
    ],
)
def test_invalid_training_options_are_refused(field, words, tmp_path):
    assert words in refused("--mode=pretrain", f"--workdir={tmp_path}", *TINY, *SHORT, f"--config.{field}")


@pytest.mark.long
def test_averaged_weights_are_scored_and_loaded(pretrained, tmp_path):
    """The average of weights that move by tens of percent is not the last weights."""
    flags = ("--mode=pretrain", *TINY, "--config.pretrain.batch=16", "--config.pretrain.steps=6",
             "--config.pretrain.warmup_steps=0", "--config.pretrain.learning_rate=0.01")  # fmt: skip
    plain = succeed(*flags, f"--workdir={tmp_path / 'plain'}")
    averaged = succeed(*flags, f"--workdir={tmp_path / 'ema'}", "--config.pretrain.ema=0.6", "--config.pretrain.accumulate=1")
    lines = [MetricsLog(Workdir(tmp_path / name)).lines()[-1]["loss"] for name in ("plain", "ema")]
    assert lines[0] == lines[1]  # the training is the same
    assert averaged["loss"] != plain["loss"]
    model, last = pf_keras.load(tmp_path / "ema"), pf_keras.load(tmp_path / "plain")
    resumed = pf_keras.load(tmp_path / "plain")
    latest_checkpoint(tmp_path / "ema" / "checkpoints").load_into(resumed, resume=True)
    gaps = [np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in zip(model.weights, last.weights, strict=True)]
    assert max(gaps) > 1e-3
    for one, other in zip(resumed.weights, last.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.long
def test_a_finetuning_with_all_options_resumes_with_the_same_numbers(pretrained, tmp_path, monkeypatch):
    flags = ("--mode=finetune", f"--init={pretrained.workdir}", "--label_fraction=0.1", "--config.finetune.epochs=2",
             "--config.finetune.batch=16", "--config.finetune.accumulate=4", "--config.finetune.ema=0.8",
             "--config.finetune.learning_rate_per_256=0.1", "--config.model.drop_path=0.2", "--config.finetune.mix=0.5",
             "--config.run.log_every=4")  # fmt: skip
    whole = succeed(*flags, f"--workdir={tmp_path / 'whole'}")
    end, stops = Guard.on_train_batch_end, [7, 12]

    def stopping(self, batch, logs=None):
        end(self, batch, logs)
        if self.step in stops:
            stops.remove(self.step)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Guard, "on_train_batch_end", stopping)
    for _ in range(2):
        assert command(*flags, f"--workdir={tmp_path / 'run'}").code == 128 + signal.SIGTERM
    resumed = succeed(*flags, f"--workdir={tmp_path / 'run'}")
    assert {**resumed, "images_per_second": 0} == {**whole, "images_per_second": 0}
    logged = [MetricsLog(Workdir(tmp_path / name)).lines() for name in ("whole", "run")]
    for lines in logged:
        assert max(line["learning_rate"] for line in lines) == pytest.approx(0.1 * 16 / 256, rel=0.1)
        for line in lines:
            del line["images_per_second"]
    assert logged[0] == logged[1]
    models = [pf_keras.load(tmp_path / name) for name in ("whole", "run")]
    for one, other in zip(models[0].weights, models[1].weights, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other), err_msg=one.path)
    assert succeed("--mode=evaluate", f"--workdir={tmp_path / 'run'}")["top1"] == whole["top1"]


def weights_of(*workdirs):
    """The trainable weights of the runs, one list for each."""
    return [[np.asarray(value) for value in pf_keras.load(workdir).trainable_variables] for workdir in workdirs]


@pytest.fixture(scope="module")
def averaged(pretrained, tmp_path_factory):
    """A pre-training with an average of its weights, which is in a file of its own."""
    workdir = tmp_path_factory.mktemp("averaged") / "run"
    succeed("--mode=pretrain", f"--workdir={workdir}", f"--init={pretrained.workdir}", *SHORT, "--config.pretrain.ema=0.5",
            "--config.pretrain.learning_rate=0.01", "--config.pretrain.warmup_steps=0")  # fmt: skip
    return workdir


STILL = ("--config.pretrain.steps=1", "--config.pretrain.batch=8", "--config.pretrain.learning_rate=1e-12",
         "--config.pretrain.warmup_steps=0", "--config.pretrain.ema=0")  # fmt: skip


@pytest.mark.parametrize("kind", ["model.weights.h5", "averaged.weights.h5", "copy.weights.h5", "saved.keras"])
def test_pretraining_continues_from_a_file_of_weights(averaged, tmp_path, kind):
    checkpoint, config = latest_checkpoint(averaged / "checkpoints").path, ()
    file, step = checkpoint / kind, 2
    if not file.exists():  # without its run beside it, the file does not tell the config
        file, step, config = tmp_path / kind, None, TINY
        if kind == "saved.keras":
            pf_keras.load(averaged).save(file)
        else:
            shutil.copy(checkpoint / "averaged.weights.h5", file)
    flags = ("--mode=pretrain", f"--workdir={tmp_path / 'run'}", f"--init={file}", *config, *STILL)
    done = command(*flags)
    assert done.code == 0, done.err
    assert f"loaded the backbone and the decoder from {file}" in done.err
    assert (done.result["init"], done.result["init_step"]) == (str(file), step)
    found, last = weights_of(tmp_path / "run", averaged)
    if kind == "model.weights.h5":
        model = pf_keras.load(averaged)
        latest_checkpoint(averaged / "checkpoints").load_into(model, resume=True)
        average, last = last, [np.asarray(value) for value in model.trainable_variables]
        assert max(np.abs(a - b).max() for a, b in zip(average, last, strict=True)) > 1e-3
    for one, other in zip(found, last, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    again = command(*flags)
    assert again.code == 0 and again.result == done.result and "loaded the backbone" not in again.err
    assert f"init: {file} -> scratch" in refused("--mode=pretrain", f"--workdir={tmp_path / 'run'}")


def test_a_file_of_other_weights_is_refused_with_the_difference(pretrained, finetuned, averaged, tmp_path):
    new = ("--mode=pretrain", f"--workdir={tmp_path / 'run'}", *TINY)
    inside = latest_checkpoint(pretrained.workdir / "checkpoints").path / "model.weights.h5"
    for name, source in (("copy", inside), ("fine", latest_checkpoint(finetuned.workdir / "checkpoints").path / inside.name)):
        shutil.copy(source, tmp_path / f"{name}.weights.h5")
    saved = {name: tmp_path / f"{name}.keras" for name in ("pre", "fine", "zip", "cut")}
    pf_keras.load(pretrained.workdir).save(saved["pre"])
    pf_keras.load(finetuned.workdir).save(saved["fine"])
    saved["cut"].write_bytes(saved["pre"].read_bytes()[:999])
    with zipfile.ZipFile(saved["zip"], "w") as archive:
        archive.writestr("other", "")
    (tmp_path / "cut.weights.h5").write_bytes(inside.read_bytes()[:999])
    (tmp_path / "model.h5").write_bytes(inside.read_bytes())
    wide, additive, deep = (f"--config.model.{field}" for field in ("width=32", "decode_position=additive", "depth=2"))
    for file, flags, words in (
        (inside, [wide], "model.width: 16 -> 32"),
        (inside, [additive], "model.decode_position: query -> additive"),
        (saved["pre"], [wide, additive], "has another model (model.width: 16 -> 32; model.decode_position: query -> additive)"),
        (saved["pre"], ["--config.target.bits=3"], "target.bits: 2 -> 3"),
        (saved["fine"], [], "is the file of a Classifier"),
        (saved["zip"], [], "is not a .keras file, or it is damaged"),
        (saved["cut"], [], "is not a .keras file, or it is damaged"),
        (tmp_path / "copy.weights.h5", [wide], "has the shape ("),
        (tmp_path / "copy.weights.h5", [deep], "it has no backbone/transformer"),
        (tmp_path / "fine.weights.h5", [], "it has no decoder/"),
        (tmp_path / "cut.weights.h5", [], "is not a file of weights, or it is damaged"),
        (tmp_path / "none.weights.h5", [], "There is no file"),
        (tmp_path / "none.keras", [], "There is no file"),
        (tmp_path / "model.h5", [], "is a file, but no .weights.h5 or .keras file"),
        (latest_checkpoint(finetuned.workdir / "checkpoints").path / inside.name, [], "is the workdir of a --mode=finetune"),
    ):
        line = refused(*new, f"--init={file}", *flags)
        assert words in line, line
    assert not (tmp_path / "run" / "config.json").exists()


FEW = ("--config.finetune.epochs=1", "--label_fraction=0.05")


@pytest.mark.parametrize(("mode", "fields"), [("pretrain", SHORT), ("finetune", FEW)])
def test_a_scaled_learning_rate_is_printed(pretrained, tmp_path, mode, fields):
    flags = [*TINY, *fields, f"--config.{mode}.batch=64", f"--config.{mode}.learning_rate_per_256=0.002"]
    start = ["--init=scratch"] if mode == "finetune" else []
    done = command(f"--mode={mode}", f"--workdir={tmp_path}", *start, *flags)
    assert done.code == 0, done.err
    assert "learning rate 0.0005: learning_rate_per_256=0.002 times 64 / 256, in place of learning_rate=" in done.err
    assert "learning_rate_per_256" not in pretrained.err


def test_a_pretraining_that_is_no_better_than_guessing_warns(pretrained, capsys):
    ratio = pretrained.result["loss_ratio"]
    assert ratio > 1  # after 20 steps
    assert "warning: this run is no better than guessing" in pretrained.err and f"{ratio:.4g} times" in pretrained.err
    for found, said in ((0.999, 0), (1.0, 1)):
        warn_if_nothing_learned(found, 9, "picture.png")
        assert capsys.readouterr().err.count("no better than guessing") == said

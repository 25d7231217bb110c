"""The training loop on a model of a few numbers: log intervals, resuming, losses that are not finite, signals."""

import json
import os
import shlex
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from pf_keras.config import Config, RunConfig
from pf_keras.errors import Stopped, UserError
from pf_keras.training.callbacks import RunCallback, SaveCheckpoints
from pf_keras.training.identity import RunIdentity, start_run
from pf_keras.training.loop import train
from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.optimizer import AdamW
from pf_keras.training.resume import Start
from pf_keras.training.workdir import Workdir

STEPS = 23


class At(RunCallback):
    """Do something after a step, or at the beginning of the step that follows it."""

    def __init__(self, step, action, begin=False):
        super().__init__()
        self.at, self.action, self.begin = step, action, begin

    def on_train_batch_begin(self, batch, logs=None):
        if self.begin and self.interval_start + batch == self.at:
            self.action()

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch)
        if not self.begin and self.step == self.at:
            self.action()


def tiny_model(rate=0.01):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dropout(0.3), keras.layers.Dense(3)]
    model = keras.Sequential([keras.layers.Input((4,)), *layers])
    optimizer = AdamW(rate)
    optimizer.build(model.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, metrics=["accuracy"])
    return model


def batches(step):
    def batch(number):
        x = tf.random.stateless_normal((8, 4), tf.stack([number, 1]))
        return x, tf.argmax(x[:, :3], axis=1)

    return tf.data.Dataset.range(step, np.iinfo("int64").max).map(batch)


def run_training(path, model=None, callbacks=(), steps=STEPS, data=batches, **run):
    workdir = Workdir(path)
    path.mkdir(exist_ok=True)
    model = model or tiny_model()
    settings = RunConfig(**{"log_every": 5, "checkpoint_every": "4", **run})
    train(model, data, steps, 8, workdir, settings, callbacks)
    return model


def lines(path):
    found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in found]


def variables(model):
    metrics = {id(v) for v in model.metrics_variables}
    return [np.asarray(v) for v in (*model.variables, *model.optimizer.variables) if id(v) not in metrics]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    path = tmp_path_factory.mktemp("unbroken") / "run"
    return run_training(path), path


def saved(path):
    return sorted(int(p.name[5:]) for p in (path / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("stops", [[3, 5, 7, 20], [9, 18, 21]])
def test_a_run_stopped_at_any_step_equals_one_never_stopped(unbroken, tmp_path, stops):
    """Steps in the middle, at the end and at the beginning of a log interval; the model has dropout and a metric."""
    model, path = unbroken
    for step in stops:  # the signal comes during step + 1
        signalled = At(step, lambda: os.kill(os.getpid(), signal.SIGTERM), begin=True)
        with pytest.raises(Stopped, match=f"SIGTERM at step {step + 1}, which is saved"):
            run_training(tmp_path, callbacks=[signalled], checkpoint_every="60min")
        assert saved(tmp_path)[-1] == step + 1
    resumed = run_training(tmp_path)
    assert lines(tmp_path) == lines(path)
    assert [line["step"] for line in lines(tmp_path)] == [5, 10, 15, 20, 23]
    for left, right in zip(variables(resumed), variables(model), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("step", [12, STEPS])
def test_a_signal_while_saving_stops_the_run_after_the_save(unbroken, tmp_path, monkeypatch, step):
    from pf_keras.training import callbacks

    save = callbacks.save_checkpoint

    def save_then_signal(directory, at, *rest):
        save(directory, at, *rest)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Stopped, match=f"SIGTERM at step {step}, which is saved"):
        patch.setattr(callbacks, "save_checkpoint", save_then_signal)
        run_training(tmp_path, checkpoint_every=str(step))
    assert saved(tmp_path) == [step]
    run_training(tmp_path)
    assert lines(tmp_path) == lines(unbroken[1])


def test_a_signal_between_the_checks_of_a_step_saves_before_leaving(unbroken, tmp_path, monkeypatch):
    due = SaveCheckpoints._due_by_steps

    def signal_then_ask(self):
        if self.step == 13 and self.signal is None:
            os.kill(os.getpid(), signal.SIGTERM)
        return due(self)

    with monkeypatch.context() as patch, pytest.raises(Stopped) as stopped:
        patch.setattr(SaveCheckpoints, "_due_by_steps", signal_then_ask)
        run_training(tmp_path, checkpoint_every="60min")
    assert f"at step {saved(tmp_path)[-1]}, which is saved" in str(stopped.value)
    run_training(tmp_path)
    assert lines(tmp_path) == lines(unbroken[1])


def test_dying_between_the_end_of_an_interval_and_its_log_line_loses_no_line(unbroken, tmp_path, monkeypatch):
    def die(*_):
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(MetricsLog, "append", die)
        run_training(tmp_path, checkpoint_every="5")
    run_training(tmp_path)
    assert lines(tmp_path) == lines(unbroken[1])


def test_checkpoints_by_steps_and_by_minutes(tmp_path, monkeypatch):
    run_training(tmp_path / "steps", checkpoint_every="6", keep_checkpoints=10)
    assert saved(tmp_path / "steps") == [6, 12, 18, 23]
    run_training(tmp_path / "newest", checkpoint_every="6", keep_checkpoints=2)
    assert saved(tmp_path / "newest") == [18, 23]
    run_training(tmp_path / "minutes", checkpoint_every="0.0000001min", keep_checkpoints=10)
    assert len(saved(tmp_path / "minutes")) == 10
    run_training(tmp_path / "hour", checkpoint_every="60min")
    assert saved(tmp_path / "hour") == [23]


def test_a_nan_loss_stops_the_run_and_names_the_step(tmp_path):
    def spoilt(step):
        return batches(step).enumerate(step).map(lambda n, b: (b[0] * tf.where(n == 13, np.inf, 1.0), b[1]))

    with pytest.raises(UserError) as error:
        run_training(tmp_path, data=spoilt, checkpoint_every="1", keep_checkpoints=30)
    expected = "The loss is nan at step 14, with a learning rate of 0.01"
    assert expected in str(error.value) and str(tmp_path / "checkpoints" / "step-00000013") in str(error.value)
    assert saved(tmp_path) == list(range(1, 14))


@pytest.mark.parametrize(("field", "lower"), [("learning_rate", 0.005), ("learning_rate_per_256", 0.01)])  # a batch has 128
def test_a_nan_loss_of_a_pretraining_names_the_command_that_continues_it(tmp_path, field, lower):
    """With half of the learning rate at that step, 0.01, which under a schedule may be far below the highest."""

    def spoilt(step):
        return batches(step).enumerate(step).map(lambda n, b: (b[0] * tf.where(n == 13, np.inf, 1.0), b[1]))

    path = tmp_path / "a run"
    config = Config().override({"pretrain.steps": str(STEPS), f"pretrain.{field}": "0.006"})
    start_run(Workdir(path), RunIdentity("pretrain", config))
    with pytest.raises(UserError) as error:
        run_training(path, data=spoilt, checkpoint_every="4")
    *_, command = str(error.value).partition(f"{path}/checkpoints/step-00000012. To continue from it: pf-keras ")
    given = shlex.split(command)
    assert given[:3] == ["--mode=pretrain", f"--init={path}", f"--workdir={path}-lower"]
    read = Config().override(dict(flag.removeprefix("--config.").split("=") for flag in given[3:]))
    assert read.pretrain.steps == STEPS - 12 and getattr(read.pretrain, field) == lower


def test_the_last_loss_is_checked(tmp_path):
    def spoilt(step):
        return batches(step).enumerate(step).map(lambda n, b: (b[0] * tf.where(n == STEPS - 1, np.inf, 1.0), b[1]))

    with pytest.raises(UserError, match=f"at step {STEPS}, with"):
        run_training(tmp_path, data=spoilt, checkpoint_every="10")
    assert saved(tmp_path) == [10, 20]


def test_nan_weights_behind_a_finite_loss_are_not_saved(tmp_path):
    model = tiny_model()
    spoil = At(11, lambda: model.optimizer._momentums[0].assign(ops.full((4, 8), np.nan)))
    with pytest.raises(UserError, match="kernel has values that are not finite after step 12"):
        run_training(tmp_path, model, [spoil], checkpoint_every="4")
    assert saved(tmp_path) == [4, 8]


def test_a_huge_learning_rate_stops(tmp_path):
    with pytest.raises(UserError, match=r"learning rate of 1e\+30"):
        run_training(tmp_path, tiny_model(1e30), checkpoint_every="1")


def test_data_that_end_early_are_an_error(tmp_path):
    with pytest.raises(UserError, match="The data ended after step 7"):
        run_training(tmp_path, data=lambda step: batches(step).take(7))


@pytest.mark.parametrize(("start", "steps", "log_every"), [(0, 10, 5), (0, 11, 5), (3, 11, 5), (5, 7, 5), (4, 4, 5), (2, 3, 9)])
def test_log_intervals_end_where_those_of_an_unbroken_run_do(tmp_path, monkeypatch, start, steps, log_every):
    done, ends = start, []

    class Recorder:
        def fit(self, first, steps_per_epoch, epochs, **options):
            nonlocal done
            assert first == done
            done += steps_per_epoch * epochs
            ends.extend(first + steps_per_epoch * (i + 1) for i in range(epochs))

    monkeypatch.setattr("pf_keras.training.loop.resume", lambda *_: Start(start))
    train(Recorder(), lambda step: step, steps, 8, Workdir(tmp_path), RunConfig(log_every=log_every))
    wanted = [end for end in (*range(log_every, steps, log_every), steps) if end > start]
    assert (done, ends) == (steps, wanted)

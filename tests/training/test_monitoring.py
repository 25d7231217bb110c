"""Monitors on a model of a few numbers: when they measure, what they choose, and that a stopped run chooses the same."""

import os
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from keras import ops

from pf_keras.errors import Stopped, UserError
from pf_keras.training import callbacks
from pf_keras.training.callbacks import SaveCheckpoints
from pf_keras.training.checkpoint import Checkpoint, latest_checkpoint
from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.monitoring import HoldOut, Monitor, best_checkpoint, choice, scores_of
from pf_keras.training.weights import checkpoint_to_use
from pf_keras.training.workdir import Workdir
from tests.training.test_loop import STEPS, At, lines, run_training, saved, tiny_model, variables

SCORES = {5: 0.2, 10: 0.5, 15: 0.5, 20: 0.4, 23: 0.3}


def hold_out(path, patience=0, scores=SCORES, every=5):
    """A `HoldOut` whose scores are written down."""
    monitor = HoldOut(lambda: {"holdout_top1": scores[monitor.step]}, every, STEPS, Workdir(path), patience)
    return monitor


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A training of 23 steps with a hold-out and without patience: its model and workdir."""
    path = tmp_path_factory.mktemp("unbroken") / "run"
    return run_training(path, callbacks=[hold_out(path)]), path


def test_measures_every_so_many_steps_and_at_the_end(tmp_path):
    monitor = Monitor(lambda: {"knn_top1": monitor.step / 100}, 10, STEPS)
    run_training(tmp_path, callbacks=[monitor])
    assert {line["step"]: line.get("knn_top1") for line in lines(tmp_path)} == {5: None, 10: 0.1, 15: None, 20: 0.2, 23: 0.23}


def test_time_of_a_measurement_does_not_count_as_training(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def measure():
        now[0] += 1000
        return {}

    def step():
        now[0] += 1

    steps = [At(n, step) for n in range(1, STEPS + 1)]
    run_training(tmp_path, callbacks=[Monitor(measure, 5, STEPS), *steps])
    found = [line["images_per_second"] for line in MetricsLog(Workdir(tmp_path)).lines()]
    assert found[1:] == [8.0] * 4  # batches of 8, a second each


def test_model_is_scored_with_its_averaged_weights(tmp_path, monkeypatch):
    from contextlib import contextmanager

    inside = []

    @contextmanager
    def averaged(model):
        inside.append(True)
        yield
        inside.append(False)

    monkeypatch.setattr("pf_keras.training.monitoring.averaged_weights", averaged)
    seen = []
    run_training(tmp_path, callbacks=[Monitor(lambda: seen.append(inside[-1]) or {}, 10, STEPS)])
    assert seen == [True] * 3 and inside == [True, False] * 3


def test_monitors_change_neither_weights_nor_losses(unbroken, tmp_path):
    model = run_training(tmp_path)
    for left, right in zip(variables(model), variables(unbroken[0]), strict=True):
        np.testing.assert_array_equal(left, right)
    without_scores = [{k: v for k, v in line.items() if k != "holdout_top1"} for line in lines(unbroken[1])]
    assert lines(tmp_path) == without_scores


def test_best_checkpoint_has_the_highest_score_and_of_equal_ones_is_the_last(unbroken, tmp_path):
    best = latest_checkpoint(Workdir(unbroken[1]).best)
    assert best.step == 15 and [p.name for p in (unbroken[1] / "best").iterdir()] == ["step-00000015"]
    assert choice(lines(unbroken[1]), STEPS, best) == {"best_step": 15, "holdout_top1": 0.5, "stopped_at": None}
    expected, model = run_training(tmp_path, steps=15), tiny_model()
    best.load_into(model)
    for left, right in zip(model.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(("patience", "stopped_at"), [(1, 15), (2, 20), (3, None), (4, None)])
def test_patience_counts_scores_without_a_better_one(tmp_path, patience, stopped_at):
    run_training(tmp_path, callbacks=[hold_out(tmp_path, patience)], checkpoint_every="60min")
    last = stopped_at or STEPS
    assert lines(tmp_path)[-1]["step"] == last and saved(tmp_path) == [last]
    best = latest_checkpoint(Workdir(tmp_path).best)
    assert choice(lines(tmp_path), STEPS, best) == {"best_step": 15, "holdout_top1": 0.5, "stopped_at": stopped_at}
    run_training(tmp_path, callbacks=[again := hold_out(tmp_path, patience)])  # trains no further
    assert lines(tmp_path)[-1]["step"] == last and again.ended == (patience < 4)


class Dies(Exception):
    pass


def dies_at(step, original):
    def end(self, *arguments):
        if self.step == step:
            raise Dies
        return original(self, *arguments)

    return end


@pytest.mark.parametrize("step", [5, 10, 15])
@pytest.mark.parametrize("dies_in", [callbacks.Clock, callbacks.Log, SaveCheckpoints])
def test_run_that_dies_around_a_score_ends_as_an_unbroken_one(tmp_path, monkeypatch, step, dies_in):
    """Before the score, between the best checkpoint and the line of the log, and before the checkpoint of the step."""
    run_training(tmp_path / "whole", callbacks=[hold_out(tmp_path / "whole", 2)], checkpoint_every="5")
    path = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Dies):
        patch.setattr(dies_in, "on_epoch_end", dies_at(step, dies_in.on_epoch_end))
        run_training(path, callbacks=[hold_out(path, 2)], checkpoint_every="5")
    model = run_training(path, callbacks=[hold_out(path, 2)], checkpoint_every="5")
    assert lines(path) == lines(tmp_path / "whole") and saved(path) == saved(tmp_path / "whole")
    assert lines(path)[-1]["step"] == 20 and [p.name for p in (path / "best").iterdir()] == ["step-00000015"]
    assert not any(np.isnan(v).any() for v in variables(model))


@pytest.mark.parametrize("step", [7, 10, 20])
def test_stopped_run_ends_as_an_unbroken_one(unbroken, tmp_path, step):
    with pytest.raises(Stopped):
        stop = At(step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        run_training(tmp_path, callbacks=[hold_out(tmp_path), stop], checkpoint_every="60min")
    model = run_training(tmp_path, callbacks=[hold_out(tmp_path)])
    assert lines(tmp_path) == lines(unbroken[1])
    for left, right in zip(variables(model), variables(unbroken[0]), strict=True):
        np.testing.assert_array_equal(left, right)


def test_weights_that_are_not_finite_are_never_the_best(tmp_path):
    model = tiny_model()

    def measure():
        if monitor.step == 15:
            model.weights[0].assign(ops.full((4, 8), np.nan))
        return {"holdout_top1": monitor.step / 100}

    monitor = HoldOut(measure, 5, STEPS, Workdir(tmp_path), 0)
    with pytest.raises(UserError, match="kernel has values that are not finite after step 15"):
        run_training(tmp_path, model, [monitor], checkpoint_every="60min")
    assert [p.name for p in (tmp_path / "best").iterdir()] == ["step-00000010"]


def test_a_score_of_an_earlier_version_is_found_in_the_log():
    """It kept the first of equal scores, and did not save the score with the checkpoint."""
    logged = [{"step": step, "holdout_top1": score} for step, score in SCORES.items()]
    assert choice(logged, 40, Checkpoint("best", 10)) == {"best_step": 10, "holdout_top1": 0.5, "stopped_at": 23}
    with pytest.raises(UserError, match="metrics.jsonl has no holdout_top1 of step 11, of best. Restore it."):
        choice(logged, 40, Checkpoint("best", 11))


def test_a_best_checkpoint_keeps_its_own_score_where_a_resumed_run_measures_another(tmp_path, monkeypatch):
    """As on a GPU, whose sums differ from run to run: the score and the weights stay together."""
    with monkeypatch.context() as patch, pytest.raises(Dies):
        patch.setattr(callbacks.Log, "on_epoch_end", dies_at(10, callbacks.Log.on_epoch_end))
        run_training(tmp_path, callbacks=[hold_out(tmp_path, scores={5: 0.2, 10: 0.9})], checkpoint_every="5")
    run_training(tmp_path, callbacks=[hold_out(tmp_path)], checkpoint_every="5")
    best = best_checkpoint(Workdir(tmp_path), lines(tmp_path))
    assert choice(lines(tmp_path), STEPS, best) == {"best_step": 10, "holdout_top1": 0.9, "stopped_at": None}


def test_a_lost_best_checkpoint_is_an_error_and_not_another_checkpoint(unbroken, tmp_path):
    shutil.copytree(unbroken[1], tmp_path / "run")
    weights = tmp_path / "run" / "best" / "step-00000015" / "model.weights.h5"
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    for _ in range(2):
        with pytest.raises(UserError, match="best has no whole checkpoint, but held-out images chose one. Restore it"):
            checkpoint_to_use(Workdir(tmp_path / "run"))
        with pytest.raises(UserError, match="best has no whole checkpoint, but held-out images chose one. Restore it"):
            run_training(tmp_path / "run", callbacks=[hold_out(tmp_path / "run")])
        shutil.rmtree(tmp_path / "run" / "best", ignore_errors=True)


def test_scores_are_read_from_the_log():
    logged = [{"step": 5, "loss": 1.0}, {"step": 10, "holdout_top1": 0.25}, {"step": 20, "holdout_top1": 0.25}]
    assert scores_of(logged) == [(10, 0.25), (20, 0.25)]

"""Sweeps over tiny grids. A sweep that is killed or shared runs in processes of its own."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from commands import TINY, command, refused, succeed

from pf_keras.config import DataConfig
from pf_keras.data.images import Images
from pf_keras.data.labels import labelled_subset
from pf_keras.data.selection import hold_out_labelled
from pf_keras.data.sources import open_source
from pf_keras.errors import UserError
from pf_keras.tasks import sweep
from pf_keras.training.callbacks import NonFiniteLoss
from pf_keras.training.devices import Devices
from pf_keras.training.identity import check_same_run, find_run
from pf_keras.training.workdir import Workdir
from tests.robustness.runs import in_a_process

ROOT = Path(__file__).parents[2]


def flags(workdir, init, batches, seeds):
    return (
        "--mode=sweep", f"--workdir={workdir}", f"--init={init}", "--label_fraction=0.05", f"--seeds={seeds}",
        f"--config.sweep.batches={batches}", "--config.sweep.learning_rates=(1e-3,)", "--config.finetune.epochs=1", *TINY,
    )  # fmt: skip


@pytest.fixture(scope="module")
def swept(pretrained, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("swept")
    words = (*flags(workdir, pretrained.workdir, "(16,)", "3,1"), "--config.sweep.point_seeds=1")
    return workdir, succeed(*words), words


@pytest.mark.long
def test_table_has_both_starts_with_mean_and_standard_deviation(swept):
    workdir, result, _ = swept
    rows = list(csv.DictReader((workdir / "table.csv").open()))
    assert [row["start"] for row in rows] == ["pretrained", "scratch"]
    for row in rows:
        runs = [json.loads(p.read_text()) for p in sorted(workdir.glob(f"final/{row['start']}/seed-*/result.json"))]
        tops = [run["top1"] for run in runs]
        assert len(tops) == 2 and {run["images"] for run in runs} == {360}
        assert float(row["top1_mean"]) == pytest.approx(sum(tops) / 2)
        assert float(row["top1_sd"]) == pytest.approx(abs(tops[0] - tops[1]) / 2**0.5)
    assert result["points"] == 2
    assert "| pretrained |" in (workdir / "table.md").read_text()
    assert (workdir / "figures" / "grid.png").exists()


@pytest.mark.long
def test_labels_are_those_of_a_fine_tuning(swept):
    workdir, result, _ = swept
    names = (workdir / "labels.txt").read_text().split()
    assert names == list(labelled_subset(open_source(DataConfig()).train, 0.05).names)
    assert len(names) == result["labels"]


@pytest.mark.long
def test_points_may_run_with_fewer_seeds_than_the_winners(swept):
    workdir, _, words = swept
    assert {run.name for run in workdir.glob("grid/*/seed-*")} == {"seed-3"}
    assert {run.name for run in workdir.glob("final/*/seed-*")} == {"seed-3", "seed-1"}
    assert "sweep.point_seeds" in refused(*words, "--config.sweep.point_seeds=-1")


@pytest.mark.long
def test_points_are_scored_on_held_out_training_images_only(swept):
    workdir, *_ = swept
    assert len(list(workdir.glob("grid/*/point.json"))) == 2
    for run in workdir.glob("grid/*/seed-*/result.json"):
        assert json.loads(run.read_text())["images"] < 72  # of the 5% labelled; the validation split has 360
    assert succeed("--mode=evaluate", f"--workdir={run.parent}")["images"] == 360


def test_held_out_and_training_images_are_disjoint_and_stratified():
    labelled = labelled_subset(open_source(DataConfig()).train, 0.1)
    train, held = hold_out_labelled(labelled, 0.2)
    assert not set(train.names) & set(held.names) and train.size + held.size == labelled.size
    assert np.bincount(held.labels, minlength=10).min() >= 1
    assert np.bincount(hold_out_labelled(labelled, 0.001)[1].labels).tolist() == [1] * 10  # however small the fraction


def test_rare_class_does_not_change_what_is_held_out_of_other_classes():
    labels = [0] * 100 + [1] * 2 + [2] * 3
    split = Images([f"{i}.jpg" for i in range(len(labels))], labels, [b""] * len(labels))
    for fraction, counts in ((0.2, [20, 1, 1]), (0.9, [90, 1, 2])):
        train, held = hold_out_labelled(split, fraction)
        assert np.bincount(held.labels).tolist() == counts and train.size + held.size == split.size


def test_workers_that_share_a_step_cannot_sweep(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}')
    assert "KERASTUNER_TUNER_ID" in refused(*flags(tmp_path, "scratch", "(16,)", "0"))
    assert not list(tmp_path.iterdir())


def test_bad_batch_seed_or_data_is_refused_before_the_first_point(tmp_path, monkeypatch):
    seen = scored_by_batch(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "open_devices", lambda *_: Devices("tpu", 32))
        line = refused(*flags(tmp_path, "scratch", "(32,64,16)", "0"), "--config.run.eval_batch=128")
    assert "finetune.batch is 16, which 32 replicas cannot split evenly" in line and not seen
    assert "run.seed" in refused(*flags(tmp_path, "scratch", "(32,)", "0,-1"))
    for wrong in ("--label_fraction=0.001", "--data=folder:/nowhere"):
        refused(*flags(tmp_path, "scratch", "(16,)", "0"), wrong)
    assert not (tmp_path / "config.json").exists()  # so that the corrected command can run in this workdir


def test_all_runs_have_one_precision_one_start_and_the_labels_of_the_sweep(pretrained, tmp_path, monkeypatch):
    seen = scored_by_batch(monkeypatch)
    words = flags(tmp_path, pretrained.workdir, "(16,32)", "0")
    result = succeed(*words)
    assert result["init_step"] == 20 and result["pretrained_diverged"] == 0
    before = len(seen)

    def other_precision(*_):
        keras.config.set_dtype_policy("mixed_bfloat16")
        return Devices("gpu", 1)

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "open_devices", other_precision)
        try:
            line = refused(*words)
        finally:
            keras.config.set_dtype_policy("float32")
    assert "--config.run.precision=float32" in line
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "check_init", lambda *_: 30)
        assert "init_step: 20 -> 30" in refused(*words)
    (tmp_path / "grid" / "pretrained-b16-lr0.001" / "seed-0" / "result.json").unlink()
    steps = iter((20, 30))  # the pre-training saves a checkpoint while the sweep runs
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "check_init", lambda *_: next(steps))
        line = refused(*words)
    assert "is at step 30 by now" in line and "start from step 20" in line
    assert len(seen) == before
    taken = refused("--mode=finetune", f"--workdir={tmp_path / 'final' / 'scratch' / 'seed-0'}", "--init=scratch")
    assert "label_fraction: of a sweep -> 1.0" in taken


def test_worker_must_have_the_labels_of_its_chief(tmp_path, monkeypatch):
    scored_by_batch(monkeypatch)
    searches = []
    monkeypatch.setattr(sweep.Sweep, "search", lambda self, chief: searches.append(self))
    monkeypatch.setattr(sweep.Sweep, "final_row", lambda self, start: {"start": start, "labels": 1, **dict.fromkeys(ROW, 0.0)})
    for name in ("write_tables", "draw_grid"):
        monkeypatch.setattr(sweep, name, lambda *_: None)
    words = flags(tmp_path, "scratch", "(16,)", "0")
    succeed(*words)
    for name, value in (("TUNER_ID", "worker0"), ("ORACLE_IP", "127.0.0.1"), ("ORACLE_PORT", "1")):
        monkeypatch.setenv(f"KERASTUNER_{name}", value)
    succeed(*(word.replace("fraction=0.05", "fraction=0.2") for word in words))
    worker = searches[1]
    with pytest.raises(UserError, match="label_fraction: 0.05 -> 0.2"):
        check_same_run(worker.workdir, worker.identity)


ROW = ("batch", "learning_rate", "top1_mean", "top1_sd", "diverged")


def test_one_seed_has_no_deviation_and_no_seed_counts_twice(tmp_path, monkeypatch):
    scored_by_batch(monkeypatch)
    assert "--seeds=0,0 has no seed, or one twice" in refused(*flags(tmp_path / "twice", "scratch", "(16,)", "0,0"))
    assert "sweep.batches" in refused(*flags(tmp_path / "twice", "scratch", "(16,16)", "0"))
    result = succeed(*flags(tmp_path / "once", "scratch", "(16,)", "0"))
    assert result["scratch_top1_sd"] is None
    assert "| 20.0% | 80.0% | 1 |" in (tmp_path / "once" / "table.md").read_text()
    (final,) = (tmp_path / "once").glob("final/scratch/seed-0")
    assert json.loads((final / "result.json").read_text())["labels"] == result["labels"]
    for name in ("labels.txt", "data.json"):
        assert (final / name).read_text() == (tmp_path / "once" / name).read_text()


def test_all_runs_have_the_precision_asked_for_and_a_diverged_run_scores_0(tmp_path, monkeypatch):
    seen = []

    def fit(config, devices, workdir, *rest):
        seen.append(keras.config.dtype_policy().name)
        if workdir.path.name == "seed-1":
            raise NonFiniteLoss("The loss is nan")
        return {"top1": 0.5, "top5": 0.8, "images": 360, "steps": 7}

    monkeypatch.setattr(sweep, "fit_and_score", fit)
    try:
        result = succeed(*flags(tmp_path, "scratch", "(16,)", "0,1"), "--config.run.precision=mixed_bfloat16")
    finally:
        keras.config.set_dtype_policy("float32")
    assert seen == ["mixed_bfloat16"] * 4  # two of the grid and two final runs
    assert "| 2, 1 diverged |" in (tmp_path / "table.md").read_text() and result["scratch_top1_mean"] == 0.25


def scored_by_batch(monkeypatch, killed_at=None):
    """Replace training by scores that depend on the batch. Returns the list of `(batch, labels)` of the runs so far.

    killed_at: the number of the run at which the process is killed.
    """
    seen = []

    def fit(config, devices, workdir, labelled, *rest):
        seen.append((config.finetune.batch, labelled.size))
        if len(seen) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        top1 = {16: 0.2, 32: 0.5, 64: 0.3}[config.finetune.batch]
        return {"top1": top1, "top5": 0.8, "images": 360, "steps": 7}

    monkeypatch.setattr(sweep, "fit_and_score", fit)
    return seen


def sweep_that_is_killed(words):
    scored_by_batch(pytest.MonkeyPatch(), killed_at=2)
    command(*words)


def test_killed_sweep_resumes_with_what_is_left_and_takes_the_best_point(tmp_path, monkeypatch):
    words = flags(tmp_path, "scratch", "(16,32,64)", "0")  # three points: one done, one killed, one left
    first = in_a_process(sweep_that_is_killed, words)
    first.join(300)
    assert first.exitcode == -signal.SIGKILL
    (done_before,) = tmp_path.glob("grid/*/seed-*/result.json")
    written = done_before.stat().st_mtime_ns

    seen = scored_by_batch(monkeypatch)
    result = succeed(*words)
    assert result["points"] == 3
    assert done_before.stat().st_mtime_ns == written  # not done again
    point = json.loads((done_before.parents[1] / "point.json").read_text())
    *grid, (batch, labels) = seen
    assert {batch for batch, _ in grid} == {16, 32, 64} - {point["batch"]}
    assert batch == result["scratch_batch"] == 32  # the best of all three
    assert labels == result["labels"] > max(size for _, size in grid)  # the final run has the held-out images too


def test_a_larger_grid_keeps_what_is_done_and_the_runs_of_an_earlier_winner(tmp_path, monkeypatch):
    seen, final = scored_by_batch(monkeypatch), tmp_path / "final"
    assert succeed(*flags(tmp_path, "scratch", "(16,)", "0"))["scratch_batch"] == 16
    (tmp_path / "final" / "scratch" / "seed-0" / "mark").write_text("of the first winner")
    seen.clear()
    words = flags(tmp_path, "scratch", "(64,16)", "0")
    result = succeed(*words)
    assert [batch for batch, _ in seen] == [64, 64] and result["points"] == 2 and result["scratch_batch"] == 64
    assert sorted(path.name for path in final.iterdir()) == ["scratch", "scratch-b16-lr0.001"]
    assert (final / "scratch-b16-lr0.001" / "seed-0" / "mark").exists()
    assert find_run(Workdir(final / "scratch" / "seed-0")).config.finetune.batch == 64
    assert succeed(*words) == result and len(seen) == 2  # nothing is done again

    seen.clear()  # a learning rate more: its two points are new, and the winner is another batch that was there before
    monkeypatch.setattr(sweep, "fit_and_score", lambda config, *_: seen.append(config) or {**RESULT, "top1": 0.1})
    words = [word.replace("(1e-3,)", "(1e-3,2e-3)") for word in words]
    result = succeed(*words)
    assert [config.finetune.learning_rate for config in seen] == [2e-3, 2e-3]
    assert result["points"] == 4 and result["scratch_batch"] == 64 and result["scratch_learning_rate"] == 1e-3
    for file in (tmp_path / "grid").glob("scratch-b64-*/seed-0/result.json"):  # as if the first winner were the best again
        file.write_text(json.dumps({**RESULT, "top1": 0.0}))
    result = succeed(*words)
    assert len(seen) == 2 and result["scratch_batch"] == 16 and (final / "scratch" / "seed-0" / "mark").exists()
    assert sorted(path.name for path in final.iterdir()) == ["scratch", "scratch-b64-lr0.001"]

    line = refused(*flags(tmp_path, "scratch", "(64,)", "0"))
    assert "sweep.batches: (64, 16) -> (64,)" in line and "sweep.learning_rates: (0.001, 0.002) -> (0.001,)" in line
    assert "finetune.learning_rate_per_256 is 0.1, but a sweep compares" in refused(
        *words, "--config.finetune.learning_rate_per_256=0.1"
    )
    assert "finetune.batch is 64, which finetune.accumulate=3 does not" in refused(*words, "--config.finetune.accumulate=3")


RESULT = {"top5": 0.8, "images": 360, "steps": 7}


def process(flags, tuner, port):
    environment = os.environ | {
        "KERASTUNER_TUNER_ID": tuner, "KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port),
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "pf_keras.cli", *flags],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip


@pytest.mark.slow
def test_two_workers_share_the_grid(pretrained, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = flags(tmp_path, pretrained.workdir, "(16,32)", "0,1")
    team = {name: process(words, name, port) for name in ("chief", "worker0", "worker1")}
    results = {}
    for name, member in team.items():
        out, err = member.communicate(timeout=900)
        assert member.returncode == 0, err[-2000:]
        results[name] = json.loads(out.splitlines()[-1])
    assert results["worker0"]["runs"] + results["worker1"]["runs"] == 8
    assert min(results[name]["runs"] for name in ("worker0", "worker1")) > 0
    assert results["chief"]["points"] == 4 and (tmp_path / "table.md").exists()
    for point in tmp_path.glob("grid/*/point.json"):
        tops = [json.loads(run.read_text())["top1"] for run in point.parent.glob("seed-*/result.json")]
        assert len(tops) == 2 and json.loads(point.read_text())["held_out_top1"] == pytest.approx(sum(tops) / 2)

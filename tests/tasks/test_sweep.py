"""Sweeps over tiny grids; those that are killed or shared run in processes of their own."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from commands import TINY, command

from pf_keras.errors import UserError
from tests.robustness.runs import in_a_process

ROOT = Path(__file__).parents[2]


def flags(workdir, init, batches, seeds):
    return (
        "--mode=sweep", f"--workdir={workdir}", f"--init={init}", "--label_fraction=0.05", f"--seeds={seeds}",
        f"--config.sweep.batches={batches}", "--config.sweep.learning_rates=(1e-3,)", "--config.finetune.epochs=1", *TINY,
    )


@pytest.fixture(scope="module")
def swept(pretrained, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("swept")
    words = (*flags(workdir, pretrained.workdir, "(16,)", "3,1"), "--config.sweep.point_seeds=1")
    done = command(*words)
    assert done.code == 0, done.err
    return workdir, done.result, words


@pytest.mark.long
def test_the_table_has_both_starts_with_mean_and_spread(swept):
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
def test_the_labels_it_used_are_those_of_a_fine_tuning(swept):
    from pf_keras.config import DataConfig
    from pf_keras.data.labels import labelled_subset
    from pf_keras.data.sources import open_source

    workdir, result, _ = swept
    names = (workdir / "labels.txt").read_text().split()
    assert names == list(labelled_subset(open_source(DataConfig()).train, 0.05).names)
    assert len(names) == result["labels"]


@pytest.mark.long
def test_points_may_run_with_fewer_seeds_than_the_winners(swept):
    workdir, _, words = swept
    assert {run.name for run in workdir.glob("grid/*/seed-*")} == {"seed-3"}
    assert {run.name for run in workdir.glob("final/*/seed-*")} == {"seed-3", "seed-1"}
    refused = command(*words, "--config.sweep.point_seeds=-1")
    assert refused.code == 2 and "sweep.point_seeds" in refused.err


@pytest.mark.long
def test_points_are_compared_on_held_out_training_images_alone(swept):
    workdir, *_ = swept
    assert len(list(workdir.glob("grid/*/point.json"))) == 2
    for run in workdir.glob("grid/*/seed-*/result.json"):
        assert json.loads(run.read_text())["images"] < 72  # of the 5% labelled; the validation split has 360
    done = command("--mode=evaluate", f"--workdir={run.parent}")
    assert done.code == 0 and done.result["images"] == 360, done.err


def test_held_out_and_training_images_are_disjoint_and_stratified():
    import numpy as np

    from pf_keras.config import DataConfig
    from pf_keras.data.labels import hold_out, labelled_subset
    from pf_keras.data.sources import open_source

    labelled = labelled_subset(open_source(DataConfig()).train, 0.1)
    train, held = hold_out(labelled, 0.2)
    assert not set(train.names) & set(held.names) and train.size + held.size == labelled.size
    assert np.bincount(held.labels, minlength=10).min() >= 1
    assert np.bincount(hold_out(labelled, 0.001)[1].labels).tolist() == [1] * 10  # however small the share


def test_workers_that_share_a_step_are_no_workers_of_a_sweep(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}')
    done = command(*flags(tmp_path, "scratch", "(16,)", "0"))
    assert done.code == 2 and "KERASTUNER_TUNER_ID" in done.err and not list(tmp_path.iterdir())


def test_a_batch_that_the_replicas_do_not_divide_is_refused_before_the_first_point(tmp_path, monkeypatch):
    from pf_keras.training.devices import Devices

    seen = fits(monkeypatch)
    monkeypatch.setattr("pf_keras.tasks.sweep.open_devices", lambda *_: Devices("tpu", 32))
    refused = command(*flags(tmp_path, "scratch", "(32,64,16)", "0"), "--config.run.eval_batch=128")
    assert refused.code == 2 and "a batch that 32 replicas divide, received 16" in refused.err and not seen
    monkeypatch.undo()
    refused = command(*flags(tmp_path, "scratch", "(32,)", "0,-1"))
    assert refused.code == 2 and "run.seed in 0..2^31-1, received -1" in refused.err
    for wrong in ("--label_fraction=0.001", "--data=folder:/nowhere"):
        assert command(*flags(tmp_path, "scratch", "(16,)", "0"), wrong).code == 2
    assert not (tmp_path / "config.json").exists()  # so that the right command may have the place


def test_all_runs_of_a_sweep_are_of_one_precision_one_start_and_its_labels(pretrained, tmp_path, monkeypatch):
    import keras

    from pf_keras.tasks import finetune
    from pf_keras.training.devices import Devices

    seen = fits(monkeypatch)
    words = flags(tmp_path, pretrained.workdir, "(16,32)", "0")
    done = command(*words)
    assert done.code == 0 and done.result["init_step"] == 20 and done.result["pretrained_diverged"] == 0, done.err
    before = len(seen)

    def other_precision(*_):
        keras.config.set_dtype_policy("mixed_bfloat16")
        return Devices("gpu", 1)

    with monkeypatch.context() as patch:
        patch.setattr("pf_keras.tasks.sweep.open_devices", other_precision)
        try:
            refused = command(*words)
        finally:
            keras.config.set_dtype_policy("float32")
    assert refused.code == 2 and "--config.run.precision=float32" in refused.err
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "check_init", lambda *_: 30)
        refused = command(*words)
    assert refused.code == 2 and "init_step: 20 -> 30" in refused.err
    (tmp_path / "grid" / "pretrained-b16-lr0.001" / "seed-0" / "result.json").unlink()
    steps = iter((20, 30))  # it goes on while the sweep runs
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "check_init", lambda *_: next(steps))
        refused = command(*words)
    assert refused.code == 2 and "to begin at step 20" in refused.err and "step 30 by now" in refused.err
    assert len(seen) == before
    taken = command("--mode=finetune", f"--workdir={tmp_path / 'final' / 'scratch' / 'seed-0'}", "--init=scratch")
    assert taken.code == 2 and "label_fraction: of a sweep -> 1.0" in taken.err


def test_a_worker_has_the_labels_of_its_chief(tmp_path, monkeypatch):
    from pf_keras.tasks import sweep
    from pf_keras.tasks.sweep import Sweep

    fits(monkeypatch)
    asked = []
    monkeypatch.setattr(Sweep, "search", lambda self, chief, definition: asked.append((self, definition)))
    monkeypatch.setattr(Sweep, "final_row", lambda self, start: {"start": start, "labels": 1, **dict.fromkeys(ROW, 0.0)})
    for name in ("write_tables", "draw_grid"):
        monkeypatch.setattr(sweep, name, lambda *_: None)
    assert command(*flags(tmp_path, "scratch", "(16,)", "0")).code == 0
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker0")
    assert command(*(w.replace("fraction=0.05", "fraction=0.2") for w in flags(tmp_path, "scratch", "(16,)", "0"))).code == 0
    worker, definition = asked[1]
    with pytest.raises(UserError, match="label_fraction: 0.05 -> 0.2"):
        worker.workdir.check("sweep", worker.config, definition)


ROW = ("batch", "learning_rate", "top1_mean", "top1_sd", "diverged")


def test_one_seed_has_no_spread_and_none_counts_twice(tmp_path, monkeypatch):
    fits(monkeypatch)
    refused = command(*flags(tmp_path / "twice", "scratch", "(16,)", "0,0"))
    assert refused.code == 2 and "--seeds to name one at least, and each once" in refused.err
    refused = command(*flags(tmp_path / "twice", "scratch", "(16,16)", "0"))
    assert refused.code == 2 and "each of sweep.batches once" in refused.err
    done = command(*flags(tmp_path / "once", "scratch", "(16,)", "0"))
    assert done.code == 0 and done.result["scratch_top1_sd"] is None, done.err
    assert "| 20.0% | 80.0% | 1 |" in (tmp_path / "once" / "table.md").read_text()
    (final,) = (tmp_path / "once").glob("final/scratch/seed-0")
    assert json.loads((final / "result.json").read_text())["labels"] == done.result["labels"]
    assert (final / "labels.txt").read_text() == (tmp_path / "once" / "labels.txt").read_text()


def test_all_runs_have_the_precision_asked_for_and_one_that_diverges_ends_nothing(tmp_path, monkeypatch):
    import keras

    from pf_keras.tasks import finetune
    from pf_keras.training.callbacks import NonFiniteLoss

    seen = []

    def fit(config, devices, run, *rest):
        seen.append(keras.config.dtype_policy().name)
        if run.path.name == "seed-1":
            raise NonFiniteLoss("expected a finite loss")
        return {"top1": 0.5, "top5": 0.8, "images": 360, "steps": 7}

    monkeypatch.setattr(finetune, "fit_and_score", fit)
    try:
        done = command(*flags(tmp_path, "scratch", "(16,)", "0,1"), "--config.run.precision=mixed_bfloat16")
    finally:
        keras.config.set_dtype_policy("float32")
    assert done.code == 0, done.err
    assert seen == ["mixed_bfloat16"] * 4  # the grid's two and the final two
    assert "2, of them 1 diverged" in (tmp_path / "table.md").read_text() and done.result["scratch_top1_mean"] == 0.25


def test_a_rare_class_does_not_make_the_others_hold_out_more():
    import numpy as np

    from pf_keras.data.images import Images
    from pf_keras.data.labels import hold_out

    labels = [0] * 100 + [1] * 2 + [2] * 3
    split = Images([f"{i}.jpg" for i in range(len(labels))], labels, [b""] * len(labels))
    for share, counts in ((0.2, [20, 1, 1]), (0.9, [90, 1, 2])):
        train, held = hold_out(split, share)
        assert np.bincount(held.labels).tolist() == counts and train.size + held.size == split.size


def process(flags, tuner, port):
    environment = os.environ | {
        "KERASTUNER_TUNER_ID": tuner, "KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port),
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *flags],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )


def fits(monkeypatch, killed_at=None):
    """Put in the place of every fit what scores by its batch, and the process is killed at one; returns (batch, labels)s."""
    from pf_keras.tasks import finetune

    seen = []

    def fit(config, devices, run, labelled, *rest):
        seen.append((config.finetune.batch, labelled.size))
        if len(seen) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        top1 = {16: 0.2, 32: 0.5, 64: 0.3}[config.finetune.batch]
        return {"top1": top1, "top5": 0.8, "images": 360, "steps": 7}

    monkeypatch.setattr(finetune, "fit_and_score", fit)
    return seen


def sweep_that_is_killed(words):
    fits(pytest.MonkeyPatch(), killed_at=2)
    command(*words)


def test_killed_half_way_it_goes_on_with_what_is_left_and_takes_the_best(tmp_path, monkeypatch):
    words = flags(tmp_path, "scratch", "(16,32,64)", "0")  # of three, so that one is left after the one it is killed in
    first = in_a_process(sweep_that_is_killed, words)
    first.join(300)
    assert first.exitcode == -signal.SIGKILL
    (done_before,) = tmp_path.glob("grid/*/seed-*/result.json")
    written = done_before.stat().st_mtime_ns

    seen = fits(monkeypatch)
    again = command(*words)
    assert again.code == 0, again.err
    assert again.result["points"] == 3
    assert done_before.stat().st_mtime_ns == written  # what was done is not done again
    point = json.loads((done_before.parents[1] / "point.json").read_text())
    *grid, (batch, labels) = seen
    assert {batch for batch, _ in grid} == {16, 32, 64} - {point["batch"]}
    assert batch == again.result["scratch_batch"] == 32  # the best of all three
    assert labels == again.result["labels"] > max(size for _, size in grid)  # the held-out ones are among them


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

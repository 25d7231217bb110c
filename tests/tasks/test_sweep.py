"""Sweeps over tiny grids; those that are killed or shared run in processes of their own."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import command

ROOT = Path(__file__).parents[2]


def flags(pretrained, workdir, batches="(16,32)", rates="(1e-3,)"):
    return (
        "--mode=sweep", f"--workdir={workdir}", f"--init={pretrained.workdir}", "--label_fraction=0.05", "--seeds=0,1",
        f"--config.sweep.batches={batches}", f"--config.sweep.learning_rates={rates}", "--config.finetune.epochs=1",
        "--config.run.checkpoint_every=1",
    )  # fmt: skip


@pytest.fixture(scope="module")
def swept(pretrained, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("swept")
    done = command(*flags(pretrained, workdir))
    assert done.code == 0, done.err
    return workdir, done.result


def test_the_table_has_both_starts_with_mean_and_spread(swept):
    workdir, result = swept
    rows = list(csv.DictReader((workdir / "table.csv").open()))
    assert [row["start"] for row in rows] == ["pretrained", "scratch"]
    for row in rows:
        runs = [json.loads(p.read_text()) for p in sorted(workdir.glob(f"final/{row['start']}/seed-*/result.json"))]
        tops = [run["top1"] for run in runs]
        assert len(tops) == 2 and {run["images"] for run in runs} == {360}
        assert float(row["top1_mean"]) == pytest.approx(sum(tops) / 2)
        assert float(row["top1_sd"]) == pytest.approx(abs(tops[0] - tops[1]) / 2**0.5)
    assert result["points"] == 4
    assert "| pretrained |" in (workdir / "table.md").read_text()
    assert (workdir / "figures" / "grid.png").exists()


def test_points_are_compared_on_held_out_training_images_alone(swept):
    workdir, _ = swept
    points = [json.loads(p.read_text()) for p in workdir.glob("grid/*/point.json")]
    assert len(points) == 4
    for run in workdir.glob("grid/*/seed-*/result.json"):
        images = json.loads(run.read_text())["images"]
        assert images < 72  # a part of the 5% labelled; the validation split has 360
    for start in ("pretrained", "scratch"):
        best = max((p for p in points if p["start"] == start), key=lambda p: p["held_out_top1"])
        chosen = json.loads((workdir / "result.json").read_text())
        held = {p["batch"]: p["held_out_top1"] for p in points if p["start"] == start}
        assert held[chosen[f"{start}_batch"]] == best["held_out_top1"]


def test_held_out_and_training_images_are_disjoint_and_stratified():
    import numpy as np

    from pf_keras.config import DataConfig
    from pf_keras.data.labels import hold_out, labelled_subset
    from pf_keras.data.sources import open_source

    labelled = labelled_subset(open_source(DataConfig()).train, 0.1)
    train, held = hold_out(labelled, 0.2)
    assert not set(train.names) & set(held.names) and train.size + held.size == labelled.size
    assert np.bincount(held.labels, minlength=10).min() >= 1


def process(pretrained, workdir, tuner=None, port=None, **kwargs):
    environment = dict(os.environ)
    if tuner:
        environment |= {
            "KERASTUNER_TUNER_ID": tuner, "KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port),
        }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *flags(pretrained, workdir, **kwargs)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )


def test_killed_half_way_it_goes_on_with_what_is_left(pretrained, tmp_path):
    first = process(pretrained, tmp_path, batches="(16,)")
    while not list(tmp_path.glob("grid/*/seed-0/result.json")):
        assert first.poll() is None, first.stderr.read()[-2000:]
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    done_before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("grid/*/seed-*/result.json")}
    assert 0 < len(done_before) < 4

    again = command(*flags(pretrained, tmp_path, batches="(16,)"))
    assert again.code == 0, again.err
    assert again.result["points"] == 2
    for path, time_written in done_before.items():
        assert path.stat().st_mtime_ns == time_written  # what was done is not done again


@pytest.mark.slow
def test_two_workers_share_the_grid(pretrained, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    team = {name: process(pretrained, tmp_path, name, port) for name in ("chief", "worker0", "worker1")}
    results = {}
    for name, member in team.items():
        out, err = member.communicate(timeout=500)
        assert member.returncode == 0, err[-2000:]
        results[name] = json.loads(out.splitlines()[-1])
    assert results["worker0"]["runs"] + results["worker1"]["runs"] == 8
    assert min(results[name]["runs"] for name in ("worker0", "worker1")) > 0
    assert results["chief"]["points"] == 4 and (tmp_path / "table.md").exists()

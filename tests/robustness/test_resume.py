"""A run that is killed and started again is the run that was never stopped."""

import random
import signal
import time

import pytest

from tests.robustness.runs import TINY, Run, digest, metrics

STEPS = int(TINY["pretrain.steps"])


def never_stopped(workdir, fields=None):
    run = Run(workdir, fields)
    assert run.wait() == 0, run.stderr
    return run.workdir


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The workdir of a run that nothing stopped."""
    return never_stopped(tmp_path_factory.mktemp("unbroken") / "run")


def same_run(run, unbroken, steps=STEPS):
    assert digest(run.workdir, steps) == digest(unbroken, steps)
    assert metrics(run.workdir) == metrics(unbroken)


def test_killed_between_steps_and_while_saving(unbroken, tmp_path):
    run = Run(tmp_path / "run", signalled=(12, signal.SIGKILL))  # in the middle of a window of 7
    assert run.wait() == -signal.SIGKILL
    assert run.saved()[-1] == 10

    run = Run(tmp_path / "run", dies_saving=25)
    assert run.wait() == -signal.SIGKILL
    aside = tmp_path / "run" / "checkpoints"
    assert [p.name for p in (aside / ".step-00000025.writing").iterdir()] == ["model.weights.h5"]

    run = Run(tmp_path / "run")
    assert run.wait() == 0, run.stderr
    assert "going on from" in run.stderr
    same_run(run, unbroken)
    assert not [p for p in aside.iterdir() if p.name.startswith(".")]


@pytest.mark.long
def test_told_to_stop_saves_at_once(unbroken, tmp_path):
    for number, step in ((signal.SIGTERM, 9), (signal.SIGHUP, 21)):  # 21 ends a window
        run = Run(tmp_path / "run", {"run.checkpoint_every": "60min"}, signalled=(step, number))
        assert run.wait() == 128 + number
        last = run.stderr.splitlines()[-1]
        assert last == f"stopped by {number.name} at step {step}, which is saved: start again to go on"
        assert run.saved()[-1] == step

    run = Run(tmp_path / "run")
    assert run.wait() == 0, run.stderr
    same_run(run, unbroken)


def test_told_to_stop_before_the_first_step(tmp_path):
    run = Run(tmp_path / "run")
    assert run.wait_until(lambda: "parameters:" in run.stderr)
    assert run.kill(signal.SIGTERM) == 128 + signal.SIGTERM
    assert "Traceback" not in run.stderr and run.stderr.splitlines()[-1].startswith("stopped by SIGTERM")


@pytest.mark.slow
def test_many_kills_at_random_moments(tmp_path):
    """At least 20 kills, each of a run that has come a random time further, half of them SIGTERM."""
    steps = 3 * STEPS
    fields = {"pretrain.steps": str(steps), "run.checkpoint_every": "2"}
    unbroken = never_stopped(tmp_path / "unbroken", fields)
    chance, kills, saving = random.Random(0), 0, 0
    for trial in range(8):
        run, number = Run(tmp_path / f"run{trial}", fields), 0
        while run.process.is_alive():
            checkpoints = run.workdir / "checkpoints"
            if run.wait_until(lambda run=run, seen=run.stderr: run.stderr.count("step ") > seen.count("step ")):
                time.sleep(chance.random() * 0.6)
                if run.process.is_alive():
                    number = chance.choice([signal.SIGKILL, signal.SIGTERM])
                    code = run.kill(number)
                    kills += code != 0
                    saving += any("writing" in p.name for p in checkpoints.iterdir()) if checkpoints.exists() else 0
                    assert code in (0, -number, 128 + number), run.stderr
                    if code:
                        run = Run(tmp_path / f"run{trial}", fields)
        assert run.wait() == 0, run.stderr
        same_run(run, unbroken, steps)
        if kills >= 20:
            break
    print(f"{kills} kills, {saving} of them while a checkpoint was written: all runs the same")
    assert kills >= 20

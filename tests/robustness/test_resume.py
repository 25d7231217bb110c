"""A run that is killed and resumed gives the same numbers as an uninterrupted run."""

import random
import signal
import time

import pytest

from tests.robustness.runs import OPTIONS, TINY, Run, digest, metrics

STEPS = int(TINY["pretrain.steps"])


def uninterrupted(workdir, fields=None):
    """The workdir of a run that nothing stops."""
    run = Run(workdir, fields)
    assert run.wait() == 0, run.stderr
    return run.workdir


@pytest.fixture(scope="module", params=[{}, pytest.param(OPTIONS, marks=pytest.mark.long)], ids=["plain", "options"])
def fields(request):
    """The config fields of the runs, besides `TINY`."""
    return request.param


@pytest.fixture(scope="module")
def expected(fields, tmp_path_factory):
    """The workdir of an uninterrupted run."""
    return uninterrupted(tmp_path_factory.mktemp("uninterrupted") / "run", fields)


def check_same(run, expected, steps=STEPS):
    """Check that a run has the same weights and metrics as the run in the workdir `expected`."""
    assert digest(run.workdir, steps) == digest(expected, steps)
    assert metrics(run.workdir) == metrics(expected)


def test_killed_between_steps_and_while_saving(expected, fields, tmp_path):
    run = Run(tmp_path / "run", fields, signalled=(12, signal.SIGKILL))  # within a log interval of 7 steps
    assert run.wait() == -signal.SIGKILL
    assert run.saved()[-1] == 10

    run = Run(tmp_path / "run", fields, dies_saving=25)
    assert run.wait() == -signal.SIGKILL
    checkpoints = tmp_path / "run" / "checkpoints"
    written = {p.name for p in (checkpoints / ".step-00000025.writing").iterdir()}
    assert written == {"model.weights.h5", *(["averaged.weights.h5"] if fields else [])}

    run = Run(tmp_path / "run", fields)
    assert run.wait() == 0, run.stderr
    assert "resuming from" in run.stderr
    check_same(run, expected)
    assert not [p for p in checkpoints.iterdir() if p.name.startswith(".")]


@pytest.mark.long
def test_stop_signal_saves_at_once(expected, fields, tmp_path):
    for number, step in ((signal.SIGTERM, 9), (signal.SIGHUP, 21)):  # step 21 ends a log interval
        run = Run(tmp_path / "run", {**fields, "run.checkpoint_every": "60min"}, signalled=(step, number))
        assert run.wait() == 128 + number
        last = run.stderr.splitlines()[-1]
        assert last == f"stopped by {number.name} at step {step}, which is saved: run the same command again to resume"
        assert run.saved()[-1] == step

    run = Run(tmp_path / "run", fields)
    assert run.wait() == 0, run.stderr
    check_same(run, expected)


def test_stop_signal_before_the_first_step(tmp_path):
    run = Run(tmp_path / "run")
    assert run.wait_until(lambda: "parameters:" in run.stderr)
    assert run.kill(signal.SIGTERM) == 128 + signal.SIGTERM
    assert "Traceback" not in run.stderr and run.stderr.splitlines()[-1].startswith("stopped by SIGTERM")


@pytest.mark.slow
def test_many_kills_at_random_moments(tmp_path):
    """At least 20 kills, each at a random time after a log line. About half are SIGTERM."""
    steps = 3 * STEPS
    fields = {**OPTIONS, "pretrain.steps": str(steps), "run.checkpoint_every": "2"}
    expected = uninterrupted(tmp_path / "uninterrupted", fields)
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
        check_same(run, expected, steps)
        if kills >= 20:
            break
    print(f"{kills} kills, {saving} of them while a checkpoint was written: all runs have the same numbers")
    assert kills >= 20

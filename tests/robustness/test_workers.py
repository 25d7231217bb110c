"""Faults of workers that train together: the others end in time with one line, and the run resumes."""

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pf_keras.training.rendezvous import Stranger, meet
from pf_keras.training.workers import SILENT_SECONDS
from tests.robustness.runs import Run, digest, metrics
from tests.robustness.teams import SHARED, Team, free_ports

FIELDS = {"pretrain.steps": "12", "run.log_every": "3", "run.checkpoint_every": "3"}
BUSY = 60  # seconds that a busy machine may add


def last_line(run, limit):
    """The line with which a worker ends within `limit` seconds, with exit code 2 and no more lines about it."""
    assert run.wait(limit) == 2, run.stderr[-2000:]
    lines = run.stderr.splitlines()
    assert "Traceback" not in run.stderr and sum(line.startswith("error: ") for line in lines) == 1
    return lines[-1]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The workdir of two workers that nothing stops."""
    team = Team(tmp_path_factory.mktemp("unbroken") / "run")
    for worker in [team.start(index, FIELDS) for index in range(2)]:
        worker.result()
    return team.workdir


@pytest.mark.long
@pytest.mark.parametrize(
    ("victim", "number"),
    [
        (1, signal.SIGKILL),
        (0, signal.SIGKILL),  # where the others register
        (1, signal.SIGSTOP),
        (0, signal.SIGSTOP),
    ],
)
def test_others_stop_when_a_worker_is_killed_or_hangs_and_the_run_resumes(victim, number, unbroken, tmp_path):
    team = Team(tmp_path / "run")
    workers = [team.start(i, FIELDS, signalled=(8, number) if i == victim else (0, 0)) for i in range(2)]
    lost, other = workers[victim], workers[1 - victim]
    assert other.wait_until(lambda: "step 6/12" in other.stderr, 240) or other.process.exitcode == 2
    line = last_line(other, 2 * SILENT_SECONDS + BUSY)
    assert "of TF_CONFIG ended or was not heard of for 60 s, so this one stops" in line and "resume" in line
    if number == signal.SIGSTOP:  # what hung may wake up, or not
        os.kill(lost.process.pid, signal.SIGCONT)
        assert "so this one stops" in last_line(lost, SILENT_SECONDS + BUSY)
    else:
        assert lost.wait() == -number

    first = team.start(victim, FIELDS, "-again")
    time.sleep(5)  # the other starts late
    second = team.start(1 - victim, FIELDS, "-again")
    for worker in (first, second):
        worker.result()
        assert "resuming from" in worker.stderr and "step-00000006" in worker.stderr
    assert digest(team.workdir, 12) == digest(unbroken, 12)
    assert metrics(team.workdir) == metrics(unbroken)


@pytest.mark.parametrize(("index", "missing"), [(0, (1, 2)), pytest.param(1, (0,), marks=pytest.mark.long)])
def test_worker_names_those_that_do_not_come(index, missing, tmp_path):
    team = Team(tmp_path / "run", count=3, wait=3)
    line = last_line(team.start(index), 60 + BUSY)
    assert line.startswith("error: Not all 3 workers of TF_CONFIG came within 3 s. Missing: ")
    assert all((f"worker {i} ({team.addresses[i]})" in line) == (i in missing) for i in range(3)), line


def test_port_in_use(tmp_path):
    team = Team(tmp_path / "run")
    with socket.create_server(("", int(team.addresses[1].rpartition(":")[2]))):
        line = last_line(team.start(1), 60 + BUSY)
    assert line.startswith(f"error: Cannot listen at {team.addresses[1]} of TF_CONFIG: Address already in use")


def test_wait_must_be_a_number_of_seconds(tmp_path):
    line = last_line(Team(tmp_path / "run", wait="soon").start(0), 60 + BUSY)
    assert line == "error: PF_KERAS_WAIT is soon, not a number of seconds. Use for example PF_KERAS_WAIT=600."


@pytest.mark.long
def test_four_workers_stop_when_one_is_killed(tmp_path):
    team = Team(tmp_path / "run", count=4)
    workers = [team.start(i, FIELDS, signalled=(8, signal.SIGKILL) if i == 2 else (0, 0)) for i in range(4)]
    for index in (0, 1, 3):
        assert "so this one stops" in last_line(workers[index], 300)
    for worker in [team.start(i, FIELDS, "-again") for i in range(4)]:
        worker.result()
    alone = Run(tmp_path / "alone", {**SHARED, **FIELDS})
    alone.result()
    for line, expected in zip(metrics(team.workdir), metrics(alone.workdir), strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-3)


def test_processes_of_another_run_are_turned_away():
    ports = free_ports(3)
    ours, others = ([f"localhost:{ports[0]}", f"localhost:{port}"] for port in ports[1:])
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(meet, ours, 0, 60)
        with pytest.raises(Stranger):
            meet(others, 1, 60)
        meet(ours, 1, 60)
        first.result()


@pytest.mark.long
def test_worker_that_dies_before_tensorflow_registers_it_leaves_nobody_hanging(tmp_path):
    team = Team(tmp_path / "run", wait=20)
    first = team.start(0)
    meet(team.addresses, 1, 120)  # this process is the other worker, and goes no further
    line = last_line(first, 20 + 2 * BUSY)
    assert line.startswith("error: The 2 workers of TF_CONFIG met, but did not connect within 20 s")


@pytest.mark.long
def test_address_that_is_no_tpu(tmp_path):
    """Something accepts connections there and says nothing."""
    with socket.create_server(("localhost", 0)) as server:
        address = f"grpc://localhost:{server.getsockname()[1]}"
        run = Run(tmp_path / "run", SHARED, stderr_file=tmp_path / "stderr", environment={"PF_KERAS_WAIT": "20"},
                  flags=[f"--tpu={address}"])  # fmt: skip
        assert f"error: Cannot use the TPU --tpu={address}: " in last_line(run, 20 + 2 * BUSY)

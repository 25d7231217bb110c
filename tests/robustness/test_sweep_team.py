"""Faults of a shared sweep: whoever loses the others ends in time with one line, and the sweep resumes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pf_keras.training.workers import SILENT_SECONDS
from tests.commands import TINY
from tests.robustness.teams import free_ports

ROOT = Path(__file__).parents[2]
BUSY = 90  # seconds that a busy machine may add


class Member:
    """A process of a sweep with a single point, `--mode=sweep` as typed."""

    def __init__(self, name, workdir, port, wait=240, **environment):
        flags = (
            "--mode=sweep", f"--workdir={workdir}", "--init=scratch", "--label_fraction=0.05", "--seeds=0",
            "--config.sweep.batches=(16,)", "--config.sweep.learning_rates=(1e-3,)", "--config.finetune.epochs=150",
            "--checkpoint_every=25", *TINY,
        )  # fmt: skip
        team = {"TUNER_ID": name, "ORACLE_IP": "127.0.0.1", "ORACLE_PORT": str(port)} if port else {}
        variables = {f"KERASTUNER_{key}": value for key, value in team.items()} | {"PF_KERAS_WAIT": str(wait)}
        environment = {k: v for k, v in (os.environ | variables | environment).items() if v is not None}
        self.began, self.file = time.monotonic(), Path(workdir).parent / f"{name}-{time.monotonic_ns()}"
        with self.file.open("wb") as file:
            command = [sys.executable, "main.py", *flags]
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)

    def lines(self):
        return self.file.read_text().splitlines()

    def last_line(self, limit):
        """The line with which it ends within `limit` seconds with exit code 2."""
        assert self.process.wait(limit) == 2, self.lines()[-20:]
        assert not any("Traceback" in line for line in self.lines()), self.lines()
        assert sum(line.startswith("error: ") for line in self.lines()) == 1
        return self.lines()[-1]

    def result(self):
        assert self.process.wait(600) == 0, self.lines()[-20:]
        return json.loads(self.lines()[-1])


@pytest.fixture
def port():
    return free_ports(1)[0]


@pytest.fixture
def member(tmp_path, port):
    """Starts members, and ends those that are left."""
    started = []

    def start(name, **options):
        started.append(Member(name, tmp_path / "sweep", port, **options))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def test_worker_without_a_chief(member, port):
    worker = member("worker0", wait=3)
    line = worker.last_line(3 + BUSY)
    assert line.startswith(f"error: No chief of the sweep answers at 127.0.0.1:{port} within 3 s. Start it with")
    assert f"waiting for the chief of the sweep at 127.0.0.1:{port}, for 3 s at most" in worker.lines()


@pytest.mark.long
def test_chief_without_workers(member, port):
    line = member("chief", wait=3).last_line(10 + BUSY)
    assert line.startswith(f"error: No worker came to the chief of the sweep at 127.0.0.1:{port} within 3 s.")


def test_port_of_the_chief_in_use(member, port):
    with socket.create_server(("", port)):
        line = member("chief").last_line(BUSY)
    variables = "KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT"
    assert line.startswith(f"error: Cannot listen at 127.0.0.1:{port} of {variables}: Address already in use")


def test_missing_variable(member):
    line = member("worker0", KERASTUNER_ORACLE_PORT=None).last_line(BUSY)
    variables = "KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_IP, KERASTUNER_ORACLE_PORT"
    assert line == f"error: KERASTUNER_TUNER_ID is set, but not KERASTUNER_ORACLE_PORT. Set all of {variables}, or none."


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The result of the sweep in one process that nothing stops."""
    return Member("alone", tmp_path_factory.mktemp("alone") / "sweep", None).result()


def wait_for_a_checkpoint(workdir, *members):
    end = time.monotonic() + 300
    while not list(workdir.glob("grid/*/seed-0/checkpoints/step-*")):
        assert time.monotonic() < end and all(m.process.poll() is None for m in members), [m.lines()[-5:] for m in members]
        time.sleep(0.1)


@pytest.mark.long
@pytest.mark.parametrize("fault", ["chief killed", "chief restarted", "worker killed", "worker hangs"])
def test_sweep_that_loses_a_process_resumes(fault, member, alone, tmp_path, port):
    chief, worker = member("chief"), member("worker0")
    wait_for_a_checkpoint(tmp_path / "sweep", chief, worker)
    if fault.startswith("chief"):
        chief.process.kill()
        chief.process.wait()
        if fault == "chief restarted":
            chief = member("chief")
        line = worker.last_line(SILENT_SECONDS + 30 + BUSY)
        assert line.startswith(f"error: The chief of the sweep at 127.0.0.1:{port} "), line
    else:
        worker.process.send_signal(signal.SIGKILL if fault == "worker killed" else signal.SIGSTOP)
        line = chief.last_line(SILENT_SECONDS + 30 + BUSY)
        assert line.startswith("error: The sweep waits for worker0 alone, not heard of for 60 s. Finished points are kept: ")
        assert any(line.startswith("warning: worker0 has not been heard of for 60 s.") for line in chief.lines())
        worker.process.kill()
        worker.process.wait()
    if chief.process.poll() is not None:
        chief = member("chief")
    assert member("worker0").result()["runs"] <= 1
    assert chief.result() == alone

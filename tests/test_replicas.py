"""Losses and gradient norms are the same for any number of devices, processes and steps per execution, on both backends."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from backends import ENVIRONMENTS

from tests.robustness.runs import Run

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.long


def start(*command, **environment):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **environment}
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def result_of(process):
    """The last line that a process prints, as JSON."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(tmp_path_factory.mktemp("weights") / "initial.npz")


@pytest.fixture(scope="module")
def one_device(weights):
    """The first steps on one device, `[[loss, gradient norm], ...]`."""
    return result_of(start("tests/replicas_run.py", weights, "1", **ENVIRONMENTS["tensorflow"]))


# TensorFlow traces the step for each replica, so that eight take a minute. Two are tested below.
SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in (("tensorflow", 8), ("jax", 1), ("jax", 2))]


@pytest.mark.parametrize("backend, replicas", [("jax", 8), *SLOW])
def test_replicas_and_backends_agree(one_device, weights, backend, replicas):
    environment = dict(ENVIRONMENTS[backend])
    if backend == "jax":
        environment["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={replicas}"
    steps = result_of(start("tests/replicas_run.py", weights, str(replicas), **environment))
    assert len(steps) == 5
    np.testing.assert_allclose(steps, one_device, rtol=1e-4)


def test_two_replicas_with_all_steps_in_one_execution_agree(one_device, weights):
    steps = result_of(start("tests/replicas_run.py", weights, "2", "5", **ENVIRONMENTS["tensorflow"]))
    np.testing.assert_allclose(steps, [[np.mean([loss for loss, _ in one_device]), one_device[-1][1]]], rtol=1e-4)


SHARED = {"pretrain.batch": "16", "pretrain.steps": "4", "run.log_every": "2", "run.eval_batch": "32", "model.dropout": "0"}
LOGGED = ("step", "loss", "gradient_norm", "learning_rate")


def metrics(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [[line[name] for name in LOGGED] for line in lines]


def two_workers(workdir, *fields):
    """The results of two workers on this machine that train together. `fields` are the config fields of each."""
    sockets = [socket.socket() for _ in fields]
    for free in sockets:
        free.bind(("localhost", 0))
    addresses = [f"localhost:{free.getsockname()[1]}" for free in sockets]
    for free in sockets:
        free.close()
    workers = []
    for index, own in enumerate(fields):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        stderr_file, environment = workdir.with_name(f"worker{index}"), {"TF_CONFIG": json.dumps(task)}
        workers.append(Run(workdir, {**SHARED, **own}, figures=True, stderr_file=stderr_file, environment=environment))
    return [worker.result() for worker in workers]


def test_two_workers_train_and_score_as_one_process(tmp_path):
    alone = Run(tmp_path / "alone", SHARED, figures=True)
    expected, workers = alone.result(), tmp_path / "workers"
    # The second worker's clock says that a save is due at every step. The clock of the first, which writes, never does.
    rare, often = ({"run.checkpoint_every": f"{minutes}min"} for minutes in ("60", "0.00001"))
    results = two_workers(workers, rare, often)
    np.testing.assert_allclose(metrics(workers), metrics(alone.workdir), rtol=1e-4)
    for result in results:
        assert result["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert result["marginal_entropy"] == pytest.approx(expected["marginal_entropy"], rel=1e-6)
    saved = sorted(path.name for path in (workers / "checkpoints").iterdir())
    assert saved == ["step-00000002", "step-00000004"]  # at the ends of log intervals

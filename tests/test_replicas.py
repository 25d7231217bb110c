"""The same losses and gradient norms on any number of devices, processes and steps an execution, and both backends."""

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


def answer(process):
    """The last line that a process writes, as JSON."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(tmp_path_factory.mktemp("weights") / "initial.npz")


@pytest.fixture(scope="module")
def alone(weights):
    """The first steps of one device: [[loss, gradient norm], ...]."""
    return answer(start("tests/replicas_run.py", weights, "1", **ENVIRONMENTS["tensorflow"]))


# Two replicas of TensorFlow have the test below. It traces a step for each replica: eight take a minute.
SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in (("tensorflow", 8), ("jax", 1), ("jax", 2))]


@pytest.mark.parametrize("backend, replicas", [("jax", 8), *SLOW])
def test_replicas_and_backends_agree(alone, weights, backend, replicas):
    environment = dict(ENVIRONMENTS[backend])
    if backend == "jax":
        environment["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={replicas}"
    steps = answer(start("tests/replicas_run.py", weights, str(replicas), **environment))
    assert len(steps) == 5
    np.testing.assert_allclose(steps, alone, rtol=1e-4)


def test_two_replicas_agree_with_all_steps_in_one_execution(alone, weights):
    steps = answer(start("tests/replicas_run.py", weights, "2", "5", **ENVIRONMENTS["tensorflow"]))
    np.testing.assert_allclose(steps, [[np.mean([loss for loss, _ in alone]), alone[-1][1]]], rtol=1e-4)


SHARED = {"pretrain.batch": "16", "pretrain.steps": "4", "run.log_every": "2", "run.eval_batch": "32", "model.dropout": "0"}
LOGGED = ("step", "loss", "gradient_norm", "learning_rate")


def metrics(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [[line[name] for name in LOGGED] for line in lines]


def two_workers(workdir, *fields):
    """Two workers of this machine that train together, each with fields of its own; returns what each answers."""
    sockets = [socket.socket() for _ in fields]
    for free in sockets:
        free.bind(("localhost", 0))
    places = [f"localhost:{free.getsockname()[1]}" for free in sockets]
    for free in sockets:
        free.close()
    workers = []
    for index, own in enumerate(fields):
        task = {"cluster": {"worker": places}, "task": {"type": "worker", "index": index}}
        written, environment = workdir.with_name(f"worker{index}"), {"TF_CONFIG": json.dumps(task)}
        workers.append(Run(workdir, {**SHARED, **own}, figures=True, stderr_file=written, environment=environment))
    return [worker.result() for worker in workers]


def test_two_workers_train_and_score_as_one_process(tmp_path):
    alone = Run(tmp_path / "alone", SHARED, figures=True)
    whole, workers = alone.result(), tmp_path / "workers"
    # For the second it is always time to save, for the first, which writes, it never is.
    rare, often = ({"run.checkpoint_every": f"{minutes}min"} for minutes in ("60", "0.00001"))
    results = two_workers(workers, rare, often)
    np.testing.assert_allclose(metrics(workers), metrics(alone.workdir), rtol=1e-4)
    for result in results:
        assert result["loss"] == pytest.approx(whole["loss"], rel=1e-4)
        assert result["marginal_entropy"] == pytest.approx(whole["marginal_entropy"], rel=1e-6)
    saved = sorted(path.name for path in (workers / "checkpoints").iterdir())
    assert saved == ["step-00000002", "step-00000004"]  # at the ends of windows

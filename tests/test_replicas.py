"""Losses, gradient norms and averaged weights are the same for any number of devices, processes and steps per execution.

Also for a batch in parts, and on both backends.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from backends import ENVIRONMENTS

from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.workdir import Workdir
from tests.robustness.runs import Run
from tests.robustness.teams import SHARED, Team

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
    """The first steps on one device, `[[loss, gradient norm, size of an averaged weight], ...]`."""
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
    np.testing.assert_allclose(steps, as_one_execution(one_device), rtol=1e-4)


def as_one_execution(steps):
    return [[np.mean([loss for loss, *_ in steps]), *steps[-1][1:]]]


@pytest.fixture(scope="module")
def in_two_parts(weights, one_device):
    """The first steps on one device, with each batch in two parts, so that batch norm sees half a batch."""
    return result_of(start("tests/replicas_run.py", weights, "1", "1", "2", **ENVIRONMENTS["tensorflow"]))


def test_parts_of_a_batch_on_two_replicas_and_eight_devices(one_device, in_two_parts, weights):
    assert np.abs(np.array(in_two_parts) / one_device - 1).max() > 1e-3
    several = start("tests/replicas_run.py", weights, "2", "5", "2", **ENVIRONMENTS["tensorflow"])
    environment = dict(ENVIRONMENTS["jax"])
    environment["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
    under_jax = result_of(start("tests/replicas_run.py", weights, "8", "1", "2", **environment))
    np.testing.assert_allclose(under_jax, in_two_parts, rtol=1e-4)
    np.testing.assert_allclose(result_of(several), as_one_execution(in_two_parts), rtol=1e-4)


LOGGED = ("step", "loss", "gradient_norm", "learning_rate")
OPTIONS = {"pretrain.accumulate": "2", "pretrain.ema": "0.5", "pretrain.probe_every": "2", "pretrain.probe_images": "60"}


def metrics(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [[line[name] for name in LOGGED] for line in lines]


def two_workers(workdir, *fields):
    """The results of two workers on this machine that train together. `fields` are the config fields of each."""
    team = Team(workdir)
    workers = [team.start(index, own, figures=True) for index, own in enumerate(fields)]
    return [worker.result() for worker in workers]


@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["plain", "options"])
def test_two_workers_train_and_score_as_one_process(tmp_path, options):
    alone = Run(tmp_path / "alone", {**SHARED, **options}, figures=True)
    expected, workers = alone.result(), tmp_path / "workers"
    # The second worker's clock says that a save is due at every step. The clock of the first, which writes, never does.
    rare, often = ({**options, "run.checkpoint_every": f"{minutes}min"} for minutes in ("60", "0.00001"))
    results = two_workers(workers, rare, often)
    np.testing.assert_allclose(metrics(workers), metrics(alone.workdir), rtol=1e-4)
    for result in results:
        assert result["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert result["marginal_entropy"] == pytest.approx(expected["marginal_entropy"], rel=1e-6)
    probed = ["knn_top1" in line for line in MetricsLog(Workdir(workers)).lines()]
    assert probed == [bool(options)] * 2
    saved = sorted(path.name for path in (workers / "checkpoints").iterdir())
    assert saved == ["step-00000002", "step-00000004"]  # at the ends of log intervals

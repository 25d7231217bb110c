"""Probes and hold-outs on several devices, under both backends. Each command has a process of its own.

A process trains one model on several parts of the CPU, because TensorFlow keeps the groups of its collective operations.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from backends import ENVIRONMENTS
from commands import TINY

from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.workdir import Workdir

ROOT = Path(__file__).parents[2]
PRETRAIN = (*TINY, "--mode=pretrain", "--config.pretrain.steps=6", "--config.pretrain.batch=32", "--config.run.log_every=2",
            "--config.run.steps_per_execution=2")  # fmt: skip
PROBES = ("--config.pretrain.probe_every=4", "--config.pretrain.probe_images=100")
FINETUNE = ("--mode=finetune", "--label_fraction=0.2", "--config.finetune.epochs=3", "--config.finetune.batch=32",
            "--config.finetune.holdout=0.2", "--config.finetune.evaluate_every=4",
            "--config.finetune.learning_rate=0.01")  # fmt: skip

COMMAND = """
import os, signal, sys
import keras, tensorflow as tf
from pf_keras import cli
from pf_keras.training.callbacks import Guard

replicas, stop_at = int(sys.argv[1]), int(sys.argv[2])
if keras.backend.backend() == "tensorflow":
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
original = Guard.on_train_batch_end

def end(self, batch, logs=None):
    original(self, batch, logs)
    if self.step == stop_at:
        os.kill(os.getpid(), signal.SIGTERM)

Guard.on_train_batch_end = end
sys.exit(cli.main(["pf-keras", *sys.argv[3:]]))
"""


def run(backend, replicas, *flags, stop_at=0):
    """The result of a command on several devices, or its exit code where a signal stops it after a step."""
    environment = {**os.environ, **ENVIRONMENTS[backend], "PYTHONPATH": str(ROOT)}
    if backend == "jax":
        environment["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={replicas}"
    arguments = [sys.executable, "-c", COMMAND, str(replicas), str(stop_at), *flags]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, env=environment)
    if stop_at:
        return done.returncode
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def metrics(path):
    """The lines of `metrics.jsonl` without the throughput."""
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in MetricsLog(Workdir(path)).lines()]


SLOW = pytest.param("jax", 1, marks=pytest.mark.slow)
DEVICES = pytest.mark.parametrize("backend, replicas", [("tensorflow", 2), ("jax", 2), SLOW])


@pytest.mark.long
@DEVICES
def test_probes_on_several_devices_leave_the_training_as_it_is(tmp_path, backend, replicas):
    plain = run(backend, replicas, *PRETRAIN, f"--workdir={tmp_path / 'plain'}")
    probed = run(backend, replicas, *PRETRAIN, *PROBES, f"--workdir={tmp_path / 'probed'}")
    lines = metrics(tmp_path / "probed")
    found = {line["step"]: (line.pop("knn_top1"), line.pop("linear_top1")) for line in lines if "knn_top1" in line}
    assert list(found) == [4, 6] and all(0.1 < score < 1 for pair in found.values() for score in pair)
    assert lines == metrics(tmp_path / "plain") and probed["loss"] == plain["loss"]


@pytest.mark.long
@DEVICES
def test_hold_out_on_several_devices_chooses_the_same_when_a_run_is_stopped(tmp_path, backend, replicas):
    flags = (*FINETUNE, *TINY, "--init=scratch", "--config.run.log_every=2")
    result = run(backend, replicas, *flags, f"--workdir={tmp_path / 'whole'}")
    lines = metrics(tmp_path / "whole")
    scores = {line["step"]: line["holdout_top1"] for line in lines if "holdout_top1" in line}
    assert scores[result["best_step"]] == max(scores.values()) == result["holdout_top1"]
    assert list(scores) == [line["step"] for line in lines if "validation_top1" in line]

    stopped = (*flags, f"--workdir={tmp_path / 'stopped'}")
    assert run(backend, replicas, *stopped, stop_at=10) == 128 + signal.SIGTERM
    resumed = run(backend, replicas, *stopped)
    assert metrics(tmp_path / "stopped") == lines
    for name in ("best_step", "holdout_top1", "top1", "top5", "stopped_at"):
        assert resumed[name] == result[name]

    evaluated = run(backend, replicas, "--mode=evaluate", f"--workdir={tmp_path / 'whole'}")
    assert (evaluated["steps"], evaluated["top1"]) == (result["best_step"], result["top1"])

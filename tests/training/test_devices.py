"""Which devices a run uses, how batches are distributed over hosts and replicas, and the errors where that fails."""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest

from pf_keras.config import AugmentConfig, Config, FinetuneConfig, ModelConfig, PretrainConfig, RunConfig, TargetConfig
from pf_keras.data.digits import open_digits
from pf_keras.data.pipeline import evaluation_batches, training_batches
from pf_keras.errors import UserError
from pf_keras.noise import pretrain_noise
from pf_keras.training.devices import Devices, open_devices

CONFIG = Config(model=ModelConfig(image_size=32, grid=4), target=TargetConfig(size=4), augment=AugmentConfig(jitter_size=7))


def first_batches(make, count):
    """The first `count` global batches, put together from the parts of all hosts in the order of hosts and replicas."""
    batches = []
    for _, parts in zip(range(count), zip(*map(iter, make), strict=True), strict=False):
        batches.append({name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]})
    return batches


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_have_the_batch_of_a_single_host(hosts):
    make = partial(training_batches, open_digits()[0], CONFIG, 16, pretrain_noise(CONFIG), start_step=89)
    whole = first_batches([make()], 3)  # an epoch ends within these
    divided = first_batches([make(host=host, hosts=hosts, replicas=hosts) for host in range(hosts)], 3)
    for one, several in zip(whole, divided, strict=True):
        for name, value in one.items():
            np.testing.assert_array_equal(several[name], value)


def test_host_divides_its_part_among_its_replicas():
    make = partial(training_batches, open_digits()[0], CONFIG, 16, pretrain_noise(CONFIG))
    parts = iter(make(host=1, hosts=2, replicas=4))
    own = np.concatenate([np.asarray(next(parts)["mask_noise"]) for _ in range(2)])
    np.testing.assert_array_equal(own, np.asarray(next(iter(make()))["mask_noise"])[8:])


def test_hosts_together_evaluate_every_example_in_order():
    make = partial(evaluation_batches, open_digits()[1], CONFIG, 16, pretrain_noise(CONFIG))
    whole = [np.asarray(batch["mask_noise"]) for batch in make()]
    hosts = [iter(make(host=host, hosts=2, replicas=4)) for host in range(2)]
    dealt = [np.asarray(next(hosts[i % 2])["mask_noise"]) for i in range(4 * len(whole))]
    np.testing.assert_array_equal(np.concatenate(dealt), np.concatenate(whole))
    assert all(next(host, None) is None for host in hosts)


def test_batch_must_be_a_multiple_of_the_replicas():
    Devices("tpu", 8).check_batch("pretrain.batch", 128)
    with pytest.raises(UserError, match="pretrain.batch is 100, which 8 replicas cannot split evenly. Use 96 or 104."):
        Devices("tpu", 8).check_batch("pretrain.batch", 100)
    with pytest.raises(UserError, match="run.eval_batch is 5, which 8 replicas cannot split evenly. Use 8."):
        Devices("tpu", 8).check_batch("run.eval_batch", 5)


def test_training_must_fit_the_devices():
    run = RunConfig(steps_per_execution=5, log_every=50)
    Devices("tpu", 8).check_run(run, 100, pretrain=PretrainConfig(batch=64, accumulate=4))
    with pytest.raises(UserError, match="pretrain.batch is 100, which 8 replicas"):
        Devices("tpu", 8).check_run(run, 100, pretrain=PretrainConfig(batch=100))
    with pytest.raises(UserError, match="run.eval_batch is 100, which 8 replicas"):
        Devices("tpu", 8).check_run(RunConfig(eval_batch=100), 100, pretrain=PretrainConfig(batch=64))


def test_parts_of_a_batch_must_be_equal():
    settings = FinetuneConfig(batch=64, accumulate=16)
    Devices("cpu", 1).check_run(RunConfig(), 100, finetune=settings)
    with pytest.raises(UserError, match="finetune.batch is 64, 8 on each of 8 replicas, which finetune.accumulate=16 does not"):
        Devices("tpu", 8).check_run(RunConfig(), 100, finetune=settings)
    with pytest.raises(UserError, match="pretrain.batch is 64, which pretrain.accumulate=3 does not divide evenly. Change one"):
        Devices("cpu", 1).check_run(RunConfig(), 100, pretrain=PretrainConfig(batch=64, accumulate=3))


def test_steps_must_be_a_multiple_of_steps_per_execution():
    devices, run = Devices("cpu", 1), RunConfig(steps_per_execution=5, log_every=50)
    devices.check_run(run, 100)
    with pytest.raises(UserError, match="run.log_every is 12, which is not a multiple of run.steps_per_execution=5"):
        devices.check_run(RunConfig(steps_per_execution=5, log_every=12), 100)
    with pytest.raises(UserError, match="number of steps is 101, which is not a multiple of run.steps_per_execution=5"):
        devices.check_run(run, 101)


def test_error_where_there_is_no_tpu():
    code = """
import sys
from pf_keras.errors import UserError
from pf_keras.training.devices import open_devices
for name in sys.argv[1:]:
    try:
        open_devices(tpu=name)
    except UserError as error:
        print(error)
"""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path]), "JAX_PLATFORMS": ""}
    command = [sys.executable, "-c", code, "local", "no-such-tpu"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr[-2000:]
    assert lines[0].startswith("Cannot use the TPU --tpu=local: this machine has no TPU (/dev/accel*")
    assert lines[1].startswith("Cannot use the TPU --tpu=no-such-tpu: ")


@pytest.mark.parametrize("tpu", ["local", "grpc://127.0.0.1:1"])
def test_command_without_its_tpu_ends_at_once(tpu, tmp_path):
    command = [sys.executable, "main.py", "--mode=pretrain", f"--tpu={tpu}", f"--workdir={tmp_path}/run"]
    began = time.monotonic()
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert time.monotonic() - began < 20
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith(f"error: Cannot use the TPU --tpu={tpu}: ")


def test_precision_follows_the_devices():
    before = keras.config.dtype_policy()
    try:
        open_devices("auto")
        assert keras.config.dtype_policy().name == "float32"
        open_devices("mixed_bfloat16")
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy(before)


def cluster(*addresses, kind="worker", index=0):
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": kind, "index": index}})


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow reads TF_CONFIG")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not valid: Expecting"),
        ('["worker"]', "is not valid: "),
        ("7", "is not valid: "),
        ('{"cluster": {"worker": ["a:1"]}}', "has no 'task'"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}', "has no 'index'"),
        (cluster("a:1", index=1), "the task is worker 1, but the cluster has 1 of these"),
        (cluster("a:1", "b:1", index=-1), "the task is worker -1"),
        (cluster("a:1", "b:1", kind="ps"), "the task's type is 'ps', not chief or worker"),
        (cluster("a:1", "b:1", kind="chief"), "the task is chief 0, but the cluster has 0 of these"),
        (cluster("a:1", "b"), "'b' is no address HOST:PORT"),
        (cluster("a:1", "b:x"), "'b:x' is no address"),
        (cluster("a:1", "b:99999"), "'b:99999' is no address"),
        (cluster("a:1", "a:1"), "a:1 is there more than once"),
        ('{"cluster": {"worker": "a:1,b:1"}, "task": {"type": "worker", "index": 0}}', "not a list of addresses"),
    ],
)
def test_invalid_tf_config_is_an_error(text, said, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match=f"The environment's TF_CONFIG .*{said}") as caught:
        open_devices()
    assert "\n" not in str(caught.value) and "Unset it" in str(caught.value)

"""Which devices a run takes, how batches are spread over hosts and replicas, and what is said where that fails."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest

from pf_keras.config import AugmentConfig, Config, ModelConfig, RunConfig, TargetConfig
from pf_keras.data.digits import open_digits
from pf_keras.data.pipeline import evaluation_batches, pretrain_noise, training_batches
from pf_keras.errors import UserError
from pf_keras.training.execution import check_steps
from pf_keras.training.strategy import Devices, open_devices

CONFIG = Config(model=ModelConfig(image_size=32, grid=4), target=TargetConfig(size=4), augment=AugmentConfig(jitter_size=7))


def first_batches(make, count):
    """The first `count` global batches, as the hosts together hold them, in the order of hosts and replicas."""
    batches = []
    for _, parts in zip(range(count), zip(*map(iter, make), strict=True), strict=False):
        batches.append({name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]})
    return batches


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_hold_the_batch_of_one(hosts):
    make = partial(training_batches, open_digits()[0], CONFIG, 16, pretrain_noise(CONFIG), start_step=89)
    whole = first_batches([make()], 3)  # an epoch ends among them
    spread = first_batches([make(host=host, hosts=hosts, replicas=hosts) for host in range(hosts)], 3)
    for one, several in zip(whole, spread, strict=True):
        for name, value in one.items():
            np.testing.assert_array_equal(several[name], value)


def test_a_host_cuts_its_slice_for_its_replicas():
    make = partial(training_batches, open_digits()[0], CONFIG, 16, pretrain_noise(CONFIG))
    parts = iter(make(host=1, hosts=2, replicas=4))
    own = np.concatenate([np.asarray(next(parts)["mask_noise"]) for _ in range(2)])
    np.testing.assert_array_equal(own, np.asarray(next(iter(make()))["mask_noise"])[8:])


def test_an_evaluation_is_dealt_part_by_part_and_lacks_nothing():
    make = partial(evaluation_batches, open_digits()[1], CONFIG, 16, pretrain_noise(CONFIG))
    whole = [np.asarray(batch["mask_noise"]) for batch in make()]
    hosts = [iter(make(host=host, hosts=2, replicas=4)) for host in range(2)]
    dealt = [np.asarray(next(hosts[i % 2])["mask_noise"]) for i in range(4 * len(whole))]
    np.testing.assert_array_equal(np.concatenate(dealt), np.concatenate(whole))
    assert all(next(host, None) is None for host in hosts)


def test_batch_that_the_replicas_do_not_divide():
    Devices("tpu", 8).check_batch(128)
    with pytest.raises(UserError, match="8 replicas divide, received 100: use 96"):
        Devices("tpu", 8).check_batch(100)


def test_steps_that_an_execution_does_not_divide():
    check_steps(RunConfig(steps_per_execution=5, log_every=50), 100)
    with pytest.raises(UserError, match="run.log_every to be a multiple of run.steps_per_execution=5, received 12"):
        check_steps(RunConfig(steps_per_execution=5, log_every=12), 100)
    with pytest.raises(UserError, match="steps of the run to be a multiple .* received 101"):
        check_steps(RunConfig(steps_per_execution=5, log_every=50), 101)


def test_a_machine_without_a_tpu_says_so():
    code = """
import sys
from pf_keras.errors import UserError
from pf_keras.training.strategy import open_devices
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
    assert lines[0].startswith("expected a TPU at --tpu=local, received a ")
    assert lines[1].startswith("expected a TPU at --tpu=no-such-tpu, received ")


def test_precision_follows_the_devices():
    before = keras.config.dtype_policy()
    try:
        open_devices("auto")
        assert keras.config.dtype_policy().name == "float32"
        open_devices("mixed_bfloat16")
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("text", ["{", '["worker"]', '{"cluster": {"worker": ["a:1"]}}',
                                  '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}'])
def test_a_tf_config_that_is_none_is_named(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match="expected TF_CONFIG as TensorFlow's JSON"):
        open_devices()

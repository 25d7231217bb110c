"""What a run makes of GPUs: kind, precision, several of them, their memory. No GPU is needed, because the listing is faked."""

import logging
import os
import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path
from types import SimpleNamespace

import jax
import keras
import pytest
import tensorflow as tf

from pf_keras.training import gpus
from pf_keras.training.devices import Devices, open_devices

ROOT = Path(__file__).parents[2]
BACKENDS = ("tensorflow", "jax")


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Restore the precision, and keep the environment of the tests out."""
    before = keras.config.dtype_policy()
    for name in (*gpus.GROWTH, "CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", "TF_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    yield
    keras.config.set_dtype_policy(before)


def pretend(monkeypatch, backend, count):
    """Make `open_devices` see `count` GPUs under a backend. Returns what it did: the environment, and who shares the batch."""
    did = SimpleNamespace(environment={}, shared_by=None)

    def share(devices, **options):
        did.shared_by = list(devices)

    def listed(devices):
        def found(kind=None):
            did.environment = did.environment or dict(os.environ)
            return devices

        return found

    names = [f"GPU:{i}" for i in range(count)]
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: names)
    monkeypatch.setattr(tf.config, "list_logical_devices", listed([SimpleNamespace(name=name) for name in names]))
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", share)
    monkeypatch.setattr(jax, "devices", listed([SimpleNamespace(platform="gpu")] * count))
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: names)
    monkeypatch.setattr(keras.distribution, "DataParallel", share)
    monkeypatch.setattr(keras.distribution, "set_distribution", lambda distribution: None)
    return did


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [1, 4])
def test_a_run_takes_every_gpu_in_bfloat16(monkeypatch, capsys, backend, count):
    did = pretend(monkeypatch, backend, count)
    devices = open_devices("auto")
    assert (devices.kind, devices.replicas) == ("gpu", count)
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    assert did.shared_by == (None if count == 1 else ["GPU:0", "GPU:1", "GPU:2", "GPU:3"])
    assert str(devices) == ("1 gpu, mixed_bfloat16" if count == 1 else "4 gpus, mixed_bfloat16")
    assert capsys.readouterr().err == ""
    open_devices("float32")
    assert keras.config.dtype_policy().name == "float32"


def test_keras_compiles_the_step_of_one_gpu_but_not_the_exchange_of_several(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    assert Devices("gpu", 1).jit_compile and not Devices("gpu", 2).jit_compile and not Devices("cpu", 1).jit_compile
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert Devices("gpu", 1).jit_compile and Devices("gpu", 2).jit_compile


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_grows_from_the_first_look_at_the_devices(monkeypatch, backend):
    did = pretend(monkeypatch, backend, 1)
    open_devices()
    assert {name: did.environment.get(name) for name in gpus.GROWTH} == gpus.GROWTH


def test_memory_grows_in_every_mode_and_in_processes_that_it_starts(monkeypatch):
    """An export makes its SavedModel in a process that never opens devices."""
    from pf_keras import cli

    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    cli.read_flags(["pf-keras", "--mode=export"])
    cli.import_backend()
    assert {name: os.environ.get(name) for name in gpus.GROWTH} == gpus.GROWTH


def test_the_users_own_choice_of_memory_stays(monkeypatch):
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    gpus.grow_memory()
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "false" and os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"


READ = """
import os, sys
from unittest import mock
import pf_keras.tasks.pretrain
from jax._src import xla_bridge
from jaxlib import xla_client
from pf_keras.training.devices import open_devices
first = xla_bridge.make_cpu_client
def start(*arguments, **options):
    print(xla_client.generate_pjrt_gpu_plugin_options().get("preallocate"))
    return first(*arguments, **options)
xla_bridge.register_backend_factory("cpu", start, priority=0, fail_quietly=False)
open_devices()
"""


@pytest.mark.parametrize(("given", "read"), [({}, "False"), ({"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}, "True")])
def test_jax_reads_it_when_it_starts(given, read):
    """Nothing that a task imports starts JAX earlier."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", **given}
    done = subprocess.run([sys.executable, "-c", READ], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == [read], done.stderr[-2000:]


def installed_for_gpus(monkeypatch, backend):
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: backend == "tensorflow")
    plugins = ["numpy", "jax-cuda12-plugin"] if backend == "jax" else ["numpy"]
    found = [SimpleNamespace(metadata={"Name": name}) for name in plugins]
    monkeypatch.setattr(gpus.importlib.metadata, "distributions", lambda: found)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_build_for_gpus_says_that_it_runs_on_the_cpu(monkeypatch, capsys, backend):
    installed_for_gpus(monkeypatch, backend)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    gpus.warn_without_gpu(backend)
    (line,) = capsys.readouterr().err.splitlines()
    name = {"tensorflow": "TensorFlow", "jax": "JAX"}[backend]
    assert line.startswith(f"warning: {name} is installed for GPUs but finds none, so this runs on the CPU.")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    gpus.warn_without_gpu(backend)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    gpus.warn_without_gpu("jax" if backend == "tensorflow" else "tensorflow")  # which is installed for CPUs here
    assert capsys.readouterr().err == ""


def test_why_a_plugin_did_not_start_is_part_of_the_warning(monkeypatch, capsys, caplog):
    log = logging.getLogger("jax._src.xla_bridge")
    with gpus.plugin_errors() as errors:
        try:
            raise RuntimeError("cuInit failed:\n  no driver.")
        except RuntimeError:
            log.exception("Jax plugin configuration error")
        log.error("another message")
    assert errors == ["cuInit failed: no driver"] and [record.message for record in caplog.records] == ["another message"]
    installed_for_gpus(monkeypatch, "jax")
    gpus.warn_without_gpu("jax", errors)
    assert "runs on the CPU (cuInit failed: no driver). If there" in capsys.readouterr().err
    log.error("later")
    assert len(caplog.records) == 2


def test_only_a_run_on_the_cpu_is_warned(monkeypatch, capsys):
    installed_for_gpus(monkeypatch, keras.backend.backend())
    open_devices()
    assert "so this runs on the CPU" in capsys.readouterr().err
    pretend(monkeypatch, keras.backend.backend(), 1)
    open_devices()
    assert capsys.readouterr().err == ""


def test_the_plugins_are_looked_up_by_names_that_pip_knows():
    names = {Distribution.from_name("jax").metadata["Name"], *gpus.PLUGINS}
    wanted = " ".join(Distribution.from_name("jax").requires)
    assert all(name in wanted for name in names - {"jax"})

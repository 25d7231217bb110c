import contextlib
import gc
import importlib.metadata
import os
from types import SimpleNamespace

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as pf_keras sets it, also where a test imports TensorFlow first
for operations in ("INTRAOP", "INTEROP"):  # tests run side by side, and more threads would wait for each other
    os.environ.setdefault(f"TF_NUM_{operations}_THREADS", "1")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # else libtpu looks for a TPU for minutes

if os.environ.get("KERAS_BACKEND") == "jax":
    from backends import JAX

    for name, value in JAX.items():
        os.environ.setdefault(name, value)

from pf_keras.cli import without_collection  # noqa: E402 - it looks at the environment

with without_collection():
    import tensorflow  # noqa: F401
gc.set_threshold(100_000, 20, 50)  # the many objects of traced functions are looked at less often

with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    importlib.metadata.version("tensorflow-tpu")
    from keras.src.trainers import trainer

    from pf_keras.layers.kernels import CompiledWherePossible

    supports_jit = trainer.model_supports_jit

    def if_ours(model):
        """Keras would compile models of its own layers, which tests use too, with the XLA that is missing for CPUs."""
        return any(isinstance(layer, CompiledWherePossible) for layer in model._flatten_layers()) and supports_jit(model)

    trainer.model_supports_jit = if_ours


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """A pre-training of 20 steps: its `workdir`, and what `command` returned."""
    from commands import TINY, command

    workdir = tmp_path_factory.mktemp("pretrained")
    done = command("--mode=pretrain", f"--workdir={workdir}", *TINY, "--config.pretrain.steps=20",
                   "--config.pretrain.batch=32", "--config.run.log_every=10")
    assert done.code == 0, done.err
    return SimpleNamespace(workdir=workdir, **vars(done))


@pytest.fixture(scope="session")
def finetuned(tmp_path_factory, pretrained):
    """A fine-tuning of it with a tenth of the labels: its `workdir`, and what `command` returned."""
    from commands import command

    workdir = tmp_path_factory.mktemp("finetuned")
    done = command("--mode=finetune", f"--workdir={workdir}", f"--init={pretrained.workdir}", "--label_fraction=0.1",
                   "--config.finetune.epochs=6", "--config.finetune.batch=16")
    assert done.code == 0, done.err
    return SimpleNamespace(workdir=workdir, **vars(done))


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A `gs://` path for etils, which reads it by TensorFlow's file functions. Here they read a local folder instead."""
    import tensorflow as tf
    from etils.epath import backend

    def place(path):
        return os.fspath(path).replace("gs:/", str(tmp_path), 1) if str(path).startswith("gs:/") else path

    class Files:
        def __getattr__(self, name):
            real = getattr(tf.io.gfile, name)
            return lambda *paths, **options: real(*map(place, paths), **options)

    monkeypatch.setattr(backend._TfBackend, "gfile", property(lambda self: Files()))
    return "gs://bucket"

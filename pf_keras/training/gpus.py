"""NVIDIA GPUs: memory that several processes can share, and a warning where a build for GPUs finds none."""

import contextlib
import importlib.metadata
import logging
import os
import sys
from collections.abc import Iterator, Sequence

# Without these each framework takes nearly the whole memory of every GPU at once. Both read them when they start.
GROWTH = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")


def grow_memory() -> None:
    """Let TensorFlow and JAX take a GPU's memory as they need it, so that several processes can share the GPU.

    It must be called before either uses a device. Variables that the user set in the environment stay.
    """
    for name, value in GROWTH.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def plugin_errors() -> Iterator[list[str]]:
    """Collect why a plug-in of JAX did not start, within which JAX would print a traceback for each."""
    errors, log = [], logging.getLogger("jax._src.xla_bridge")

    def collect(record: logging.LogRecord) -> bool:
        if record.exc_info:
            errors.append(" ".join(str(record.exc_info[1]).split()).rstrip("."))
        return not record.exc_info

    log.addFilter(collect)
    try:
        yield errors
    finally:
        log.removeFilter(collect)


def warn_without_gpu(backend: str, reasons: Sequence[str] = ()) -> None:
    """Print a warning where the backend is installed with CUDA, so that somebody expects a GPU, but runs on the CPU.

    Args:
        backend: `tensorflow` or `jax`, which found no GPU.
        reasons: what `plugin_errors` collected.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if hidden or (backend == "jax" and os.environ.get("JAX_PLATFORMS") == "cpu") or not _has_cuda(backend):
        return
    name = {"tensorflow": "TensorFlow", "jax": "JAX"}[backend]
    reason = f" ({reasons[0]})" if reasons else ""
    print(
        f"warning: {name} is installed for GPUs but finds none, so this runs on the CPU{reason}. If there is a GPU, check "
        "what nvidia-smi says. To hide this warning, set CUDA_VISIBLE_DEVICES=-1.",
        file=sys.stderr,
    )


def _has_cuda(backend: str) -> bool:
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.test.is_built_with_cuda()
    installed = {distribution.metadata["Name"] for distribution in importlib.metadata.distributions()}
    return any(name in installed for name in PLUGINS)

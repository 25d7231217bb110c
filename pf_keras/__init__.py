"""PatchFormer: self-supervised pre-training by decoding masked patches, in Keras.

Importing this package is quick, because it imports Keras only when you use it. As soon as Keras is imported, by you or by
this package, the layers, models and optimizer are registered, so that saved files load without `custom_objects`.
"""

import importlib
import os
from typing import TYPE_CHECKING

import wrapt

if TYPE_CHECKING:
    from pf_keras import layers, models
    from pf_keras.command import run
    from pf_keras.config import Config, load_config
    from pf_keras.presets.save import save_preset
    from pf_keras.training.weights import load

__all__ = ["Config", "layers", "load", "load_config", "models", "run", "save_preset"]
__version__ = "0.2.0"

# TensorFlow includes oneDNN's kernels but enables them only on some processors. With AVX2 alone they make a step up to 1.4
# times as fast (docs/performance.md). TensorFlow reads the variable once, when it is imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Whether the user asks for the messages of native libraries. Importing JAX sets the variable too.
ASKED_FOR_MESSAGES = "TF_CPP_MIN_LOG_LEVEL" in os.environ

_HOME = {
    "Config": "pf_keras.config",
    "load_config": "pf_keras.config",
    "load": "pf_keras.training.weights",
    "run": "pf_keras.command",
    "save_preset": "pf_keras.presets.save",
}


def __getattr__(name: str) -> object:
    if name in ("layers", "models"):
        return importlib.import_module(f"pf_keras.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'pf_keras' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


@wrapt.when_imported("keras")
def _register(_) -> None:
    """Register the layers, models and optimizer with Keras."""
    for name in ("layers", "models", "training.optimizer"):
        importlib.import_module(f"pf_keras.{name}")

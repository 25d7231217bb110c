"""Imports the unchanged modules of a clone of facebookresearch/mae under current versions of timm and NumPy."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import timm.models.vision_transformer as vision_transformer


class Block(vision_transformer.Block):
    """Drops `qk_scale`, which the clone passes with its default and current timm no longer accepts."""

    def __init__(self, *arguments, qk_scale: None = None, **options):
        super().__init__(*arguments, **options)


def open_clone(folder: str | Path, *modules: str) -> list[ModuleType]:
    """Import the named modules of the clone in `folder`."""
    vision_transformer.Block = Block
    np.float = float  # the clone uses this name, which NumPy removed
    sys.path.insert(0, str(folder))
    return [importlib.import_module(name) for name in modules]

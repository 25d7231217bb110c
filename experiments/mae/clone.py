"""Makes the unchanged modules of a clone of facebookresearch/mae run under current versions of timm and NumPy."""

import sys
from pathlib import Path

import numpy as np
import timm.models.vision_transformer as vision_transformer


class Block(vision_transformer.Block):
    """Drops `qk_scale`, which the clone passes with its default and current timm no longer accepts."""

    def __init__(self, *arguments, qk_scale: None = None, **options):
        super().__init__(*arguments, **options)


def add_clone(folder: str | Path) -> None:
    """Make the modules of the clone in `folder` importable, such as `models_mae`."""
    vision_transformer.Block = Block
    np.float = float  # the clone uses this name, which NumPy removed
    sys.path.insert(0, str(folder))

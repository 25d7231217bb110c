"""The modules of a clone of facebookresearch/mae, as they are, under today's timm and NumPy."""

import importlib
import sys

import numpy as np
import timm.models.vision_transformer as vision_transformer


class Block(vision_transformer.Block):
    """The clone gives an argument, of no effect as it gives it, that today's timm no longer knows."""

    def __init__(self, *arguments, qk_scale=None, **options):
        super().__init__(*arguments, **options)


def open_clone(folder, *modules):
    """The named modules of the clone in `folder`."""
    vision_transformer.Block = Block
    np.float = float  # a name that the clone uses and NumPy dropped
    sys.path.insert(0, str(folder))
    return [importlib.import_module(name) for name in modules]

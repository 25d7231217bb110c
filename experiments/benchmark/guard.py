"""The ratios that must hold, measured in a few minutes: run it before and after a change that may cost speed."""

import argparse

from experiments.benchmark import input, start, step


def run(options):
    """Rows of `input`, `step` at small size, and `start`, of fewer images and rounds."""
    quick = {input: {"IMAGES": 600, "ROUNDS": 3, "LARGE": (64, 500)}, start: {"ROUNDS": 2}, step: {"ROUNDS": {"small": 3}}}
    for module, values in quick.items():
        for name, value in values.items():
            setattr(module, name, value)
    small = argparse.Namespace(**{**vars(options), "size": "small"})
    return [row for module in quick for row in module.run(small) if row.aim is not None]

"""The ratios, and two times of starting, that must hold: a few minutes, before and after a change that may cost speed."""

import argparse

from experiments.benchmark import input, start, step
from experiments.benchmark.models import BATCH


def run(options):
    """The rows with an aim of a quick `input`, `step` at small size, and `start`."""
    quick = argparse.Namespace(images=options.images, size="small", batch=BATCH["small"], quick=True)
    return [row for module in (input, step, start) for row in module.run(quick) if row.aim is not None]

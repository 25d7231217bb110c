"""Checks the figures that have an aim, in a few minutes, before and after a change that may cost speed."""

import argparse

from experiments.benchmark import input, start, step
from experiments.benchmark.models import BATCH
from experiments.benchmark.report import Row


def run(options: argparse.Namespace) -> list[Row]:
    """The rows with an aim of a quick `input`, `step` (small size) and `start`."""
    quick = argparse.Namespace(images=options.images, size="small", batch=BATCH["small"], quick=True)
    return [row for module in (input, step, start) for row in module.run(quick) if row.aim is not None]

"""Resuming a training: the newest checkpoint, and the part of a log interval that was done."""

import sys
from dataclasses import dataclass

import keras

from pf_keras.training.checkpoint import latest_checkpoint
from pf_keras.training.workdir import Workdir


@dataclass(frozen=True)
class Start:
    """Where a training starts.

    Args:
        step: the number of steps done.
        interval_metrics: the values of Keras's metric variables in the log interval that had begun, or None.
    """

    step: int = 0
    interval_metrics: list | None = None


def resume(model: keras.Model, workdir: Workdir, log_every: int) -> Start:
    """Load the newest checkpoint of the workdir into a compiled model.

    The input pipeline can start at any step (`data.pipeline.training_batches`), so that nothing else must be restored.

    Args:
        model: a compiled model.
        workdir: the run's workdir.
        log_every: steps per log interval.
    """
    checkpoint = latest_checkpoint(workdir.checkpoints)
    start = Start()
    if checkpoint:
        checkpoint.load_into(model, resume=True)
        print(f"resuming from {checkpoint.path}", file=sys.stderr)
        done = checkpoint.step % log_every
        same_interval = done and checkpoint.state["window"]["first"] == checkpoint.step - done
        start = Start(checkpoint.step, checkpoint.state["window"]["metrics"] if same_interval else None)
    return start

"""A run's training: `Model.fit` from where the workdir stands to the last step."""

import statistics
import sys

from pf_keras.errors import UserError
from pf_keras.signals import handling
from pf_keras.training.callbacks import Guard, Log, SaveCheckpoints
from pf_keras.training.checkpoint import latest_checkpoint
from pf_keras.training.execution import check_start


def train(model, make_batches, steps, batch, workdir, run, callbacks=()):
    """Train a compiled model up to `steps`, going on from the newest checkpoint in the workdir.

    make_batches: a function of the number of steps done to the dataset of the batches that follow.
    batch: images a step. run: the `RunConfig`. callbacks: further `RunCallback`s.
    Returns the median images per second over the logged windows.
    """
    checkpoint = latest_checkpoint(workdir.checkpoints)
    start = checkpoint.step if checkpoint else 0
    if checkpoint:
        checkpoint.load_into(model)
        print(f"going on from {checkpoint.path}", file=sys.stderr)
    check_start(model, start)
    workdir.forget_metrics_after(start)

    guard = Guard(workdir)
    saver = SaveCheckpoints(workdir, run, start, steps, guard)
    begun = start % run.log_every
    if begun and checkpoint.state["window"]["first"] == start - begun:
        saver.restored_window, saver.make_batches = checkpoint.state["window"]["metrics"], make_batches
    every = [guard, Log(workdir, steps, batch), saver, *callbacks]
    with handling(saver.tell):
        for first, window, windows in spans(start, steps, run.log_every):
            for callback in every:
                callback.first_step, callback.window = first, window
            fit = {"steps_per_epoch": window, "epochs": windows, "shuffle": False, "verbose": 0, "callbacks": every}
            model.fit(make_batches(first), **fit)
    rates = [line["images_per_second"] for line in workdir.metrics() if line["images_per_second"]]
    return statistics.median(rates) if rates else 0.0


def spans(start, steps, window):
    """The calls of `fit` that take a run from `start` to `steps`, as `(first step, steps a window, windows)`.

    Windows end at multiples of `window`, so that a run that was stopped logs the same steps as one that was not:
    the rest of a window that is begun, the whole windows, and what is left.
    """
    if start < 0 or window < 1:
        raise UserError(f"expected a start and window above 0, received {start} and {window}")
    while start < steps:
        room = min(window - start % window, steps - start)
        windows = (steps - start) // window if room == window else 1
        yield start, room, windows
        start += room * windows

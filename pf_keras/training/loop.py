"""Trains a model with `Model.fit`, from the newest checkpoint in the workdir to the last step."""

import contextlib
import statistics
from collections.abc import Callable, Iterable, Iterator

import keras

from pf_keras.config import RunConfig
from pf_keras.signals import handling
from pf_keras.training.callbacks import Guard, Log, RunCallback
from pf_keras.training.checkpoint_callback import SaveCheckpoints
from pf_keras.training.execution import check_start
from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.resume import resume
from pf_keras.training.workdir import Workdir


def train(
    model: keras.Model,
    batches_from: Callable,
    steps: int,
    batch: int,
    workdir: Workdir,
    run_config: RunConfig,
    callbacks: Iterable[RunCallback] = (),
) -> float:
    """Train a compiled model up to `steps`, from the newest checkpoint in the workdir on.

    Args:
        model: a compiled model.
        batches_from: called with a step, returns the dataset that begins there.
        steps: total training steps.
        batch: images per step.
        workdir: the run's workdir.
        run_config: the `run` section of the config.
        callbacks: extra callbacks.

    Returns:
        The median throughput over the log intervals, in images/s.

    Raises:
        UserError: the loss or the weights are not finite, the data end, or a disk is full.
        Stopped: a signal told the run to stop. Its last step is saved.
    """
    metrics = MetricsLog(workdir)
    start = resume(model, workdir, metrics, run_config.log_every)
    check_start(model, start.step)
    guard, log = Guard(workdir), Log(workdir, metrics, steps, batch)
    saver = SaveCheckpoints(workdir, run_config, start, steps, guard, batches_from)
    all_callbacks = [guard, log, saver, *callbacks]
    with contextlib.closing(log), handling(saver.stop):
        for first, interval, intervals in spans(start.step, steps, run_config.log_every):
            for callback in all_callbacks:
                callback.first_step, callback.interval = first, interval
            epochs = {"steps_per_epoch": interval, "epochs": intervals}
            model.fit(batches_from(first), **epochs, shuffle=False, verbose=0, callbacks=all_callbacks)
    throughputs = [line["images_per_second"] for line in metrics.lines() if line["images_per_second"]]
    return statistics.median(throughputs) if throughputs else 0.0


def spans(start: int, steps: int, log_every: int) -> Iterator[tuple[int, int, int]]:
    """The calls of `fit` that take a run from `start` to `steps`.

    Log intervals end at multiples of `log_every`, so that a resumed run logs the same steps as one that was never stopped:
    first the rest of an interval that had begun, then whole intervals, then what is left.

    Yields:
        `(first step, steps of an interval, number of intervals)`.
    """
    while start < steps:
        interval = min(log_every - start % log_every, steps - start)
        intervals = (steps - start) // log_every if interval == log_every else 1
        yield start, interval, intervals
        start += interval * intervals

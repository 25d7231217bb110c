"""The training of a run: `Model.fit` from where the workdir is to the last step."""

import contextlib
import statistics
from collections.abc import Callable, Iterable, Iterator

import keras

from pf_keras.config import RunConfig
from pf_keras.signals import handling
from pf_keras.training.callbacks import Guard, Log, RunCallback
from pf_keras.training.execution import check_start
from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.resume import resume
from pf_keras.training.save_checkpoints import SaveCheckpoints
from pf_keras.training.workdir import Workdir


def train(
    model: keras.Model,
    make_batches: Callable,
    steps: int,
    batch: int,
    workdir: Workdir,
    run: RunConfig,
    callbacks: Iterable[RunCallback] = (),
) -> float:
    """Train a compiled model up to `steps`, from the newest checkpoint in the workdir on.

    Args:
        model: a compiled model.
        make_batches: a function of the number of steps done to the dataset of the batches that follow.
        steps: of the whole training.
        batch: images a step.
        workdir: of the run.
        run: the `run` section of its config.
        callbacks: more of them.

    Returns:
        The median throughput over the log intervals, in images/s.

    Raises:
        UserError: the loss or the weights are not finite, the data end, or a disk is full.
        Stopped: a signal told the run to stop. Its last step is saved.
    """
    start = resume(model, workdir, run.log_every)
    check_start(model, start.step)
    metrics = MetricsLog(workdir)
    guard = Guard(workdir)
    saver = SaveCheckpoints(workdir, run, start, steps, guard, make_batches)
    log = Log(workdir, metrics, steps, batch)
    every = [guard, log, saver, *callbacks]
    with contextlib.closing(log), handling(saver.stop):
        for first, interval, intervals in spans(start.step, steps, run.log_every):
            for callback in every:
                callback.first_step, callback.interval = first, interval
            fit = {"steps_per_epoch": interval, "epochs": intervals, "shuffle": False, "verbose": 0, "callbacks": every}
            model.fit(make_batches(first), **fit)
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
        room = min(log_every - start % log_every, steps - start)
        intervals = (steps - start) // log_every if room == log_every else 1
        yield start, room, intervals
        start += room * intervals

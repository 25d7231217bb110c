"""Trains a model with `Model.fit`, from the newest checkpoint in the workdir to the last step."""

import contextlib
from collections.abc import Callable, Iterable

import keras

from pf_keras.config import RunConfig
from pf_keras.signals import handling
from pf_keras.training.callbacks import Clock, Guard, Log, RunCallback, SaveCheckpoints
from pf_keras.training.execution import check_start
from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.monitoring import Monitor
from pf_keras.training.resume import resume
from pf_keras.training.trackers import open_tracker
from pf_keras.training.workdir import Workdir


def train(
    model: keras.Model,
    batches_from: Callable,
    steps: int,
    batch: int,
    workdir: Workdir,
    run_config: RunConfig,
    callbacks: Iterable[RunCallback] = (),
) -> None:
    """Train a compiled model up to `steps`, from the newest checkpoint in the workdir on.

    Args:
        model: a compiled model.
        batches_from: called with a step, returns the dataset that begins there.
        steps: total training steps.
        batch: images per step.
        workdir: the run's workdir.
        run_config: the `run` section of the config.
        callbacks: extra callbacks. Monitors among them run before the log, the others after the checkpoint is saved.

    Raises:
        UserError: the loss or the weights are not finite, the data end, or a disk is full.
        Stopped: a signal told the run to stop. Its last step is saved.
    """
    log_every = run_config.log_every
    start = resume(model, workdir, log_every)
    check_start(model, start.step)
    metrics = MetricsLog(workdir)
    metrics.forget_after(start.step)
    callbacks = list(callbacks)
    monitors = [callback for callback in callbacks if isinstance(callback, Monitor)]
    others = [callback for callback in callbacks if not isinstance(callback, Monitor)]
    for monitor in monitors:
        monitor.resume(metrics.lines())
    guard, clock = Guard(workdir), Clock(batch)
    log = Log(metrics, clock, steps)
    saver = SaveCheckpoints(workdir, run_config, start, steps, guard, batches_from)
    all_callbacks = [guard, clock, *monitors, log, saver, *others]
    if start.step == steps:
        return  # without a tracker, which may take seconds to open
    with open_tracker(run_config.tracker, workdir) as tracker, contextlib.closing(log), handling(saver.stop):
        # Log intervals end at multiples of `log_every`, so that a resumed run logs the steps of one that was never stopped:
        # first the rest of an interval that had begun, then whole intervals, then what is left.
        step = start.step
        while step < steps and not any(monitor.ended for monitor in monitors):
            interval = min(log_every - step % log_every, steps - step)
            intervals = (steps - step) // log_every if interval == log_every else 1
            for callback in all_callbacks:
                callback.first_step, callback.interval, callback.tracker = step, interval, tracker
            epochs = {"steps_per_epoch": interval, "epochs": intervals}
            model.fit(batches_from(step), **epochs, shuffle=False, verbose=0, callbacks=all_callbacks)
            step += interval * intervals

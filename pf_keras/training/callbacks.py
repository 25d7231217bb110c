"""What a run does between its steps: log, look for a loss that went wrong, save, and leave when told to."""

import math
import signal
import sys
import time

import keras

from pf_keras.errors import UserError
from pf_keras.training.checkpoint import latest_checkpoint, save_checkpoint


class Stopped(Exception):
    """The run was told to stop and has saved; `signal` is the signal's number."""

    def __init__(self, number, step):
        super().__init__(f"stopped by {signal.Signals(number).name} at step {step}; saved: start again to go on")
        self.signal = number


class NonFiniteLoss(UserError):
    """The loss became NaN or infinite."""


class RunCallback(keras.callbacks.Callback):
    """A callback that knows the run's step, over the several calls of `fit` that a run may take.

    `first_step` is the number of steps done before the present call of `fit`.
    """

    first_step = 0
    step = 0

    def on_train_begin(self, logs=None):
        self.step = self.first_step

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_start = self.step

    def on_train_batch_end(self, batch, logs=None):
        self.step = self.epoch_start + batch + 1


class Log(RunCallback):
    """At the end of each window: a line of `metrics.jsonl`, a line on the terminal, scalars for TensorBoard."""

    def __init__(self, workdir, steps, images_per_step, out=sys.stderr):
        super().__init__()
        self.workdir, self.steps, self.images_per_step, self.out = workdir, steps, images_per_step, out
        self.timed, self.writer = False, None

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch)
        self.began, self.timed_from = time.monotonic(), self.step

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch)
        if not self.timed:  # the first step traces and compiles: it is no measure of speed
            self.began, self.timed_from, self.timed = time.monotonic(), self.step, True

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.monotonic() - self.began
        rate = (self.step - self.timed_from) * self.images_per_step / seconds if self.step > self.timed_from else 0.0
        optimizer = self.model.optimizer
        line = {
            "step": self.step,
            **{name: float(value) for name, value in logs.items()},
            # The rate of the step just done: the schedule counts from 0.
            "learning_rate": float(_learning_rate(optimizer, self.step - 1)),
            "gradient_norm": float(keras.ops.convert_to_numpy(optimizer.gradient_norm)),
            "images_per_second": round(rate, 2),
        }
        self.workdir.log(line)
        self._scalars(line)
        left = f"{_duration((self.steps - self.step) * self.images_per_step / rate)} left" if rate else ""
        shown = "  ".join(f"{name} {float(value):.4f}" for name, value in logs.items())
        print(f"step {self.step}/{self.steps}  {shown}  {rate:.0f} images/s  {left}", file=self.out, flush=True)

    def _scalars(self, line):
        import tensorflow as tf

        self.writer = self.writer or tf.summary.create_file_writer(str(self.workdir.tensorboard))
        with self.writer.as_default(step=line["step"]):
            for name, value in line.items():
                if name != "step":
                    tf.summary.scalar(name, value)
        self.writer.flush()


class StopOnNonFinite(RunCallback):
    """End the run at a loss that is not finite, naming the step, the learning rate and the last good checkpoint.

    A step's loss is looked at when the next step has been started, so that the device never waits for it; what was
    learned after it is thrown away.
    """

    def __init__(self, workdir):
        super().__init__()
        self.workdir, self.pending = workdir, None

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch)
        self.check()
        self.pending = (self.step, logs["loss"])

    def on_epoch_end(self, epoch, logs=None):
        self.check()

    def check(self):
        if self.pending is None:
            return
        (step, loss), self.pending = self.pending, None
        if math.isfinite(float(loss)):
            return
        rate = float(_learning_rate(self.model.optimizer, step - 1))
        last = latest_checkpoint(self.workdir.checkpoints)
        raise NonFiniteLoss(
            f"expected a finite loss, received {float(loss)} at step {step} with learning rate {rate:.3g}: "
            f"lower the rate or lengthen the warm-up; the last good checkpoint is {last.path if last else 'none'}"
        )


class SaveCheckpoints(RunCallback):
    """Save every so many steps or seconds, at the end, and at once when the process is told to stop.

    `guard` is the `StopOnNonFinite`, asked before saving so that no checkpoint holds a loss that went wrong.
    """

    def __init__(self, workdir, run, steps, guard):
        super().__init__()
        self.workdir, self.keep, self.steps, self.guard = workdir, run.keep_checkpoints, steps, guard
        self.every_steps, self.every_seconds = run.checkpoint_interval()
        self.told, self.saved_at = None, time.monotonic()
        self.restored_window = None  # the metrics of a window that is begun, as a checkpoint holds them

    def __enter__(self):
        self.previous = {number: signal.signal(number, self._tell) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _tell(self, number, frame):
        self.told = number

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch)
        if self.restored_window:  # the part of this window that was done before the run was stopped
            for variable, value in zip(self.model.metrics_variables, self.restored_window, strict=True):
                variable.assign(value)
            self.restored_window = None

    def on_train_batch_end(self, batch, logs=None):
        before = self.step
        super().on_train_batch_end(batch)
        if self.every_steps:
            due = self.step // self.every_steps > before // self.every_steps
        else:
            due = time.monotonic() - self.saved_at >= self.every_seconds
        if due or self.told or self.step == self.steps:
            self.save()
        if self.told:
            raise Stopped(self.told, self.step)

    def save(self):
        self.guard.check()
        window = [float(keras.ops.convert_to_numpy(v)) for v in self.model.metrics_variables]
        save_checkpoint(self.workdir.checkpoints, self.step, self.model, {"window": window}, self.keep)
        self.saved_at = time.monotonic()


def _learning_rate(optimizer, step):
    schedule = optimizer._learning_rate
    return schedule(step) if callable(schedule) else schedule


def _duration(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"

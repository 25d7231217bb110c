"""What a run does between its steps: log, look for a loss that went wrong, save, and leave when told to."""

import contextlib
import math
import signal
import sys
import time

import keras

from pf_keras.errors import Stopped, UserError, writing
from pf_keras.training.checkpoint import latest_checkpoint, save_checkpoint
from pf_keras.training.execution import any_worker, has_workers


class NonFiniteLoss(UserError):
    """The loss became NaN or infinite."""


class RunCallback(keras.callbacks.Callback):
    """A callback that knows the run's step, over the several calls of `fit` that a run may take.

    `first_step` is the number of steps done before the present call of `fit`, `window` its steps an epoch.
    """

    first_step = 0
    window = 0
    step = 0

    def on_train_begin(self, logs=None):
        self.step = self.first_step

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_start = self.step

    def on_train_batch_end(self, batch, logs=None):
        self.step = self.epoch_start + batch + 1


class Log(RunCallback):
    """At the end of each window: a line of `metrics.jsonl`, a line on the terminal, scalars for TensorBoard."""

    def __init__(self, workdir, steps, images_per_step):
        super().__init__()
        self.workdir, self.steps, self.images_per_step = workdir, steps, images_per_step
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
        with contextlib.suppress(OSError):  # a terminal that is gone is no reason to end a run
            print(f"step {self.step}/{self.steps}  {shown}  {rate:.0f} images/s  {left}", file=sys.stderr, flush=True)

    def _scalars(self, line):
        import tensorflow as tf

        with writing(self.workdir.path):
            self.writer = self.writer or tf.summary.create_file_writer(str(self.workdir.tensorboard))
            with self.writer.as_default(step=line["step"]):
                for name, value in line.items():
                    if name != "step":
                        tf.summary.scalar(name, value)
            self.writer.flush()


class Guard(RunCallback):
    """End the run at a loss that is not finite, naming the step, the learning rate and the last good checkpoint.

    A step's loss is looked at when the next step has been started, so that the device never waits for it; what was
    learned after it is thrown away. The run ends too where the data do: Keras would begin with them anew.
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
        if self.step != self.epoch_start + self.window:
            raise UserError(f"expected data without end, received none after step {self.step}: look for messages above")

    def check(self):
        """Look at the last step's loss. Raises UserError where it is not finite."""
        if self.pending is None:
            return
        (step, loss), self.pending = self.pending, None
        if not math.isfinite(float(loss)):
            self._stop(f"a finite loss, received {float(loss)} at step {step}", step)

    def check_weights(self):
        """Look at all that a checkpoint holds: a finite loss can have gradients that are none."""
        self.check()
        for variable in (*self.model.variables, *self.model.optimizer.variables):
            finite = "float" not in variable.dtype or keras.ops.all(keras.ops.isfinite(variable))
            if not finite:
                self._stop(f"finite weights, received others in {variable.path} after step {self.step}", self.step)

    def _stop(self, what, step):
        rate = float(_learning_rate(self.model.optimizer, step - 1))
        last = latest_checkpoint(self.workdir.checkpoints)
        raise NonFiniteLoss(
            f"expected {what} with learning rate {rate:.3g}: lower the rate or lengthen the warm-up in a new workdir; "
            f"the last good checkpoint is {last.path if last else 'none'}"
        )


class SaveCheckpoints(RunCallback):
    """Save every so many steps or seconds, at the end, and at once when the process is told to stop.

    start: the steps done before. guard: the `Guard`, asked before saving so that no checkpoint holds a loss
    that went wrong. A window's last step is saved after its line is logged, so that no line is lost between the two:
    in the list of callbacks this one stands behind `Log`.

    Several workers save and stop together, since they read what a checkpoint holds together: by the clock of any of them,
    or when any is told to stop, at the end of a window.
    """

    def __init__(self, workdir, run, start, steps, guard):
        super().__init__()
        self.workdir, self.keep, self.steps, self.guard = workdir, run.keep_checkpoints, steps, guard
        self.log_every, (self.every_steps, self.every_seconds) = run.log_every, run.checkpoint_interval()
        self.workers = False
        self.step = self.saved_step = start
        self.told, self.saved_at = None, time.monotonic()
        # Of a window that is begun: its metrics as a checkpoint holds them, and where to have a batch from.
        self.restored_window = self.make_batches = None

    def set_model(self, model):
        super().set_model(model)
        self.workers = has_workers(model)  # asked once: under JAX to touch `self.model` at a step costs milliseconds

    def tell(self, number, frame):
        """The handler of the signals to stop."""
        self.told = number
        # At once while the first step compiles, which can take minutes; other workers would wait for this one in vain.
        if self.step == self.saved_step and not self.workers:
            self._leave()

    def _leave(self):
        raise Stopped(self.told, f"at step {self.step}, which is saved" if self.step else "before its first step")

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch)
        if self.restored_window:  # the part of this window that was done before the run was stopped
            if len(self.model.metrics_variables) < len(self.restored_window):
                _make_metrics(self.model, next(iter(self.make_batches(self.step))))
            for variable, value in zip(self.model.metrics_variables, self.restored_window, strict=True):
                variable.assign(value)
            self.restored_window = None

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch)
        if self.step < self.epoch_start + self.window:
            if not self.workers:
                self._save_if(self._due_by_time(), self.told)
            elif self._due_by_steps():
                self.save()

    def on_epoch_end(self, epoch, logs=None):
        due, told = any_worker(self.model, self._due_by_time(), self.told)
        if told and not self.told:
            self.told = signal.SIGTERM  # another worker was, and this one cannot go on without it
        self._save_if(due, told)

    def _save_if(self, due, told):
        if due or told or self._due_by_steps() or self.step == self.steps:
            self.save()
        if told or (self.told and not self.workers and self.saved_step == self.step):  # or so while it saved
            self._leave()

    def _due_by_steps(self):
        return bool(self.every_steps) and self.step // self.every_steps > self.saved_step // self.every_steps

    def _due_by_time(self):
        return bool(self.every_seconds) and time.monotonic() - self.saved_at >= self.every_seconds

    def save(self):
        self.guard.check_weights()
        metrics = [keras.ops.convert_to_numpy(variable).tolist() for variable in self.model.metrics_variables]
        state = {"window": {"first": self.step - self.step % self.log_every, "metrics": metrics}}
        save_checkpoint(self.workdir.checkpoints, self.step, self.model, state, self.keep)
        self.saved_step, self.saved_at = self.step, time.monotonic()


def _make_metrics(model, batch):
    """Make the variables of compiled metrics, which Keras does when it meets the first batch."""
    x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
    model.compute_metrics(x, y, model(x, training=False), weights)
    model.reset_metrics()


def _learning_rate(optimizer, step):
    schedule = optimizer._learning_rate
    return schedule(step) if callable(schedule) else schedule


def _duration(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"

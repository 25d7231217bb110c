"""What a run does between its steps: log its metrics, stop at a loss that is not finite, save, and stop at a signal."""

import contextlib
import math
import shlex
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

import keras

from pf_keras.config import PretrainConfig, RunConfig
from pf_keras.errors import Stopped, UserError
from pf_keras.training.checkpoint import latest_checkpoint, save_checkpoint
from pf_keras.training.execution import any_worker, has_workers
from pf_keras.training.identity import find_run
from pf_keras.training.learning_rate import learning_rate_at
from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.resume import Start
from pf_keras.training.trackers import Tracker
from pf_keras.training.workdir import Workdir


class NonFiniteLoss(UserError):
    """The loss or a weight became NaN or infinite."""


class RunCallback(keras.callbacks.Callback):
    """A callback that knows the step of the run, over the several calls of `fit` that a run takes.

    Attributes:
        first_step: the number of steps done before the present call of `fit`.
        interval: the steps of a log interval, which is an epoch for Keras.
        step: the number of steps done.
        tracker: takes metrics and pictures beside `metrics.jsonl`.
    """

    first_step = 0
    interval = 0
    step = 0
    tracker: Tracker

    def on_train_begin(self, logs=None) -> None:
        self.step = self.first_step

    def on_epoch_begin(self, epoch, logs=None) -> None:
        self.interval_start = self.step

    def on_train_batch_end(self, batch, logs=None) -> None:
        self.step = self.interval_start + batch + 1


class Clock(RunCallback):
    """Measures the throughput of each log interval. What comes after this callback, as monitors do, does not count.

    Args:
        images_per_step: over all replicas.

    Attributes:
        throughput: of the last interval, in images/s. 0 where it had one step only.
    """

    def __init__(self, images_per_step: int):
        super().__init__()
        self.images_per_step, self.throughput, self.timed = images_per_step, 0.0, False

    def on_epoch_begin(self, epoch, logs=None) -> None:
        super().on_epoch_begin(epoch)
        self.began, self.timed_from = time.monotonic(), self.step

    def on_train_batch_end(self, batch, logs=None) -> None:
        super().on_train_batch_end(batch)
        if not self.timed:  # the first step traces and compiles, so that it says nothing about throughput
            self.began, self.timed_from, self.timed = time.monotonic(), self.step, True

    def on_epoch_end(self, epoch, logs=None) -> None:
        seconds, steps = time.monotonic() - self.began, self.step - self.timed_from
        self.throughput = steps * self.images_per_step / seconds if steps else 0.0


class Log(RunCallback):
    """Log each interval: a line of `metrics.jsonl`, scalars for the tracker, and progress on standard error.

    Progress is a bar on a terminal and a line for each log interval elsewhere.
    """

    def __init__(self, metrics: MetricsLog, clock: Clock, steps: int):
        super().__init__()
        self.metrics, self.clock, self.steps = metrics, clock, steps
        self.bar, self.shown = None, {}

    def on_train_begin(self, logs=None) -> None:
        super().on_train_begin()
        if self.bar is None and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.steps, initial=self.step, unit="step", file=sys.stderr, dynamic_ncols=True)

    def on_train_batch_end(self, batch, logs=None) -> None:
        super().on_train_batch_end(batch)
        if self.bar is not None:
            self.bar.update(self.step - self.bar.n)

    def on_epoch_end(self, epoch, logs=None) -> None:
        throughput = self.clock.throughput
        optimizer, logs = self.model.optimizer, {name: float(value) for name, value in logs.items()}
        line = {
            "step": self.step,
            **logs,
            "learning_rate": learning_rate_at(optimizer, self.step - 1),  # of the step just done
            "gradient_norm": float(keras.ops.convert_to_numpy(optimizer.gradient_norm)),
            "images_per_second": round(throughput, 2),
        }
        self.metrics.append(line)
        self.tracker.scalars(self.step, {name: value for name, value in line.items() if name != "step"})
        with contextlib.suppress(OSError):  # a terminal that was closed must not end the run
            self._show(logs, throughput)

    def close(self) -> None:
        """End the bar's line, so that messages after it start on a new line."""
        if self.bar is not None:
            self.bar.close()

    def _show(self, logs: dict[str, float], throughput: float) -> None:
        if self.bar is not None:
            self.shown |= {name: f"{value:.4f}" for name, value in logs.items()}  # what is measured now and then stays
            self.bar.set_postfix({**self.shown, "images/s": f"{throughput:.0f}"})
            return
        images = (self.steps - self.step) * self.clock.images_per_step
        left = f"{_duration(images / throughput)} left" if throughput else ""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in logs.items())
        print(f"step {self.step}/{self.steps}  {shown}  {throughput:.0f} images/s  {left}", file=sys.stderr, flush=True)


class Guard(RunCallback):
    """Stop the run at a loss that is not finite, and name the step, the learning rate and the last good checkpoint.

    The loss of a step is read when the next step has started, so that the device never waits. The run also stops where the
    data end, because Keras would start them again.
    """

    def __init__(self, workdir: Workdir):
        super().__init__()
        self.workdir, self.pending = workdir, None

    def on_train_batch_end(self, batch, logs=None) -> None:
        super().on_train_batch_end(batch)
        self.check()
        self.pending = (self.step, logs["loss"])

    def on_epoch_end(self, epoch, logs=None) -> None:
        self.check()
        if self.step != self.interval_start + self.interval:
            raise UserError(f"The data ended after step {self.step}. Look for messages above.")

    def check(self) -> None:
        """Read the loss of the last step. Raises NonFiniteLoss where it is not finite."""
        if self.pending is None:
            return
        (step, loss), self.pending = self.pending, None
        if not math.isfinite(float(loss)):
            raise _not_finite(f"The loss is {float(loss)} at step {step}", self.model, self.workdir, step)

    def check_weights(self) -> None:
        """Read everything that a checkpoint holds, because a finite loss can have gradients that are not finite."""
        self.check()
        require_finite(self.model, self.workdir, self.step)


def require_finite(model: keras.Model, workdir: Workdir, step: int) -> None:
    """Raises NonFiniteLoss where a variable of the model or its optimizer is not finite after `step`."""
    for variable in (*model.variables, *model.optimizer.variables):
        if "float" in variable.dtype and not keras.ops.all(keras.ops.isfinite(variable)):
            raise _not_finite(f"{variable.path} has values that are not finite after step {step}", model, workdir, step)


def _not_finite(what: str, model: keras.Model, workdir: Workdir, step: int) -> NonFiniteLoss:
    learning_rate, last = learning_rate_at(model.optimizer, step - 1), latest_checkpoint(workdir.checkpoints)
    message = (
        f"{what}, with a learning rate of {learning_rate:.3g}. Use a lower learning rate or a longer warm-up in a new "
        f"workdir; the last good checkpoint is {last.path if last else 'none'}."
    )
    run = find_run(workdir)
    if last and run and run.mode == "pretrain":
        message += f" To continue from it: {_continuation(workdir, run.config.pretrain, last.step, learning_rate)}"
    return NonFiniteLoss(message)


def _continuation(workdir: Workdir, settings: PretrainConfig, step: int, learning_rate: float) -> str:
    """The command that continues a pre-training in a new workdir, with half the learning rate at which it failed."""
    old, new = (shlex.quote(f"{workdir.path}{end}") for end in ("", "-lower"))
    name, lower = "learning_rate", learning_rate / 2
    if settings.learning_rate_per_256:
        name, lower = "learning_rate_per_256", lower * 256 / settings.batch
    return (
        f"pf-keras --mode=pretrain --init={old} --workdir={new} --config.pretrain.steps={settings.steps - step} "
        f"--config.pretrain.{name}={lower:.3g}"
    )


class SaveCheckpoints(RunCallback):
    """Save every so many steps or seconds, at the end, and at once when a signal tells the process to stop.

    The last step of a log interval is saved after its line is logged, so that no line is lost between the two. Therefore this
    callback comes after `Log`.

    Several workers save and stop together, because they read together what a checkpoint holds. They do so at the end of a log
    interval, if a save is due for any of them or a signal reached any of them.

    Args:
        workdir: of the run.
        run: the `run` section of its config.
        start: where the training starts.
        steps: of the whole training.
        guard: checks the loss and the weights before each save, so that no checkpoint holds a loss that is not finite.
        batches_from: a function of the number of steps done to a dataset, for one batch to build Keras's metrics from.
    """

    def __init__(self, workdir: Workdir, run: RunConfig, start: Start, steps: int, guard: Guard, batches_from: Callable):
        super().__init__()
        self.workdir, self.keep, self.steps, self.guard = workdir, run.keep_checkpoints, steps, guard
        self.log_every, (self.every_steps, self.every_seconds) = run.log_every, run.checkpoint_interval()
        self.batches_from, self.interval_metrics = batches_from, start.interval_metrics
        self.workers = self.ends_early = False
        self.step = self.saved_step = start.step
        self.signal, self.saved_at = None, time.monotonic()

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self.workers = has_workers(model)  # asked once: under JAX, reading `self.model` at a step costs milliseconds

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal to stop."""
        self.signal = number
        # At once while the first step compiles, which can take minutes. Other workers would wait for this one in vain.
        if self.step == self.saved_step and not self.workers:
            self._leave()

    def _leave(self) -> None:
        raise Stopped(self.signal, f"at step {self.step}, which is saved" if self.step else "before its first step")

    def on_epoch_begin(self, epoch, logs=None) -> None:
        super().on_epoch_begin(epoch)
        if self.interval_metrics:  # the part of this interval that was done before the run was stopped
            if len(self.model.metrics_variables) < len(self.interval_metrics):
                _build_metrics(self.model, next(iter(self.batches_from(self.step))))
            for variable, value in zip(self.model.metrics_variables, self.interval_metrics, strict=True):
                variable.assign(value)
            self.interval_metrics = None

    def on_train_batch_end(self, batch, logs=None) -> None:
        super().on_train_batch_end(batch)
        if self.step < self.interval_start + self.interval:
            if not self.workers:
                self._save_if(self._due_by_time(), self.signal)
            elif self._due_by_steps():
                self.save()

    def on_epoch_end(self, epoch, logs=None) -> None:
        self.ends_early = self.model.stop_training
        due, stopped = any_worker(self.model, self._due_by_time(), self.signal)
        if stopped and not self.signal:
            self.signal = signal.SIGTERM  # another worker was told to stop, and this one cannot continue without it
        self._save_if(due, stopped)

    def _save_if(self, due: object, stopped: object) -> None:
        if due or stopped or self._due_by_steps() or self.step == self.steps or self.ends_early:
            self.save()
        if stopped or (self.signal and not self.workers and self.saved_step == self.step):  # told to stop while it saved
            self._leave()

    def _due_by_steps(self) -> bool:
        return bool(self.every_steps) and self.step // self.every_steps > self.saved_step // self.every_steps

    def _due_by_time(self) -> bool:
        return bool(self.every_seconds) and time.monotonic() - self.saved_at >= self.every_seconds

    def save(self) -> None:
        """Save the model after checking it."""
        self.guard.check_weights()
        metrics = [keras.ops.convert_to_numpy(variable).tolist() for variable in self.model.metrics_variables]
        state = {"window": {"first": self.step - self.step % self.log_every, "metrics": metrics}}
        save_checkpoint(self.workdir.checkpoints, self.step, self.model, state, self.keep)
        self.saved_step, self.saved_at = self.step, time.monotonic()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"


def _build_metrics(model: keras.Model, batch: object) -> None:
    """Create the variables of compiled metrics, which Keras does when it meets the first batch."""
    x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
    model.compute_metrics(x, y, model(x, training=False), weights)
    model.reset_metrics()

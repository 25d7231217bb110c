"""When a run saves a checkpoint, and how it stops at a signal."""

import signal
import time
from collections.abc import Callable
from types import FrameType

import keras

from pf_keras.config import RunConfig
from pf_keras.errors import Stopped
from pf_keras.training.callbacks import Guard, RunCallback
from pf_keras.training.checkpoint import save_checkpoint
from pf_keras.training.execution import any_worker, has_workers
from pf_keras.training.resume import Start
from pf_keras.training.workdir import Workdir


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
        self.workers = False
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
        due, stopped = any_worker(self.model, self._due_by_time(), self.signal)
        if stopped and not self.signal:
            self.signal = signal.SIGTERM  # another worker was told to stop, and this one cannot continue without it
        self._save_if(due, stopped)

    def _save_if(self, due: object, stopped: object) -> None:
        if due or stopped or self._due_by_steps() or self.step == self.steps:
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


def _build_metrics(model: keras.Model, batch: object) -> None:
    """Create the variables of compiled metrics, which Keras does when it meets the first batch."""
    x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
    model.compute_metrics(x, y, model(x, training=False), weights)
    model.reset_metrics()

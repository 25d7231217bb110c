"""What a run does between its steps: log its metrics, show progress, and stop at a loss that is not finite."""

import contextlib
import math
import sys
import time

import keras

from pf_keras.errors import UserError, writing
from pf_keras.training.checkpoint import latest_checkpoint
from pf_keras.training.learning_rate import learning_rate_at
from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.workdir import Workdir


class NonFiniteLoss(UserError):
    """The loss or a weight became NaN or infinite."""


class RunCallback(keras.callbacks.Callback):
    """A callback that knows the step of the run, over the several calls of `fit` that a run takes.

    Attributes:
        first_step: the number of steps done before the present call of `fit`.
        interval: the steps of a log interval, which is an epoch for Keras.
        step: the number of steps done.
    """

    first_step = 0
    interval = 0
    step = 0

    def on_train_begin(self, logs=None) -> None:
        self.step = self.first_step

    def on_epoch_begin(self, epoch, logs=None) -> None:
        self.interval_start = self.step

    def on_train_batch_end(self, batch, logs=None) -> None:
        self.step = self.interval_start + batch + 1


class Log(RunCallback):
    """Log each interval: a line of `metrics.jsonl`, scalars for TensorBoard, and progress on standard error.

    Progress is a bar on a terminal and a line for each log interval elsewhere.
    """

    def __init__(self, workdir: Workdir, metrics: MetricsLog, steps: int, images_per_step: int):
        super().__init__()
        self.workdir, self.metrics, self.steps, self.images_per_step = workdir, metrics, steps, images_per_step
        self.timed, self.writer, self.bar = False, None, None

    def on_train_begin(self, logs=None) -> None:
        super().on_train_begin()
        if self.bar is None and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.steps, initial=self.step, unit="step", file=sys.stderr, dynamic_ncols=True)

    def on_train_batch_end(self, batch, logs=None) -> None:
        super().on_train_batch_end(batch)
        if self.bar is not None:
            self.bar.update(self.step - self.bar.n)
        if not self.timed:  # the first step traces and compiles, so that it says nothing about throughput
            self.began, self.timed_from, self.timed = time.monotonic(), self.step, True

    def on_epoch_begin(self, epoch, logs=None) -> None:
        super().on_epoch_begin(epoch)
        self.began, self.timed_from = time.monotonic(), self.step

    def on_epoch_end(self, epoch, logs=None) -> None:
        seconds = time.monotonic() - self.began
        throughput = (self.step - self.timed_from) * self.images_per_step / seconds if self.step > self.timed_from else 0.0
        optimizer = self.model.optimizer
        line = {
            "step": self.step,
            **{name: float(value) for name, value in logs.items()},
            "learning_rate": learning_rate_at(optimizer, self.step - 1),  # of the step just done
            "gradient_norm": float(keras.ops.convert_to_numpy(optimizer.gradient_norm)),
            "images_per_second": round(throughput, 2),
        }
        self.metrics.append(line)
        self._scalars(line)
        with contextlib.suppress(OSError):  # a terminal that was closed must not end the run
            self._show({name: float(value) for name, value in logs.items()}, throughput)

    def close(self) -> None:
        """End the bar's line, so that messages after it start on a new line."""
        if self.bar is not None:
            self.bar.close()

    def _show(self, logs: dict[str, float], throughput: float) -> None:
        if self.bar is not None:
            shown = {name: f"{value:.4f}" for name, value in logs.items()}
            self.bar.set_postfix({**shown, "images/s": f"{throughput:.0f}"})
            return
        left = f"{_duration((self.steps - self.step) * self.images_per_step / throughput)} left" if throughput else ""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in logs.items())
        print(f"step {self.step}/{self.steps}  {shown}  {throughput:.0f} images/s  {left}", file=sys.stderr, flush=True)

    def _scalars(self, line: dict) -> None:
        import tensorflow as tf

        with writing(self.workdir.path):
            self.writer = self.writer or tf.summary.create_file_writer(str(self.workdir.tensorboard))
            with self.writer.as_default(step=line["step"]):
                for name, value in line.items():
                    if name != "step":
                        tf.summary.scalar(name, value)
            self.writer.flush()


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
            self._stop(f"The loss is {float(loss)} at step {step}", step)

    def check_weights(self) -> None:
        """Read everything that a checkpoint holds, because a finite loss can have gradients that are not finite."""
        self.check()
        for variable in (*self.model.variables, *self.model.optimizer.variables):
            if "float" in variable.dtype and not keras.ops.all(keras.ops.isfinite(variable)):
                self._stop(f"{variable.path} has values that are not finite after step {self.step}", self.step)

    def _stop(self, what: str, step: int) -> None:
        learning_rate = learning_rate_at(self.model.optimizer, step - 1)
        last = latest_checkpoint(self.workdir.checkpoints)
        raise NonFiniteLoss(
            f"{what}, with a learning rate of {learning_rate:.3g}. Use a lower learning rate or a longer warm-up in a new "
            f"workdir; the last good checkpoint is {last.path if last else 'none'}."
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"

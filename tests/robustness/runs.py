"""Small runs of the command line in processes of their own, which tests can kill.

The processes are forked from one that has imported TensorFlow and done nothing else, so they need not import it again.
"""

import errno
import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

MODULES = ["pf_keras.cli", "tensorflow", "keras", "pf_keras.tasks.pretrain", "pf_keras.data.pipeline", "sklearn.datasets"]
TINY = {
    "model.width": "16",
    "model.depth": "1",
    "model.heads": "2",
    "model.stem_width": "8",
    "model.stacks": "(1,)",
    "model.stack_widths": "(4,)",
    "model.decoder_width": "8",
    "model.image_size": "16",
    "model.dropout": "0.1",
    "augment.enabled": "true",
    "augment.jitter_size": "2",
    "pretrain.batch": "8",
    "pretrain.steps": "40",
    "pretrain.warmup_steps": "10",
    "run.log_every": "7",
    "run.checkpoint_every": "5",
}

# What has a state of its own to resume: an average of the weights, seeds that count up for each part of a batch. And probes.
OPTIONS = {
    "pretrain.accumulate": "2",
    "pretrain.ema": "0.9",
    "pretrain.learning_rate_per_256": "0.01",
    "model.drop_path": "0.2",
    "pretrain.probe_every": "14",
    "pretrain.probe_images": "60",
}

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(MODULES)


def in_a_process(function, *arguments):
    """Start a function in a forked process, which ends with the tests at the latest. Returns the `Process`.

    Args:
        function: of a module that the process can import.
        *arguments: of the function.
    """
    process = _context.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


class Run:
    """`pf-keras --mode=pretrain` of a tiny model on digits, in a process of its own.

    Args:
        workdir: of the run.
        fields: config fields besides `TINY`, `{"section.field": "text"}`.
        figures: whether the run also scores and draws, which takes longer than the training.
        stderr_file: where both its output streams go. Default: beside the workdir.
        signalled: `(step, number)`, a signal that the process sends itself when the step is done.
        dies_saving: a step at which the process is killed when half of its checkpoint is written.
        storage_fails: `(step, times)`, how often the storage fails while the checkpoint of this step is written.
        environment: more environment variables.
        flags: more flags of the command.
    """

    def __init__(
        self, workdir, fields=None, figures=False, stderr_file=None, signalled=(0, 0), dies_saving=None, storage_fails=(0, 0),
        environment=None, flags=(),
    ):  # fmt: skip
        self.workdir, self.fields, self.figures = Path(workdir), {**TINY, **(fields or {})}, figures
        self.stderr_file = Path(stderr_file or self.workdir.with_name(self.workdir.name + ".stderr"))
        arguments = ["pf-keras", "--mode=pretrain", f"--workdir={workdir}", *flags]
        arguments += [f"--config.{name}={value}" for name, value in self.fields.items()]
        threads = {"TF_NUM_INTRAOP_THREADS": "0", "TF_NUM_INTEROP_THREADS": "0"}  # TensorFlow's default
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **threads, **(environment or {})}
        passed = (arguments, str(self.stderr_file), environment, figures, signalled, dies_saving, storage_fails)
        self.process = in_a_process(_main, *passed)

    def wait(self, timeout=300):
        """Wait for the end. Returns the exit code, which is minus the signal if a signal killed the process."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still running after {timeout} s: {self.stderr[-500:]}"
        return self.process.exitcode

    def wait_until(self, condition, timeout=120):
        """Check `condition()` every millisecond until it is true. Returns False if the process ends before."""
        end = time.monotonic() + timeout
        while self.process.is_alive():
            if condition():
                return True
            assert time.monotonic() < end, f"nothing happened in {timeout} s: {self.stderr[-500:]}"
            time.sleep(0.001)
        return False

    def kill(self, number=signal.SIGKILL):
        """Send a signal. Returns the exit code."""
        os.kill(self.process.pid, number)
        return self.wait(60)

    def result(self):
        """Wait for the end of a run that must succeed. Returns its result."""
        assert self.wait() == 0, self.stderr[-3000:]
        return json.loads(self.stderr.splitlines()[-1])

    @property
    def stderr(self):
        """What the process has printed so far."""
        return self.stderr_file.read_text() if self.stderr_file.exists() else ""

    def saved(self):
        """The steps of the checkpoints in the workdir."""
        return sorted(int(p.name[5:]) for p in (self.workdir / "checkpoints").glob("step-*"))


def digest(workdir, step):
    """The checksum of a checkpoint's file, which has the weights and the optimizer."""
    return json.loads((Path(workdir) / "checkpoints" / f"step-{step:08d}" / "state.json").read_text())["sha256"]


def metrics(workdir):
    """The lines of `metrics.jsonl` without the throughput, which depends on the clock."""
    lines = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def _main(arguments, stderr_file, environment, figures, signalled, dies_saving, storage_fails):
    os.environ.update(environment)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # if the tests run under nohup, it is ignored
    with open(stderr_file, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from pf_keras import cli
    from pf_keras.tasks import pretrain
    from pf_keras.training import callbacks, checkpoint

    failures = [None] * storage_fails[1]
    original_write, original_end = checkpoint._write, callbacks.RunCallback.on_train_batch_end

    def write(path, content):
        if dies_saving and path.name == checkpoint.STATE and f"{dies_saving:08d}" in str(path):
            os.kill(os.getpid(), signal.SIGKILL)
        if path.name == checkpoint.STATE and f"{storage_fails[0]:08d}" in str(path) and failures:
            failures.pop()
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        original_write(path, content)

    def on_train_batch_end(self, batch, logs=None):
        original_end(self, batch, logs)
        if isinstance(self, callbacks.Guard) and self.step == signalled[0]:
            os.kill(os.getpid(), signalled[1])

    checkpoint._write, callbacks.RunCallback.on_train_batch_end = write, on_train_batch_end
    if not figures:
        pretrain.score_pretrainer = lambda *_: {"marginal_entropy": 1.0, "loss_ratio": 1.0}
        pretrain.draw = pretrain.draw_loss = lambda *_: None
    code = cli.main(arguments)
    sys.stdout.flush()
    os._exit(code)

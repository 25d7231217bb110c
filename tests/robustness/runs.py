"""Small real runs in processes of their own, for tests that kill them.

The processes are forked off one that has imported TensorFlow and done nothing else, which saves each the import.
"""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

MODULES = ["main", "tensorflow", "keras", "pf_keras.tasks.pretrain", "pf_keras.data.pipeline", "sklearn.datasets"]
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

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(MODULES)


def in_a_process(function, *arguments):
    """Start a function of a module of tests in a process forked off as the runs are; returns the `Process`.

    It ends with the tests, at the latest.
    """
    process = _context.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


class Run:
    """`main.py --mode=pretrain` of a tiny model on digits, in a process of its own.

    figures: whether it also scores and draws, which takes longer than the training.
    signalled: (step, number), a signal that it meets when the step is done, whatever else the machine does meanwhile.
    dies_saving: a step at which it is killed when half of the checkpoint is written.
    environment: further variables of its environment.
    """

    def __init__(
        self, workdir, fields=None, figures=False, stderr_file=None, signalled=(0, 0), dies_saving=None, environment=None
    ):
        self.workdir, self.fields, self.figures = Path(workdir), {**TINY, **(fields or {})}, figures
        self.stderr_file = Path(stderr_file or self.workdir.with_name(self.workdir.name + ".stderr"))
        arguments = ["main.py", "--mode=pretrain", f"--workdir={workdir}"]
        arguments += [f"--config.{name}={value}" for name, value in self.fields.items()]
        threads = {"TF_NUM_INTRAOP_THREADS": "0", "TF_NUM_INTEROP_THREADS": "0"}  # as many as TensorFlow takes by itself
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **threads, **(environment or {})}
        passed = (arguments, str(self.stderr_file), environment, figures, signalled, dies_saving)
        self.process = in_a_process(_main, *passed)

    def wait(self, timeout=300):
        """The exit code; of a process killed by a signal the negative signal."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still running after {timeout} s: {self.stderr[-500:]}"
        return self.process.exitcode

    def wait_until(self, condition, timeout=120):
        """Wait for `condition()`, asked every millisecond; False where the process ended before."""
        end = time.monotonic() + timeout
        while self.process.is_alive():
            if condition():
                return True
            assert time.monotonic() < end, f"waited {timeout} s in vain: {self.stderr[-500:]}"
            time.sleep(0.001)
        return False

    def kill(self, number=signal.SIGKILL):
        """Send a signal; returns the exit code."""
        os.kill(self.process.pid, number)
        return self.wait(60)

    def result(self):
        """What it answers when it is done."""
        assert self.wait() == 0, self.stderr[-3000:]
        return json.loads(self.stderr.splitlines()[-1])

    @property
    def stderr(self):
        return self.stderr_file.read_text() if self.stderr_file.exists() else ""

    def saved(self):
        """The steps of the checkpoints that stand in the workdir."""
        return sorted(int(p.name[5:]) for p in (self.workdir / "checkpoints").glob("step-*"))


def digest(workdir, step):
    """The checksum of a checkpoint's weights and optimizer, by its bytes."""
    return json.loads((Path(workdir) / "checkpoints" / f"step-{step:08d}" / "state.json").read_text())["sha256"]


def metrics(workdir):
    """The lines of `metrics.jsonl` without what depends on the clock."""
    lines = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def _main(arguments, stderr_file, environment, figures, signalled, dies_saving):
    os.environ.update(environment)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup, under which the tests may run, has made of no effect
    with open(stderr_file, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import main
    from pf_keras.tasks import pretrain
    from pf_keras.training import callbacks, checkpoint

    whole, done = checkpoint._write, callbacks.RunCallback.on_train_batch_end

    def write(path, content):
        if dies_saving and path.name == checkpoint.STATE and f"{dies_saving:08d}" in str(path):
            os.kill(os.getpid(), signal.SIGKILL)
        whole(path, content)

    def on_train_batch_end(self, batch, logs=None):
        done(self, batch, logs)
        if isinstance(self, callbacks.Guard) and self.step == signalled[0]:
            os.kill(os.getpid(), signalled[1])

    checkpoint._write, callbacks.RunCallback.on_train_batch_end = write, on_train_batch_end
    if not figures:
        pretrain.score = lambda *_: {"marginal_entropy": 1.0}
        pretrain.draw = pretrain.draw_loss = lambda *_: None
    os._exit(main.main(arguments))

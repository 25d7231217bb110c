"""Running main.py's commands from a script, printed as one would type them."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pf_keras.training.workdir import Workdir
from tfrecords.pool import cores

ROOT = Path(__file__).resolve().parent.parent
THREADS = "TF_NUM_INTRAOP_THREADS"
RUNNING = set()  # the processes of commands, in whatever thread


def commands(*lines):
    """Run main.py with each line of flags, all at once; returns their results."""
    processes = [start("main.py", *flags) for flags in lines]
    try:
        return [json.loads(wait(process).splitlines()[-1]) for process in processes]
    finally:
        for process in processes:  # where one failed, the others would go on in their workdirs unseen
            process.terminate()


def probes(workdir, fractions, steps):
    """The probes of a pre-trained workdir with those shares of the labels: those of an earlier time, where it has them."""
    run = Workdir(ROOT / workdir)
    kept = run.path / "evaluate" / "result.json"
    if kept.exists():
        result = run.read_json(kept)
        wanted = [f"pretrained_linear_{float(fraction):g}" for fraction in fractions.split(",")]
        own = result.get("steps") == steps and result.get("changed") == []  # of this run's data, and read as it says
        if own and all(name in result for name in wanted):
            return result
    (result,) = commands(("--mode=evaluate", f"--workdir={workdir}", f"--label_fraction={fractions}"))
    return result


@contextlib.contextmanager
def side_by_side(count):
    """A pool for so many commands at once, which share the cores: a step of a small model makes little of several.

    JAX takes all cores for each all the same.
    """
    threads = os.environ.get(THREADS)
    os.environ[THREADS] = threads or str(max(1, cores() // count))
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)  # what has not begun, where one failed
        if threads is None:
            del os.environ[THREADS]


def end_together():
    """Have a script that is told to stop (SIGTERM) stop its commands too, which save and can go on later."""

    def stop(number, _):
        for process in list(RUNNING):
            process.terminate()
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, stop)


def start(*words):
    """Start a Python program in the repository's root; what it says of its progress is shown."""
    print("\n$ python " + shlex.join(words), flush=True)
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    RUNNING.add(process)
    return process


def wait(process):
    """The standard output of a process, shown when it ends. Ends the script with its exit code where that is not 0."""
    output, _ = process.communicate()
    RUNNING.discard(process)
    print(output, end="", flush=True)
    if process.returncode:
        sys.exit(process.returncode)
    return output

"""Running main.py's commands from a script, printed as one would type them."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pf_keras.training.workdir import Workdir

ROOT = Path(__file__).resolve().parent.parent
THREADS = "TF_NUM_INTRAOP_THREADS"


def commands(*lines):
    """Run main.py with each line of flags, all at once; returns their results."""
    processes = [start("main.py", *flags) for flags in lines]
    return [json.loads(wait(process).splitlines()[-1]) for process in processes]


def probes(workdir, fractions, steps):
    """The probes of a pre-trained workdir with those shares of the labels: those of an earlier time, where it has them."""
    run = Workdir(ROOT / workdir)
    kept = run.path / "evaluate" / "result.json"
    if kept.exists():
        result = run.read_json(kept)
        wanted = [f"pretrained_linear_{float(fraction):g}" for fraction in fractions.split(",")]
        own = (result.get("steps"), result.get("data")) == (steps, run.config().data.source)
        if own and all(name in result for name in wanted):
            return result
    (result,) = commands(("--mode=evaluate", f"--workdir={workdir}", f"--label_fraction={fractions}"))
    return result


@contextlib.contextmanager
def side_by_side(count):
    """A pool for so many commands at once, which share the cores: a step of a small model makes little of several."""
    threads = os.environ.get(THREADS)
    os.environ[THREADS] = threads or str(max(1, (os.cpu_count() or 1) // count))
    try:
        with ThreadPoolExecutor(count) as pool:
            yield pool
    finally:
        if threads is None:
            del os.environ[THREADS]


def start(*words):
    """Start a Python program in the repository's root; what it says of its progress is shown."""
    print("\n$ python " + shlex.join(words), flush=True)
    return subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def wait(process):
    """The standard output of a process, shown when it ends. Ends the script with its exit code where that is not 0."""
    output, _ = process.communicate()
    print(output, end="", flush=True)
    if process.returncode:
        sys.exit(process.returncode)
    return output

"""How long a command takes to start: until `--help` is printed, and until the first step on the digits is done."""

import argparse
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial

from experiments.benchmark.measuring import Row
from pf_keras.errors import UserError


def run(options: argparse.Namespace) -> list[Row]:
    """The rows of the benchmark `start`."""
    rounds = 2 if options.quick else 5
    found = []
    for name, work, aim in (
        ("main.py --help", partial(run_python, "main.py", "--help"), 1.5),
        ("command to the end of the first step on digits", first_step, 20),
        ("of it importing TensorFlow", partial(run_python, "-c", "import tensorflow"), None),
    ):
        seconds = [work() for _ in range(rounds)]
        note = f"{min(seconds):.2f} to {max(seconds):.2f} s in {rounds} runs"
        found.append(Row(name, statistics.median(seconds), "s", aim, note=note))
    return found


def run_python(*words: str) -> float:
    """Run Python with these arguments. Returns the seconds."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def first_step() -> float:
    """Start a pre-training, and stop it when it logs its first step. Returns the seconds until then.

    Raises:
        UserError: it ended before its first step.
    """
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "main.py", "--mode=pretrain", f"--workdir={folder}", "--config.run.log_every=1"]
        began = time.perf_counter()
        process = subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for text in process.stderr:
            if text.startswith("step 1/"):
                break
        else:
            raise UserError(f"A pre-training ended before its first step. Run it to see why: {' '.join(line)}")
        taken = time.perf_counter() - began
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=300)
        return taken

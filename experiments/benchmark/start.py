"""How long a command takes to start: until `--help` is printed, and until the first step on the digits is done."""

import argparse
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from experiments.benchmark.report import Row
from pf_keras.errors import UserError

LIMIT = 300  # seconds


def run(options: argparse.Namespace) -> list[Row]:
    """The rows of the benchmark `start`."""
    rounds = 2 if options.quick else 5
    help_, imports, first = ([work() for _ in range(rounds)] for work in (print_help, import_tensorflow, first_step))
    return [
        Row("main.py --help", statistics.median(help_), "s", 1.5, note=_range(help_)),
        Row("command to the end of the first step on digits", statistics.median(first), "s", 20, note=_range(first)),
        Row("of it importing TensorFlow", statistics.median(imports), "s", note=_range(imports)),
    ]


def print_help() -> float:
    """Run `--help`. Returns the seconds."""
    return _seconds("main.py", "--help")


def import_tensorflow() -> float:
    """Import TensorFlow. Returns the seconds."""
    return _seconds("-c", "import tensorflow")


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
        process.communicate(timeout=LIMIT)
        return taken


def _seconds(*words: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def _range(seconds: Sequence[float]) -> str:
    return f"{min(seconds):.2f} to {max(seconds):.2f} s in {len(seconds)} runs"

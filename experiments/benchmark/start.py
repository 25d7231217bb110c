"""How long a command takes to answer: `--help`, and the first step on digits."""

import signal
import statistics
import subprocess
import sys
import tempfile
import time

from experiments.benchmark.report import Row
from pf_keras.errors import UserError

LIMIT = 300  # seconds


def run(options):
    """Rows of the benchmark `start`."""
    rounds = 2 if options.quick else 5
    help_, imports, first = ([work() for _ in range(rounds)] for work in (say_help, import_tensorflow, first_step))
    return [
        Row("main.py --help", statistics.median(help_), "s", 1.5, note=_range(help_)),
        Row("from the command to the end of the first step on digits", statistics.median(first), "s", 20, note=_range(first)),
        Row("of it as many as importing TensorFlow takes", statistics.median(imports), "s", note=_range(imports)),
    ]


def say_help():
    began = time.perf_counter()
    subprocess.run([sys.executable, "main.py", "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def import_tensorflow():
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import tensorflow"], stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def first_step():
    """Seconds from the start of a pre-training to the line that logs its first step, after which it is ended."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "main.py", "--mode=pretrain", f"--workdir={folder}", "--config.run.log_every=1"]
        began = time.perf_counter()
        process = subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for text in process.stderr:
            if text.startswith("step 1/"):
                break
        else:
            raise UserError(f"expected a line of the first step, received the end of {' '.join(line)}: run it by itself")
        taken = time.perf_counter() - began
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=LIMIT)
        return taken


def _range(seconds):
    return f"{min(seconds):.2f} to {max(seconds):.2f} s in {len(seconds)} runs"

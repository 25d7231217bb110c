"""How long a command takes to start: until `--help` is printed, and until the first step on the digits is done."""

import argparse
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial

from experiments.benchmark.measuring import Row, ratio, spread, take_turns
from pf_keras.errors import UserError

IMPORT = "importing TensorFlow and Keras"
FIRST_STEP = "command to the end of the first step on digits"
FINETUNE = "fine-tuning with 14 labels of digits, from the command to its end"


def run(options: argparse.Namespace) -> list[Row]:
    """The rows of the benchmark `start`."""
    rounds = 2 if options.quick else 5
    works = {
        "main.py --help": partial(run_python, "main.py", "--help"),
        IMPORT: partial(run_python, "-c", "import tensorflow, keras"),
        FIRST_STEP: first_step,
        FINETUNE: finetune,
    }
    seconds = take_turns(works, rounds, warm_up=0)
    aims = {"main.py --help": 1.5, FIRST_STEP: 20}
    found = []
    for name, taken in seconds.items():
        note = f"{min(taken):.2f} to {max(taken):.2f} s in {rounds} runs"
        found.append(Row(name, statistics.median(taken), "s", aims.get(name), note=note))
    for name, aim in ((FIRST_STEP, 1.6), (FINETUNE, 2.5)):
        note = spread(seconds, name, IMPORT)
        found.append(Row(f"{name} / the import", ratio(seconds, name, IMPORT), "x", aim, note=note))
    return found


def run_python(*words: str) -> float:
    """Run Python with these arguments. Returns the seconds."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def finetune() -> float:
    """Run a fine-tuning from scratch with 1% of the labels of the digits. Returns the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--config=digits", "--init=scratch", "--label_fraction=0.01", f"--workdir={folder}"]
        return run_python("main.py", "--mode=finetune", *flags)


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

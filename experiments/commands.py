"""Running the commands of main.py from a script, which prints them as a user would type them."""

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

from pf_keras.cli import fail
from pf_keras.errors import UserError
from pf_keras.processes import cores
from pf_keras.quiet import native_output_diverted
from pf_keras.training.identity import earlier_run
from tfrecords.command import positive

ROOT = Path(__file__).resolve().parent.parent
THREADS = "TF_NUM_INTRAOP_THREADS"
_running: list[subprocess.Popen] = []


def command(*flags: str, label: str = "") -> dict:
    """Run main.py with these flags, and return its result. `label` is as in `run`."""
    return json.loads(run("main.py", *flags, label=label).splitlines()[-1])


def run(*words: str, label: str = "") -> str:
    """Run a Python program in the repository. Its standard error, which shows progress, goes to the terminal.

    Args:
        *words: the program and its arguments.
        label: put in front of each line of its standard error.

    Returns:
        Its standard output, which is also printed. If the program fails, this one exits with the same code.
    """
    print("\n$ python " + shlex.join(words), flush=True)
    errors, line = subprocess.PIPE if label else sys.stderr, [sys.executable, *words]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
        _running.append(process)
        for text in process.stderr or ():
            print(f"[{label}] {text}", end="", file=sys.stderr, flush=True)
        output = process.stdout.read()
    _running.remove(process)
    print(output, end="", flush=True)
    if process.returncode:
        sys.exit(process.returncode)
    return output


def probes(workdir: str, fractions: str, steps: int) -> dict:
    """The probes of a pre-trained workdir. Earlier results are reused if they have the same steps, data and fractions.

    Args:
        workdir: the workdir, relative to the repository.
        fractions: the fractions of the labels, such as `0.01,0.1`.
        steps: the steps of the pre-training.
    """
    kept = ROOT / workdir / "evaluate" / "result.json"
    if kept.exists():
        result = json.loads(kept.read_text())
        _, pretraining = earlier_run(ROOT / workdir, "pretrain")
        expected = {"steps": steps, "data": pretraining.config.data.source, "changed": []}
        wanted = {f"pretrained_linear_{float(fraction):g}" for fraction in fractions.split(",")}
        if expected.items() <= result.items() and wanted <= result.keys():
            return result
    return command("--mode=evaluate", f"--workdir={workdir}", f"--label_fraction={fractions}")


@contextlib.contextmanager
def side_by_side(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that runs `count` commands at once and divides the cores among them, because a small model gains little from
    several cores. Under JAX every command uses all cores.
    """
    threads = os.environ.get(THREADS) or str(max(1, cores() // count))
    with mock.patch.dict(os.environ, {THREADS: threads}), ThreadPoolExecutor(count) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)  # after a failure, drop the commands that have not started


def script_parser(module: str, description: str, seeds: str) -> argparse.ArgumentParser:
    """A parser with the options that scripts share. It accepts no abbreviations, because unknown flags go to the commands."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(f"python -m {module}", description=description, formatter_class=layout, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="the config of every run")
    parser.add_argument("--data", required=True, help="the data of every run")
    parser.add_argument("--runs", required=True, type=Path, help="the folder for the workdirs and the table")
    parser.add_argument("--seeds", default=seeds, help="the seeds of fine-tuning")
    parser.add_argument("--at_once", type=positive, default=1, help="rows that run at the same time and share the cores")
    return parser


def run_script(main: Callable[[], object]) -> None:
    """Run the `main` of a script. Native output stays off the terminal. SIGTERM also stops the commands, which save."""

    def stop(number, _):
        for process in _running:
            process.terminate()
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        with native_output_diverted():
            main()
    except UserError as error:
        sys.exit(fail(error))

"""Running the commands of main.py from a script, which prints them as a user would type them."""

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pf_keras.cli import fail
from pf_keras.errors import UserError
from pf_keras.processes import cores
from pf_keras.quiet import native_output_diverted
from pf_keras.training.identity import earlier_run
from tfrecords.command import positive

ROOT = Path(__file__).resolve().parent.parent
THREADS = "TF_NUM_INTRAOP_THREADS"
_running: dict[subprocess.Popen, threading.Thread | None] = {}  # the commands, with the thread that prints their progress


def commands(*lines: tuple[str, ...]) -> list[dict]:
    """Run main.py with each line of flags, all at the same time. Returns their results.

    The progress of several commands is labelled with the names of their workdirs.
    """
    processes = [start("main.py", *flags, label=_workdir_name(flags) if len(lines) > 1 else "") for flags in lines]
    try:
        return [json.loads(wait(process).splitlines()[-1]) for process in processes]
    finally:
        for process in processes:  # after a failure, the others would continue unseen
            process.terminate()


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
        _, run = earlier_run(ROOT / workdir, "pretrain")
        expected = {"steps": steps, "data": run.config.data.source, "changed": []}
        wanted = {f"pretrained_linear_{float(fraction):g}" for fraction in fractions.split(",")}
        if expected.items() <= result.items() and wanted <= result.keys():
            return result
    (result,) = commands(("--mode=evaluate", f"--workdir={workdir}", f"--label_fraction={fractions}"))
    return result


@contextlib.contextmanager
def side_by_side(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that runs `count` commands at once and divides the cores among them, because a small model gains little from
    several cores. Under JAX every command uses all cores.
    """
    threads = os.environ.get(THREADS)
    os.environ[THREADS] = threads or str(max(1, cores() // count))
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)  # after a failure, drop the commands that have not started
        if threads is None:
            del os.environ[THREADS]


def script_parser(module: str, description: str) -> argparse.ArgumentParser:
    """A parser with the options that scripts share. It accepts no abbreviations, because unknown flags go to the commands."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="the config of every run")
    parser.add_argument("--data", required=True, help="the data of every run")
    parser.add_argument("--runs", required=True, type=Path, help="the folder for the workdirs and the table")
    parser.add_argument("--at_once", type=positive, default=1, help="rows that run at the same time and share the cores")
    return parser


def run_script(main: Callable[[], object]) -> None:
    """Run the `main` of a script. Native output stays off the terminal. SIGTERM also stops the commands, which save."""

    def stop(number, _):
        for process in list(_running):
            process.terminate()
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        with native_output_diverted():
            main()
    except UserError as error:
        sys.exit(fail(error))


def start(*words: str, label: str = "") -> subprocess.Popen:
    """Start a Python program in the repository. Its standard error, which shows progress, goes to the terminal.

    Args:
        *words: the program and its arguments.
        label: put in front of each line of its standard error.
    """
    print("\n$ python " + shlex.join(words), flush=True)
    errors = subprocess.PIPE if label else sys.stderr
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
    _running[process] = None
    if label:
        _running[process] = threading.Thread(target=_print_labelled, args=(process.stderr, label))
        _running[process].start()
    return process


def wait(process: subprocess.Popen) -> str:
    """Wait for a process, then print and return its standard output. If it failed, exit with its code."""
    output = process.stdout.read()
    process.wait()
    if printer := _running.pop(process):
        printer.join()
    print(output, end="", flush=True)
    if process.returncode:
        sys.exit(process.returncode)
    return output


def _workdir_name(flags: Iterable[str]) -> str:
    return next(Path(flag).name for flag in flags if flag.startswith("--workdir="))


def _print_labelled(lines: Iterable[str], label: str) -> None:
    for line in lines:
        print(f"[{label}] {line}", end="", file=sys.stderr, flush=True)

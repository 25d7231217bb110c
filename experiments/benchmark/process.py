"""Measures in a separate process: a module of this package that takes its arguments as JSON and prints its figures as JSON."""

import json
import subprocess
import sys
from collections.abc import Callable

from pf_keras.errors import UserError
from pf_keras.quiet import native_output_diverted


def in_process(module: str, arguments: dict) -> dict:
    """Run `experiments.benchmark.MODULE` with a JSON object of arguments. Returns the object that it prints last.

    Raises:
        UserError: it failed; the message has the last line of its errors.
    """
    line = [sys.executable, "-m", f"experiments.benchmark.{module}", json.dumps(arguments)]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"Measuring {module} failed with exit code {done.returncode}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def answer(measure: Callable[..., dict]) -> None:
    """Print what `measure` returns for the arguments of `in_process`."""
    with native_output_diverted():
        print(json.dumps(measure(**json.loads(sys.argv[1]))))

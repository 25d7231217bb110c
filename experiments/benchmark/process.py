"""Measuring in a process of its own: what a module of this package prints as JSON when it is run with arguments."""

import json
import os
import subprocess
import sys

from pf_keras.errors import UserError


def in_process(module, arguments):
    """Run `experiments.benchmark.MODULE` with a JSON object of arguments; returns the object that it prints last.

    Raises UserError with the last line of its errors where it fails.
    """
    line = [sys.executable, "-m", f"experiments.benchmark.{module}", json.dumps(arguments)]
    done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"expected {module} to be measured, received exit code {done.returncode} and: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def answer(measure):
    """Print what `measure` finds for the arguments that `in_process` gave."""
    print(json.dumps(measure(**json.loads(sys.argv[1]))))

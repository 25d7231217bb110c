"""Ask a module of this package in a process of its own: JSON on its standard input, JSON on its standard output."""

import json
import os
import subprocess
import sys

from pf_keras.errors import UserError


def ask(module: str, request: dict, environment: dict[str, str], seconds: int, task: str):
    """The answer of a module to a request.

    Args:
        module: its name, for `python -m`.
        request: what it gets.
        environment: variables to set.
        seconds: how long it may take.
        task: what it does, to begin an error message with.

    Raises:
        UserError: it fails or takes too long.
    """
    try:
        process = subprocess.run(
            [sys.executable, "-m", module], input=json.dumps(request), capture_output=True, text=True, timeout=seconds,
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{task} did not end within {seconds} s. Use a faster machine or a smaller model.") from error
    if process.returncode:
        lines = [line for line in process.stderr.splitlines() if line.strip()]
        last = ([line for line in lines if "Error: " in line] or lines or ["no message"])[-1]
        raise UserError(f"{task} failed with exit code {process.returncode}: {last[:300]}")
    return json.loads(process.stdout.splitlines()[-1])

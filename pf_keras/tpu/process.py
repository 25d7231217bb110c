"""Ask a module of this package in a process of its own: JSON on its standard input, JSON on its standard output."""

import json
import os
import re
import signal
import subprocess
import sys
import threading

from pf_keras.errors import UserError

NOTE = "note: "


def note(text: str) -> None:
    """Show the user of the asking process what this process does now."""
    print(f"{NOTE}{text}", file=sys.stderr, flush=True)


def ask(module: str, request: dict, environment: dict[str, str], seconds: float, task: str):
    """The answer of a module to a request. What the module notes is printed on standard error.

    Args:
        module: its name, for `python -m`.
        request: what it gets.
        environment: variables to set.
        seconds: how long it may take.
        task: what it does, to begin an error message with.

    Raises:
        UserError: it fails, is ended by a signal, as an abort of a native library does, or takes too long.
    """
    late, lines = threading.Event(), []

    def stop():
        late.set()
        process.kill()

    def read():
        for line in process.stderr:
            if line.startswith(NOTE):
                print(f"    {line.removeprefix(NOTE).rstrip()}", file=sys.stderr, flush=True)
            elif line.strip():
                lines.append(line.strip())

    process = subprocess.Popen(
        [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        errors="replace", env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    timer, reader = threading.Timer(seconds, stop), threading.Thread(target=read, daemon=True)
    with process:
        timer.start()
        reader.start()
        try:
            with process.stdin:
                process.stdin.write(json.dumps(request))
            output = process.stdout.read()
            process.wait()
            reader.join()
        except BrokenPipeError:  # it ended before it read the request
            output = ""
            process.wait()
            reader.join()
        finally:
            timer.cancel()
            process.kill()  # it still runs where a signal stopped this process
    if late.is_set():
        raise UserError(f"{task} did not end within {seconds:g} s. Use a faster machine or a smaller model.")
    if process.returncode < 0:
        ended = signal.Signals(-process.returncode).name
        raise UserError(f"{task} was ended by {ended}: {_reason(lines)}. Change what the model computes.")
    if process.returncode:
        raise UserError(f"{task} failed with exit code {process.returncode}: {_reason(lines)}")
    return json.loads(output.splitlines()[-1])


def _reason(lines: list[str]) -> str:
    """The line that says why a process failed. A native library that aborts prints it first, and then its stack."""
    fatal = [line for line in lines if re.match(r"F\d{4} |.*Check failed", line)]
    errors = [line for line in lines if "Error: " in line]
    return (fatal[:1] + errors[-1:] + lines[-1:] + ["no message"])[0][:300]

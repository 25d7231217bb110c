"""Ask a module of this package in a process of its own: JSON on its standard input, JSON on its standard output."""

import contextlib
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


class Question:
    """A module of this package that runs in a process of its own, to answer a request.

    Args:
        module: its name, for `python -m`.
        request: what it gets.
        environment: variables to set.
        seconds: how long it may take.
        task: what it does, to begin an error message with.
        name: to begin what the module notes with, which is printed on standard error.
    """

    def __init__(self, module: str, request: dict, environment: dict[str, str], seconds: float, task: str, name: str = ""):
        self.seconds, self.task, self.name = seconds, task, name
        self._late, self._lines, self._output = threading.Event(), [], ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace", env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        with contextlib.suppress(BrokenPipeError), self._process.stdin:  # broken where the process has ended already
            self._process.stdin.write(json.dumps(request))
        self._threads = [threading.Thread(target=read, daemon=True) for read in (self._read_output, self._read_messages)]
        self._timer = threading.Timer(seconds, self._stop)
        for thread in (*self._threads, self._timer):
            thread.start()

    def answer(self):
        """Wait for the answer.

        Raises:
            UserError: the module fails, is ended by a signal, as an abort of a native library does, or takes too long.
        """
        self._process.wait()
        for thread in self._threads:
            thread.join()
        if self._late.is_set():
            raise UserError(f"{self.task} did not end within {self.seconds:g} s. Use a faster machine or a smaller model.")
        if self._process.returncode < 0:
            ended = signal.Signals(-self._process.returncode)
            if ended == signal.SIGKILL:
                do = "Use a machine with more memory, or a smaller batch"
                raise UserError(f"{self.task} was killed, probably because this machine ran out of memory. {do}.")
            raise UserError(f"{self.task} was ended by {ended.name}: {_reason(self._lines)}. Change what the model computes.")
        if self._process.returncode:
            raise UserError(f"{self.task} failed with exit code {self._process.returncode}: {_reason(self._lines)}")
        return json.loads(self._output.splitlines()[-1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._timer.cancel()
        self._process.kill()  # it may still run, where an error or a signal ends this process
        self._process.wait()

    def _stop(self):
        self._late.set()
        self._process.kill()

    def _read_output(self):
        self._output = self._process.stdout.read()

    def _read_messages(self):
        for line in self._process.stderr:
            if line.startswith(NOTE):
                print(f"{self.name}{line.removeprefix(NOTE).rstrip()}", file=sys.stderr, flush=True)
            elif not re.match(r"\s*$|[IW]\d{4} |WARNING: All log", line):  # what native libraries always print
                self._lines.append(line.strip())


def _reason(lines: list[str]) -> str:
    """The line that says why a process failed. A native library that aborts prints it first, and then its stack."""
    fatal = [line for line in lines if re.match(r"F\d{4} |.*Check failed", line)]
    errors = [i for i, line in enumerate(lines) if "Error: " in line]
    if fatal or not errors:
        return (fatal[:1] + lines[-1:] + ["no message"])[0][:300]
    # Keras puts what went wrong on the next line.
    told = lines[errors[-1] :][: 2 if "Exception encountered when calling" in lines[errors[-1]] else 1]
    return re.sub(r"\x1b\[\d+m", "", " ".join(told))[:300]

"""`commands.jsonl`: one line of JSON for each command that worked in a workdir.

A line is written when the command begins to work there, and replaced when it ends, so that a command that was killed has left
its line too.
"""

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence

from pf_keras import __version__
from pf_keras.errors import patiently
from pf_keras.training.workdir import Workdir

FILE = "commands.jsonl"
LIBRARIES = {"tensorflow": "TensorFlow", "keras": "Keras", "jax": "JAX"}
UNFINISHED = "it was killed, or it is still running"


class Command:
    """The command of this process.

    Args:
        argv: the command line, with the program's name first.
        mode: of the command.
        workdir: that it is for.
        began: when it began, in seconds since 1970.

    Attributes:
        line: what it has written to `commands.jsonl`, empty as long as it has written nothing.
    """

    def __init__(self, argv: Sequence[str], mode: str, workdir: str, began: float):
        self.argv, self.mode, self.workdir, self.began, self.line = argv, mode, Workdir(workdir), began, ""

    def write(self, ended: str, seconds: float | None = None) -> None:
        """Add the command's line to the file, or replace the line that it has written.

        Args:
            ended: `done`, or why it ended, in one line.
            seconds: that it took. None as long as it has not ended.
        """
        file, before = self.workdir.path / FILE, self.line
        self.line = json.dumps(self._content(ended, seconds)) + "\n"
        with self.workdir.writing():
            text = patiently(file.read_text, file) if before else ""
            if before and before in text:
                self.workdir.write_text(file, text.replace(before, self.line))
            else:
                with file.open("a") as lines:
                    lines.write(self.line)

    def end(self, ended: str) -> None:
        """Write that the command ends now, `done` or for a reason."""
        self.write(ended, round(time.time() - self.began, 1))

    def _content(self, ended: str, seconds: float | None) -> dict:
        backend = os.environ.get("KERAS_BACKEND", "tensorflow")
        used = [name for name in LIBRARIES if name in sys.modules and (name != "jax" or backend == "jax")]
        return {
            "command": typed(self.argv),
            "mode": self.mode,
            "folder": os.getcwd(),
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.began)),
            "seconds": seconds,
            "ended": ended,
            "backend": backend,
            "versions": {"pf_keras": __version__, "Python": platform.python_version()}
            | {LIBRARIES[name]: sys.modules[name].__version__ for name in used},
        }


_present: list[Command] = []  # the command of this process, if the command line has set one


def set_command(command: Command | None) -> None:
    """Make `command` the command of this process. None when the command has ended."""
    _present[:] = [command] if command else []


def note_start(workdir: Workdir) -> None:
    """Write down that the command of this process works in `workdir` from now on, if that is the workdir it is for.

    A task calls this when nothing more can refuse the command. In a notebook or a library there is no such command.
    """
    for command in _present:
        if workdir.chief and workdir.path == command.workdir.path and not command.line:
            command.write(UNFINISHED)


def read_commands(workdir: Workdir) -> list[dict]:
    """The commands, the first one first, without a line that was cut short."""
    file = workdir.path / FILE
    if not file.exists():
        return []
    return [json.loads(line) for line in patiently(file.read_text, file).splitlines() if line.endswith("}")]


def typed(argv: Sequence[str]) -> str:
    """A command as one types it in a shell."""
    program, *arguments = map(str, argv)
    if program.endswith(os.path.join("pf_keras", "cli.py")):
        words = ["python", "-m", "pf_keras.cli"]
    else:
        words = ["python", program] if program.endswith(".py") else [os.path.basename(program)]
    return shlex.join([*words, *arguments])

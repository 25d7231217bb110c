"""`commands.jsonl`: one line of JSON for each command that worked in a workdir."""

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence

from pf_keras import __version__
from pf_keras.training.workdir import Workdir

FILE = "commands.jsonl"
LIBRARIES = {"tensorflow": "TensorFlow", "keras": "Keras", "jax": "JAX"}


def append_command(workdir: Workdir, argv: Sequence[str], mode: str, began: float, ended: str) -> None:
    """Add the command that ends now.

    Args:
        workdir: that it worked in.
        argv: the command line, with the program's name first.
        mode: of the command.
        began: when it began, in seconds since 1970.
        ended: `done`, or why it ended, in one line.
    """
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    used = [name for name in LIBRARIES if name in sys.modules and (name != "jax" or backend == "jax")]
    line = {
        "command": typed(argv),
        "mode": mode,
        "folder": os.getcwd(),
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.time() - began, 1),
        "ended": ended,
        "backend": backend,
        "versions": {"pf_keras": __version__, "Python": platform.python_version()}
        | {LIBRARIES[name]: sys.modules[name].__version__ for name in used},
    }
    with workdir.writing(), (workdir.path / FILE).open("a") as file:
        file.write(json.dumps(line) + "\n")


def read_commands(workdir: Workdir) -> list[dict]:
    """The commands, the first one first, without a line that was cut short."""
    file = workdir.path / FILE
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]


def typed(argv: Sequence[str]) -> str:
    """A command as one types it in a shell."""
    program, *arguments = map(str, argv)
    if program.endswith(os.path.join("pf_keras", "cli.py")):
        words = ["python", "-m", "pf_keras.cli"]
    else:
        words = ["python", program] if program.endswith(".py") else [os.path.basename(program)]
    return shlex.join([*words, *arguments])

"""What the command lines of this package share: errors in one line, exit codes, and the option --processes."""

import argparse
import sqlite3
import sys
from collections.abc import Callable, Sequence

from pf_keras.errors import UserError, tensorflow_reason
from pf_keras.processes import cores


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UserError`, so that its errors look like all others."""

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(self, message: str):
        raise UserError(f"{message}. --help lists the options.")

    def add_processes(self) -> None:
        """Add the option --processes."""
        self.add_argument("--processes", type=positive, default=cores(), help="worker processes (default: the CPU cores)")


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small, it must be at least 1")
    return number


def run(main: Callable[[Sequence[str]], int]) -> int:
    """Call `main(arguments)` and return the exit code: its own, or 2 after an error in one line on standard error."""
    try:
        return main(sys.argv[1:])
    except (UserError, OSError, sqlite3.Error) as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("interrupted: run the same command again to resume", file=sys.stderr)
        return 130
    except Exception as error:
        if not (reason := tensorflow_reason(error)):
            raise
        return _fail(reason)


def _fail(message: object) -> int:
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    return 2

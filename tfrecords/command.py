"""What the command lines of this package share: one-line errors, exit codes, the option --processes."""

import argparse
import sqlite3
import sys
from collections.abc import Callable, Sequence

from tfrecords.errors import UserError, tensorflow_reason
from tfrecords.pool import cores


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are a `UserError`, so that they come out as one line like all the others."""

    def __init__(self, description: str):
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=layout, allow_abbrev=False)

    def error(self, message: str):
        raise UserError(f"{message}; --help lists the options")

    def add_processes(self) -> None:
        self.add_argument("--processes", type=positive, default=cores(), help="worker processes (default: the cores)")


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, received {text}")
    return number


def run(main: Callable[[Sequence[str]], int]) -> int:
    """Runs `main(arguments)` and returns the exit code: what `main` returned, or 2 after one line on stderr."""
    try:
        return main(sys.argv[1:])
    except (UserError, OSError, sqlite3.Error) as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        if not (reason := tensorflow_reason(error)):
            raise
        return _fail(reason)


def _fail(message) -> int:
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    return 2

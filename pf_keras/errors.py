"""The exceptions that end a run with one line instead of a traceback.

`pf_keras.cli` prints a `UserError` on standard error and exits with code 2. After a `Stopped` it exits as a process does that
the signal ended.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator


class UserError(Exception):
    """Bad input, bad data or wrong usage. Its text is one line: the problem, then what to do."""


class Stopped(BaseException):
    """A signal told the run to stop.

    Derives from BaseException so that `except Exception` cannot swallow it.

    Args:
        number: the signal.
        where: how far the run had come, as the end of a sentence.
    """

    def __init__(self, number: int, where: str):
        super().__init__(f"stopped by {signal.Signals(number).name} {where}: run the same command again to resume")
        self.signal = number


def printable(text: str) -> str:
    """Text on one line, with an escape for each control character of a file name, which a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def tensorflow_reason(error: Exception) -> str:
    """The reason TensorFlow gives for its failure, as for a file on `gs://`. Empty for any other error."""
    tensorflow = sys.modules.get("tensorflow")
    return error.message if tensorflow and isinstance(error, tensorflow.errors.OpError) else ""


def writing(place: object) -> contextlib.AbstractContextManager[None]:
    """Turn a failure to write into a UserError that names the place."""
    do = "Free space there or choose another --workdir, then run the command again. Earlier checkpoints are intact."
    return _naming(f"Cannot write in {place}", do)


def reading(place: object) -> contextlib.AbstractContextManager[None]:
    """Turn a failure to read into a UserError that names the place."""
    return _naming(f"Cannot read {place}", "Check the path, its permissions and the network.")


def _file_on_the_way(path: object) -> str:
    """The file that is where a path needs a folder, or an empty string."""
    place = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
    while place and not os.path.exists(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    return place if os.path.isfile(place) else ""


@contextlib.contextmanager
def _naming(problem: str, do: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else tensorflow_reason(error)
        if not reason:
            raise
        if isinstance(error, FileExistsError | NotADirectoryError) and (file := _file_on_the_way(error.filename)):
            raise UserError(f"{file} is a file, not a directory. Move it away, or choose another path.") from error
        raise UserError(f"{problem}: {reason}. {do}") from error

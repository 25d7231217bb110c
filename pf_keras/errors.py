"""The exceptions that end a run with one line instead of a traceback.

`pf_keras.cli` prints a `UserError` on standard error and exits with code 2. After a `Stopped` it exits as a process does that
the signal ended.
"""

import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

Result = TypeVar("Result")
RETRY_SECONDS = (1, 2, 4, 8, 15, 30, 60)  # two minutes in all
# What network disks and object stores report while they cannot be reached.
PASSING = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EREMOTEIO, errno.ECONNRESET, errno.ECONNABORTED,
    errno.ECONNREFUSED, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH,
}  # fmt: skip
PASSING_TENSORFLOW = {"UnavailableError", "DeadlineExceededError", "AbortedError", "InternalError", "UnknownError"}


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


def patiently(action: Callable[[], Result], place: object) -> Result:
    """The result of `action()`, which uses storage and can be repeated. Tries again for two minutes where the storage fails.

    Errors that stay, such as a full disk, a missing file or a missing permission, are raised at once.

    Args:
        action: does everything anew at each call.
        place: is named on standard error at each failure.
    """
    for delay in RETRY_SECONDS:
        try:
            return action()
        except Exception as error:
            if not _may_pass(error):
                raise
            print(f"{place} failed: {_reason(error)}. Trying again in {delay} s", file=sys.stderr)
        time.sleep(delay)
    return action()


def _may_pass(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in PASSING
    return bool(tensorflow_reason(error)) and type(error).__name__ in PASSING_TENSORFLOW


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else tensorflow_reason(error)


@contextlib.contextmanager
def _naming(problem: str, do: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        reason = _reason(error)
        if not reason:
            raise
        if isinstance(error, FileExistsError | NotADirectoryError) and (file := _file_on_the_way(error.filename)):
            raise UserError(f"{file} is a file, not a directory. Move it away, or choose another path.") from error
        raise UserError(f"{problem}: {reason}. {do}") from error

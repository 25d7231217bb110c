"""What ends a run with a single line instead of a traceback.

`main.py` prints a `UserError`, shared with the `tfrecords` package, on standard error and exits with code 2; after a
`Stopped` it exits as a process ended by that signal does.
"""

import contextlib
import signal

from tfrecords.errors import UserError

__all__ = ["Stopped", "UserError", "one_line", "writing"]


class Stopped(Exception):
    """The run was told to stop by the signal of that number; `where` says how far it had come."""

    def __init__(self, number, where):
        super().__init__(f"stopped by {signal.Signals(number).name} {where}: start again to go on")
        self.signal = number


@contextlib.contextmanager
def writing(place):
    """Turn a failure to write into a UserError that names the place."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"expected to write in {place}, received {error.strerror or error}: free space there or choose another "
            "--workdir, then start again; checkpoints written before are whole"
        ) from error


def one_line(text):
    """`text` as one printable line: file names may hold line breaks and terminal commands."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(str(text).split()))

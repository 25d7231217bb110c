"""What ends a run with a single line instead of a traceback.

`main.py` prints a `UserError`, shared with the `tfrecords` package, on standard error and exits with code 2; after a
`Stopped` it exits as a process ended by that signal does.
"""

import contextlib
import signal

from tfrecords.errors import UserError

__all__ = ["Stopped", "UserError", "writing"]


class Stopped(BaseException):
    """The run was told to stop by the signal of that number; `where` says how far it had come.

    No mere Exception, as KeyboardInterrupt is none: it may be raised anywhere, and nothing in between is to take it.
    """

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


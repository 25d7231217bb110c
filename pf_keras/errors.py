"""What ends a run with a single line instead of a traceback.

`main.py` prints a `UserError`, shared with the `tfrecords` package, on standard error and exits with code 2; after a
`Stopped` it exits as a process ended by that signal does.
"""

import contextlib
import signal

from tfrecords.errors import UserError, tensorflow_reason

__all__ = ["Stopped", "UserError", "reading", "writing"]


class Stopped(BaseException):
    """The run was told to stop by the signal of that number; `where` says how far it had come.

    No mere Exception, as KeyboardInterrupt is none: it may be raised anywhere, and nothing in between is to take it.
    """

    def __init__(self, number, where):
        super().__init__(f"stopped by {signal.Signals(number).name} {where}: start again to go on")
        self.signal = number


def writing(place):
    """Turn a failure to write into a UserError that names the place."""
    do = "free space there or choose another --workdir, then start again; checkpoints written before are whole"
    return _naming(f"to write in {place}", do)


def reading(place):
    """Turn a failure to look into a place into a UserError that names it."""
    return _naming(f"to read {place}", "check the path, the network and its rights")


@contextlib.contextmanager
def _naming(what, do):
    try:
        yield
    except Exception as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else tensorflow_reason(error)
        if not reason:
            raise
        raise UserError(f"expected {what}, received {reason}: {do}") from error

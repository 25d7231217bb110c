"""What ends a run with a single line instead of a traceback.

`main.py` prints a `UserError`, shared with the `tfrecords` package, on standard error and exits with code 2; after a
`Stopped` it exits as a process ended by that signal does.
"""

import contextlib
import signal
import sys

from tfrecords.errors import UserError

__all__ = ["Stopped", "UserError", "reading", "writing"]


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
    except Exception as error:
        reason = _of_the_store(error)
        if not reason:
            raise
        raise UserError(
            f"expected to write in {place}, received {reason}: free space there or choose another "
            "--workdir, then start again; checkpoints written before are whole"
        ) from error


@contextlib.contextmanager
def reading(place):
    """Turn a failure to look into a place into a UserError that names it."""
    try:
        yield
    except Exception as error:
        reason = _of_the_store(error)
        if not reason:
            raise
        raise UserError(f"expected to read {place}, received {reason}: check the path, the network and its rights") from error


def _of_the_store(error):
    """What a disk or a store says of its failure, or nothing for another error. TensorFlow, which reaches `gs://`, has
    errors of its own."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow and isinstance(error, tensorflow.errors.OpError):
        return error.message
    return ""


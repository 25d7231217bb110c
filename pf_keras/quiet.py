"""Keeps the messages of native libraries off the terminal.

TensorFlow, XLA and oneDNN write to file descriptor 2 whatever the log level says. `native_output_diverted` sends that
descriptor to a log file and leaves Python's own `sys.stderr` on the terminal.
"""

import contextlib
import faulthandler
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator


def native_log() -> str:
    """Where the native messages of this process go. The file stays where the process crashes or is killed."""
    return os.path.join(tempfile.gettempdir(), f"pf_keras-native-{os.getuid()}-{os.getpid()}.log")


@contextlib.contextmanager
def native_output_diverted() -> Iterator[None]:
    """Send file descriptor 2 to `native_log()`, and silence the Python loggers of the libraries.

    Where a native library crashes the process, the Python traceback is printed on the terminal and the log file stays.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("absl", "tensorflow", "jax"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:
        for category in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)
    python_stderr = sys.stderr
    python_stderr.flush()
    terminal = os.dup(2)
    # The folder is shared with other users, who could put a link there.
    log = os.open(native_log(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    os.dup2(log, 2)
    os.close(log)
    if _writes_to(python_stderr, 2):
        text = {"encoding": python_stderr.encoding, "errors": python_stderr.errors, "buffering": 1}
        sys.stderr = open(terminal, "w", closefd=False, **text)
    crashes_reported = faulthandler.is_enabled()
    if not crashes_reported:
        faulthandler.enable(terminal)
    try:
        yield
    finally:
        if not crashes_reported:
            faulthandler.disable()
        sys.stderr.flush()
        sys.stderr = python_stderr
        os.dup2(terminal, 2)
        os.close(terminal)
        with contextlib.suppress(OSError):
            os.remove(native_log())


def _writes_to(stream: object, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (AttributeError, OSError, ValueError):  # a stream in memory, as in tests
        return False

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

from pf_keras import ASKED_FOR_MESSAGES
from pf_keras.errors import Stopped, UserError

LIBRARIES = ("absl", "tensorflow", "jax")


def native_log() -> str:
    """Where the native messages of this process go. The file stays if the process fails or is killed."""
    return os.path.join(tempfile.gettempdir(), f"pf_keras-native-{os.getuid()}-{os.getpid()}.log")


@contextlib.contextmanager
def native_output_diverted() -> Iterator[None]:
    """Send file descriptor 2 to `native_log()`, and silence the Python loggers of the libraries.

    To see the messages instead, set TF_CPP_MIN_LOG_LEVEL, as TensorFlow's own documents say: then nothing is diverted. If a
    native library crashes the process, the Python traceback is printed on the terminal. If an unexpected error ends the
    body, the place of the log is printed.
    """
    if ASKED_FOR_MESSAGES:
        yield
        return
    python_stderr = sys.stderr
    python_stderr.flush()
    with contextlib.ExitStack() as undo:
        undo.enter_context(_libraries_silenced())
        terminal = os.dup(2)
        undo.callback(os.close, terminal)
        log = _open_log()
        os.dup2(log, 2)
        os.close(log)
        undo.callback(os.dup2, terminal, 2)
        if _writes_to(python_stderr, 2):
            text = {"encoding": python_stderr.encoding, "errors": python_stderr.errors, "buffering": 1}
            sys.stderr = open(terminal, "w", closefd=False, **text)
            undo.callback(setattr, sys, "stderr", python_stderr)
            undo.callback(sys.stderr.flush)
        if not faulthandler.is_enabled():
            faulthandler.enable(terminal)
            undo.callback(faulthandler.disable)
        try:
            yield
        except (UserError, Stopped, SystemExit):
            _remove_log()
            raise
        except BaseException:
            print(f"messages of native libraries are in {native_log()}", file=sys.stderr)
            raise
        _remove_log()


@contextlib.contextmanager
def _libraries_silenced() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                for category in (FutureWarning, DeprecationWarning):
                    warnings.simplefilter("ignore", category)
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _open_log() -> int:
    try:
        # The folder is shared with other users, who could put a link there.
        return os.open(native_log(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


def _remove_log() -> None:
    with contextlib.suppress(OSError):
        os.remove(native_log())


def _writes_to(stream: object, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (AttributeError, OSError, ValueError):  # a stream in memory, as in tests
        return False

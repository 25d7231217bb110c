"""A time limit for calls into native code that holds Python's interpreter, so that no thread or handler of ours runs."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

# Run by another Python, which needs nothing but the standard library. It waits for the end of standard input: the parent
# closes it when the call is over, and the system does when the parent has ended.
_WATCHER = """
import os, select, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
seconds, parent, message = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if not select.select([0], [], [], seconds)[0] and os.getppid() == parent:
    sys.stderr.write(message + chr(10))
    sys.stderr.flush()
    os.kill(parent, signal.SIGINT)
"""


@contextlib.contextmanager
def time_limit(seconds: float, message: str) -> Iterator[None]:
    """End this process with one line on standard error and exit code 2 where the body takes longer.

    While the body runs, Ctrl-C ends the process at once with exit code 2, even inside native code. In a thread other than the
    main thread there is no limit, because signals are the main thread's.

    Args:
        seconds: the limit.
        message: what is wrong and what to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    line = [sys.executable, "-I", "-S", "-c", _WATCHER, str(seconds), str(os.getpid()), f"error: {message}"]
    watcher = subprocess.Popen(line, stdin=subprocess.PIPE, stderr=_terminal())
    before = signal.getsignal(signal.SIGINT)
    # A C function as the handler of a signal gets its number, 2 of SIGINT: the exit code of a user's mistake.
    library = ctypes.CDLL(None)
    library.signal.restype = ctypes.c_void_p
    library.signal(signal.SIGINT, ctypes.cast(library._exit, ctypes.c_void_p))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)
        watcher.stdin.close()
        watcher.wait()


def _terminal() -> int | None:
    """The file that Python's standard error writes to, which is not always number 2 (`pf_keras.quiet`)."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # in a notebook
        return None

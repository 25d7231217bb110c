"""The folder for unfinished work in the output of a build, and its lock."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pf_keras import filesystem as fs
from pf_keras.data.shard_files import WORK, is_unfinished
from pf_keras.errors import UserError


@contextlib.contextmanager
def work_directory(output: str) -> Iterator[None]:
    """Reserve the output for one command, and remove unfinished work that no build needs any more.

    A local directory is locked. The system releases the lock when the process ends in any way.
    """
    work = fs.join(output, WORK)
    fs.make_directory(work)
    with contextlib.ExitStack() as stack:
        if not fs.is_remote(output):
            lock = stack.enter_context(open(os.path.join(work, "lock"), "w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"Another build is writing into {output}. Wait for it.") from None
            if not os.path.exists(lock.name) or not os.path.samestat(os.fstat(lock.fileno()), os.stat(lock.name)):
                # The other build removed the lock file after it was opened here, so that this lock protects nothing.
                raise UserError(f"Another build into {output} has just ended. Run the same command again.")
            for left in Path(work).glob("*.partial"):
                left.unlink()
        try:
            yield
        finally:
            if fs.exists(work) and not is_unfinished(output):
                fs.remove_tree(work)

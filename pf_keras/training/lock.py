"""One process at a time trains in a workdir."""

import fcntl
import os
import socket
import sys

from pf_keras.errors import UserError, writing
from pf_keras.filesystem import is_remote

# The open lock file of each workdir that this process trains in, None where there are no locks. The system unlocks a file when
# it is closed or the process ends.
_held = {}


def lock(workdir: os.PathLike) -> None:
    """Keep other processes out of the workdir until `unlock` or the end of this process.

    Object stores such as `gs://` and some network disks have no locks. There the user must not start a second run.

    Args:
        workdir: an existing directory.

    Raises:
        UserError: another process holds the lock.
    """
    place = os.path.realpath(workdir)
    if is_remote(os.fspath(workdir)):
        _held[place] = None
    if place in _held:
        return
    with writing(workdir):
        file = open(os.path.join(workdir, ".lock"), "a+")  # noqa: SIM115 - the open file is the lock
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise UserError(f"{owner} is already running in {workdir}. Wait for it, or choose another --workdir.") from None
        except OSError as error:
            print(f"{workdir} cannot be locked ({error.strerror}): do not start a second run there", file=sys.stderr)
            _held[place] = None
            return
        _held[place] = file
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()


def is_held(workdir: os.PathLike | str) -> bool:
    """Whether this process keeps others out of the workdir, or tried to where there are no locks."""
    return os.path.realpath(workdir) in _held


def unlock(workdir: os.PathLike | None = None) -> None:
    """Let other processes into the workdir again, or into all workdirs that this process holds."""
    for place in [os.path.realpath(workdir)] if workdir else list(_held):
        if file := _held.pop(place, None):
            file.close()

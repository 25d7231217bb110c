"""Processes wait for each other before TensorFlow connects them: it would wait for ever, and deaf to Ctrl-C.

The first process listens at its own address, where TensorFlow listens later. The others connect to it and say their number.
Once it has heard of all and each has confirmed that it is still there, it tells all to begin.
"""

import contextlib
import hashlib
import socket
import time
from collections.abc import Sequence

from pf_keras import __version__

ANSWER_SECONDS = 5
RETRY_SECONDS = 0.5
GREETING, STRANGER = "pf_keras process", "another run"


class Missing(Exception):
    """Processes that did not come in time.

    Args:
        numbers: of these processes.
    """

    def __init__(self, numbers: Sequence[int]):
        super().__init__(f"processes {numbers} did not come")
        self.numbers = numbers


class Stranger(Exception):
    """The first process is of another run: it has other addresses or another version of this package."""


def identity_of(addresses: Sequence[str]) -> str:
    """What all processes that belong together have in common."""
    return hashlib.sha256("\n".join([__version__, *addresses]).encode()).hexdigest()[:16]


def meet(addresses: Sequence[str], number: int, seconds: float) -> None:
    """Return when all processes have called this. Processes of another run are turned away.

    Args:
        addresses: `host:port` of each process.
        number: of this process, from 0.
        seconds: how long to wait at most.

    Raises:
        Missing: of the processes that did not come in time. A process other than the first one knows of the first only.
        Stranger: the process at the first address is of another run.
        OSError: the first process cannot listen at its address.
    """
    end, greeting = time.monotonic() + seconds, f"{GREETING} {identity_of(addresses)}"
    if number:
        while not _greet(addresses[0], f"{greeting} {number}", end):
            if time.monotonic() > end:
                raise Missing([0])
            time.sleep(RETRY_SECONDS)
        return
    here = {}
    with contextlib.ExitStack() as opened, socket.create_server(("", int(addresses[0].rpartition(":")[2]))) as server:
        while len(here) < len(addresses) - 1:
            server.settimeout(max(0.01, end - time.monotonic()))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                raise Missing([i for i in range(1, len(addresses)) if i not in here]) from None
            opened.enter_context(connection)
            connection.settimeout(ANSWER_SECONDS)
            words = _read(connection).rpartition(" ")
            if words[0] != greeting:
                if words[0].startswith(GREETING):
                    _write(connection, STRANGER)
                connection.close()
            elif words[2].isdecimal():
                here[int(words[2])] = connection
            if len(here) == len(addresses) - 1:
                here = {i: process for i, process in here.items() if _write(process, "ready?") and _read(process) == "yes"}
        for process in here.values():
            _write(process, "begin")
        for process in here.values():
            _read(process)  # it hangs up first, so that its end keeps the used connection, and not this one's port


def _greet(address: str, greeting: str, end: float) -> bool:
    """Whether the first process told this one to begin. It may still be to come, or train with earlier processes.

    Raises Stranger where it is of another run.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS) as connection:
            _write(connection, greeting)
            connection.settimeout(max(0.01, end - time.monotonic()))  # for the others
            answer = _read(connection)
            if answer == STRANGER:
                raise Stranger
            if answer != "ready?":
                return False
            connection.settimeout(ANSWER_SECONDS * 10)  # others may not have confirmed
            return _write(connection, "yes") and _read(connection) == "begin"
    except OSError:
        return False


def _write(connection: socket.socket, text: str) -> bool:
    try:
        connection.sendall(f"{text}\n".encode())
    except OSError:
        return False
    return True


def _read(connection: socket.socket) -> str:
    """A line. Empty where the other end hung up, is silent or says something else."""
    line = b""
    with contextlib.suppress(OSError):
        while not line.endswith(b"\n") and len(line) < 100 and (byte := connection.recv(1)):
            line += byte
    return line.decode(errors="replace").rstrip("\n")

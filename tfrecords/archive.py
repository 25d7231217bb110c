"""Tar archives read in place, including tars inside a tar. Nothing is ever extracted.

The headers are scanned once. A member is then read by its offset and size. Names are only data here, never paths to write to:
links, devices and names that lead out of the archive are reported and not followed.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pf_keras.errors import UserError

MAX_NAME = 1000  # characters of a member's path
_MAX_HEADER = 1 << 20  # bytes; tarfile reads an extended header whole, so its size must be bounded


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: its path in the archive.
        offset: its first byte in the outermost file.
        size: in bytes.
        problem: why it cannot be used, or empty.
    """

    name: str
    offset: int
    size: int
    problem: str


def name_problem(name: str) -> str:
    """Why a file name cannot be used. Empty if it can."""
    if len(name) > MAX_NAME:
        return f"its name has {len(name)} characters, more than the {MAX_NAME} allowed"
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        return "its name is absolute or leads out of the archive"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if name != name.rstrip():
        return "its name ends in a space"
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        return "its name has control characters"
    return ""


def members(file: BinaryIO, start: int, size: int, where: str) -> Iterator[Member]:
    """Scan a tar that is part of a file.

    Args:
        file: a seekable file.
        start: where the tar begins, in bytes.
        size: of the tar, in bytes.
        where: names the tar in errors.

    Yields:
        Every member except directories, in the archive's order.

    Raises:
        UserError: it is not a plain tar, or it is damaged or cut short.
    """
    part, end = _Part(file, start, size), 0
    try:
        with tarfile.open(fileobj=part, mode="r:", encoding="utf-8") as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # TarFile would keep everything it has seen
                if tar.offset <= end:
                    raise tarfile.ReadError(f"a member of negative size, {info.name!r}")
                end = tar.offset
                if not info.isdir():
                    yield _member(info, start, size, where)
            end = tar.offset
    except (tarfile.TarError, RecursionError) as error:  # RecursionError: extended headers upon extended headers
        raise UserError(f"{where} is not a whole, uncompressed tar: it has {error}. Download it again.") from None
    # tarfile takes a cut or damaged header for the end of the archive, and ignores what follows an end mark.
    part.seek(end)
    if not 2 * tarfile.BLOCKSIZE <= size - end <= _MAX_HEADER or any(part.read(size)):
        raise UserError(
            f"{where} is damaged or cut short: its {size} bytes should end with an end mark at byte {end}. Download it again."
        )


def _member(info: tarfile.TarInfo, start: int, size: int, where: str) -> Member:
    problem = name_problem(info.name)
    if info.issym() or info.islnk():
        problem = "it is a link"
    elif not info.isreg() or info.issparse():
        problem = "it is not a regular file"
    elif info.size < 0 or info.offset_data + info.size > size:
        raise UserError(f"{where} is cut short: member {info.name!r} ends beyond the archive. Download it again.")
    return Member(info.name, start + info.offset_data, info.size, problem)


class _Part:
    """A part of a file, as tarfile reads headers from it. Refuses reads that are longer than a header can be."""

    def __init__(self, file: BinaryIO, start: int, size: int):
        self._file, self._start, self._size, self._position = file, start, size, 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < 0:
            raise tarfile.ReadError("a member of negative size")
        self._position = position

    def read(self, count: int) -> bytes:
        count = max(0, min(count, self._size - self._position))
        if count > _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {count} bytes")
        self._file.seek(self._start + self._position)
        data = self._file.read(count)
        self._position += len(data)
        return data

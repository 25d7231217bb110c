"""Tar archives read in place: where each member's bytes lie. Nothing is ever extracted.

The headers of a tar, or of the tars inside a tar, are scanned once; a member is then read by offset and size. Names are
data here, never paths: a link, a device or a name that would lead out of a directory is reported, not followed.
"""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from tfrecords.errors import UserError

_LARGEST_HEADER = 1 << 20  # bytes; a tar's extended headers are read whole, so their size has to be bounded
MAX_NAME = 1000  # characters of a member's path


@dataclass(frozen=True)
class Member:
    """A file in an archive: `offset` and `size` in bytes within the outermost file; `problem` is empty or says what."""

    name: str
    offset: int
    size: int
    problem: str


def name_problem(name: str) -> str:
    """Why a name cannot be taken, or an empty string."""
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


class Window(io.RawIOBase):
    """A part of a seekable file, for reading tar headers: no single read may be longer than a header can be."""

    def __init__(self, file, start: int, size: int):
        self._file, self._start, self._size, self._position = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        if self._position < 0:
            raise tarfile.ReadError("a member of negative size")
        return self._position

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._size - self._position)
        count = left if count < 0 else min(count, left)
        if count > _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {count} bytes")
        self._file.seek(self._start + self._position)
        data = self._file.read(count)
        self._position += len(data)
        return data


def members(file, start: int, size: int, where: str) -> Iterator[Member]:
    """Everything but directories in the tar that lies at `start` in `file` and is `size` bytes long, in its order.

    `where` names it in errors. Raises UserError for what is not a plain tar and for one that is cut short.
    """
    window, end = Window(file, start, size), 0
    try:
        with tarfile.open(fileobj=window, mode="r:", encoding="utf-8") as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # TarFile would keep all it has seen
                if tar.offset <= end:  # a negative size would send it round in circles
                    raise tarfile.ReadError(f"a member of negative size, {info.name!r}")
                end = tar.offset
                if not info.isdir():
                    yield _member(info, start, size, where)
            end = tar.offset
    except (tarfile.TarError, RecursionError) as error:  # the latter by extended headers upon extended headers
        raise UserError(f"{where}: expected a whole, uncompressed tar archive, received one with {error}") from None
    # tarfile takes a cut or damaged header for the end, and what stands behind an end mark for nothing.
    window.seek(end)
    if not 2 * tarfile.BLOCKSIZE <= size - end <= _LARGEST_HEADER or any(window.read()):
        raise UserError(
            f"{where}: expected a tar's end mark at byte {end} and nothing behind it, received something else in its "
            f"{size} bytes: damaged or cut short; download it again"
        )


def _member(info: tarfile.TarInfo, start: int, size: int, where: str) -> Member:
    problem = name_problem(info.name)
    if info.issym() or info.islnk():
        problem = "it is a link"
    elif not info.isreg() or info.issparse():
        problem = "it is no regular file"
    elif info.size < 0 or info.offset_data + info.size > size:
        raise UserError(f"{where}: member {info.name!r} reaches beyond the archive's end: cut short; download it again")
    return Member(info.name, start + info.offset_data, info.size, problem)

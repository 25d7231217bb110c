"""File operations on local paths and on URLs such as `gs://bucket/file`.

Local paths use the standard library. Only URLs use `tf.io.gfile`, because importing TensorFlow takes seconds.
"""

import contextlib
import hashlib
import json
import os
import posixpath
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from pf_keras.errors import UserError

ReadAt = Callable[[int, int], bytes]  # (offset, count) -> the bytes there, fewer at the end of the file
SAMPLED_FILES, SAMPLED_BYTES = 16, 1 << 16  # how much of a dataset's content its digest reads
_MAX_TEXT = 64 << 20  # bytes; ImageNet's lists and tables have a few million


def is_remote(path: str) -> bool:
    """Whether a path is a URL."""
    return "://" in path


def _gfile():
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UserError(f"Paths with :// need TensorFlow, which failed to import ({error}). Use a local path.") from None
    return tf.io.gfile


def same_path(one: str, other: str) -> bool:
    """Whether two paths lead to the same place. URLs may differ in a slash at the end."""
    if is_remote(one) or is_remote(other):
        return one.rstrip("/") == other.rstrip("/")
    return os.path.realpath(os.path.expanduser(one)) == os.path.realpath(os.path.expanduser(other))


def join(directory: str, *names: str) -> str:
    """The path of an entry below a directory."""
    return "/".join([directory.rstrip("/") or "/", *names]) if is_remote(directory) else os.path.join(directory, *names)


def relative(path: str, directory: str) -> str:
    """A path as seen from a directory. Stays whole where one of them is a URL and the other is elsewhere."""
    if not (is_remote(path) or is_remote(directory)):
        return os.path.relpath(path, directory)
    (scheme, _, place), (other_scheme, _, start) = path.partition("://"), directory.partition("://")
    if scheme != other_scheme or place.split("/")[0] != start.split("/")[0]:
        return path if is_remote(path) else os.path.abspath(path)
    return posixpath.relpath(place, start)


def resolve(directory: str, path: str) -> str:
    """The path that `relative` gave as seen from a directory. Object stores do not understand `..`."""
    if is_remote(path) or os.path.isabs(path):
        return path
    if not is_remote(directory):
        return os.path.normpath(os.path.join(directory, path))
    scheme, _, start = directory.partition("://")
    return f"{scheme}://{posixpath.normpath(posixpath.join(start, path))}"


def open_file(path: str, mode: str) -> BinaryIO:
    """Open a binary file; `mode` is "rb" or "wb"."""
    return _gfile().GFile(path, mode) if is_remote(path) else open(path, mode)


def exists(path: str) -> bool:
    """Whether there is a file or directory at the path."""
    return _gfile().exists(path) if is_remote(path) else os.path.exists(path)


def is_directory(path: str) -> bool:
    """Whether the path is a directory."""
    return _gfile().isdir(path) if is_remote(path) else os.path.isdir(path)


def size(path: str) -> int:
    """The size of a file in bytes."""
    return _gfile().stat(path).length if is_remote(path) else os.path.getsize(path)


def names_in(directory: str) -> list[str]:
    """The names in a directory, sorted. Object stores put a slash behind folder names, which is removed."""
    names = _gfile().listdir(directory) if is_remote(directory) else os.listdir(directory)
    return sorted({name.rstrip("/") for name in names} - {""})


def entries(directory: str) -> Iterator[tuple[str, bool, int | None]]:
    """Yield `(name, is_directory, size)` for each entry of a directory, in any order. Follows links.

    Yields:
        The size is in bytes, and None for everything that is not a regular file.
    """
    if is_remote(directory):
        for name in names_in(directory):
            stat = _gfile().stat(join(directory, name))
            yield name, stat.is_directory, None if stat.is_directory else stat.length
    else:
        with os.scandir(directory) as found:
            for entry in found:
                try:
                    yield entry.name, entry.is_dir(), entry.stat().st_size if entry.is_file() else None
                except OSError:  # a circle of links, or a file that has just been removed
                    yield entry.name, False, None


def make_directory(path: str) -> None:
    """Create a directory and its parents, unless they exist."""
    _gfile().makedirs(path) if is_remote(path) else os.makedirs(path, exist_ok=True)


def replace(source: str, target: str) -> None:
    """Rename a file and overwrite the target. Atomic on a local disk; an object store copies."""
    _gfile().rename(source, target, overwrite=True) if is_remote(source) else os.replace(source, target)


def remove(path: str) -> None:
    """Remove a file."""
    _gfile().remove(path) if is_remote(path) else os.remove(path)


def remove_tree(path: str) -> None:
    """Remove a directory and everything in it."""
    _gfile().rmtree(path) if is_remote(path) else shutil.rmtree(path)


def write_whole(path: str, data: bytes, temporary: str) -> None:
    """Write a file by way of `temporary`, so that a crash leaves the earlier file, or none, but never half of the new one."""
    with open_file(temporary, "wb") as file:
        file.write(data)
    replace(temporary, path)


def read_lines(path: str) -> list[str]:
    """Read the lines of a text file, stripped, without blank lines and lines that begin with #.

    Raises:
        UserError: the file is missing, larger than 64 MiB, or not UTF-8.
    """
    if not exists(path) or is_directory(path):
        raise UserError(f"There is no text file at {path}. Check the path.")
    with open_file(path, "rb") as file:
        data = file.read(_MAX_TEXT + 1)
    if len(data) > _MAX_TEXT:
        raise UserError(f"{path} is larger than {_MAX_TEXT >> 20} MiB. Check that it is a list of names.")
    try:
        lines = (line.strip() for line in data.decode("utf-8-sig").split("\n"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}). Convert it.") from None
    return [line for line in lines if line and not line.startswith("#")]


def read_json(path: str) -> dict:
    """Read a JSON object.

    Raises:
        UserError: the file holds something else.
    """
    with open_file(path, "rb") as file:
        data = file.read()
    try:
        value = json.loads(data)
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__}")
    except ValueError as error:
        raise UserError(f"{path} is not a JSON object ({error}), so it is damaged. Restore it or make it again.") from None
    return value


def sampled_content(paths: Sequence[str]) -> list[str]:
    """The sha256, in hex, of the middle of a few of these files, evenly spread. Empty for a file that cannot be read."""
    count = min(len(paths), SAMPLED_FILES)

    def digest(path: str) -> str:
        try:
            with random_access(path) as (read, size):
                return hashlib.sha256(read(max(0, (size - SAMPLED_BYTES) // 2), SAMPLED_BYTES)).hexdigest()
        except OSError:
            return ""

    return [digest(paths[i * len(paths) // count]) for i in range(count)]


@contextlib.contextmanager
def random_access(path: str) -> Iterator[tuple[ReadAt, int]]:
    """Open a file for reading at any offset.

    Yields:
        `(read, size)`: `read(offset, count)` returns the bytes there, fewer at the end of the file.
    """
    with open_file(path, "rb") as file:

        def read(offset: int, count: int) -> bytes:
            file.seek(offset)
            return file.read(count)

        yield read, size(path)


def sha256(path: str) -> str:
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with open_file(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

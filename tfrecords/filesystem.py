"""Paths, local or remote. Local ones go through the operating system; `gs://…` and the like through TensorFlow's layer.

The split is for start-up: importing TensorFlow takes seconds in every worker, and local files do not need it.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from typing import BinaryIO

from tfrecords.errors import UserError

ReadAt = Callable[[int, int], bytes]
_LARGEST_TEXT = 64 << 20  # bytes; the lists and tables of ImageNet have a few million


def is_remote(path: str) -> bool:
    return "://" in path


def _gfile():
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UserError(f"expected TensorFlow for a path with ://, received {error}; install it or use a local path") from None
    return tf.io.gfile


def join(directory: str, *names: str) -> str:
    return "/".join([directory.rstrip("/") or "/", *names]) if is_remote(directory) else os.path.join(directory, *names)


def open_file(path: str, mode: str) -> BinaryIO:
    """A binary file; `mode` is "rb" or "wb"."""
    return _gfile().GFile(path, mode) if is_remote(path) else open(path, mode)


def exists(path: str) -> bool:
    return _gfile().exists(path) if is_remote(path) else os.path.exists(path)


def is_directory(path: str) -> bool:
    return _gfile().isdir(path) if is_remote(path) else os.path.isdir(path)


def size(path: str) -> int:
    return _gfile().stat(path).length if is_remote(path) else os.path.getsize(path)


def names_in(directory: str) -> list[str]:
    """The names in a directory, sorted, without the slash that object stores put behind a folder's."""
    names = _gfile().listdir(directory) if is_remote(directory) else os.listdir(directory)
    return sorted({name.rstrip("/") for name in names} - {""})


def entries(directory: str) -> Iterator[tuple[str, bool, int | None]]:
    """`(name, is_directory, size)` of what a directory holds, links followed; `size` is None for no regular file."""
    if is_remote(directory):
        for name in names_in(directory):
            stat = _gfile().stat(join(directory, name))
            yield name, stat.is_directory, None if stat.is_directory else stat.length
    else:
        with os.scandir(directory) as found:
            for entry in found:
                try:
                    yield entry.name, entry.is_dir(), entry.stat().st_size if entry.is_file() else None
                except OSError:  # links in a circle, or gone meanwhile
                    yield entry.name, False, None


def make_directory(path: str) -> None:
    if is_remote(path):
        _gfile().makedirs(path)
    else:
        os.makedirs(path, exist_ok=True)


def replace(source: str, target: str) -> None:
    """Renames over what stands there: at once on a local disk, by copying in an object store."""
    if is_remote(source):
        _gfile().rename(source, target, overwrite=True)
    else:
        os.replace(source, target)


def remove(path: str) -> None:
    if is_remote(path):
        _gfile().remove(path)
    else:
        os.remove(path)


def remove_tree(path: str) -> None:
    if is_remote(path):
        _gfile().rmtree(path)
    else:
        shutil.rmtree(path)


def write_whole(path: str, data: bytes, temporary: str) -> None:
    """Writes `path` so that it is either absent, as it was, or whole. `temporary` is a path on the same file system."""
    with open_file(temporary, "wb") as file:
        file.write(data)
    replace(temporary, path)


def read_lines(path: str) -> list[str]:
    """The lines of a UTF-8 text file that are neither blank nor begin with #, without surrounding space."""
    if not exists(path):
        raise UserError(f"expected a text file at {path}, found none")
    if is_directory(path):
        raise UserError(f"expected a text file at {path}, found a folder")
    with open_file(path, "rb") as file:
        data = file.read(_LARGEST_TEXT + 1)
    if len(data) > _LARGEST_TEXT:
        raise UserError(f"{path}: expected a list of at most {_LARGEST_TEXT} bytes, received more")
    try:
        lines = (line.strip() for line in data.decode("utf-8-sig").split("\n"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text, received something else ({error})") from None
    return [line for line in lines if line and not line.startswith("#")]


def read_json(path: str) -> dict:
    """A JSON object. Raises UserError where the file holds something else."""
    with open_file(path, "rb") as file:
        data = file.read()
    try:
        value = json.loads(data)
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, received a file that does not parse ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, received {type(value).__name__}")
    return value


@contextlib.contextmanager
def random_access(path: str) -> Iterator[tuple[ReadAt, int]]:
    """`(read, size)`, where `read(offset, count)` gives the bytes there, fewer at the end of the file."""
    if is_remote(path):
        with open_file(path, "rb") as file:

            def read(offset: int, count: int) -> bytes:
                file.seek(offset)
                return file.read(count)

            yield read, size(path)
    else:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            yield lambda offset, count: os.pread(descriptor, count, offset), os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

"""The list of all images of a build, in a temporary SQLite file, so that memory does not grow with their number.

Images are ordered by sha256 of seed, split and name, so the order is the same on every machine. The shards of a split are equal
consecutive parts of that order.
"""

import hashlib
import itertools
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pf_keras.data.formats import MAX_BYTES


@dataclass(frozen=True)
class Item:
    """An image file, or a part of an archive.

    Attributes:
        split: "train", "validation" or "test".
        name: unique within the split.
        path: the file that holds the image.
        offset: its first byte in that file.
        size: in bytes.
        label: the class's name, or None.
        problem: why it cannot be used, or empty.
    """

    split: str
    name: str
    path: str
    offset: int
    size: int
    label: str | None
    problem: str = ""


class Index:
    """The images of a build and the files that cannot be used.

    Args:
        seed: of the order of the images.
    """

    def __init__(self, seed: int):
        self._seed = seed
        self._database = sqlite3.connect("")  # a temporary file, which the system removes in any case
        self._database.executescript(
            """PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
            PRAGMA cache_size = -65536; PRAGMA temp_store = FILE;
            CREATE TABLE images (split, key BLOB, name, path, offset INTEGER, size INTEGER, label,
                                 PRIMARY KEY (split, key, name)) WITHOUT ROWID;
            CREATE TABLE problems (split, name, problem);"""
        )

    def add(self, items: Iterable[Item]) -> None:
        """Add items. A second file with the same split and name becomes a problem."""
        for item in items:
            problem = item.problem
            if not problem and item.size > MAX_BYTES:
                problem = f"it has {item.size} bytes, more than the {MAX_BYTES:,} allowed"
            if not problem:
                key = hashlib.sha256(f"{self._seed}/{item.split}/{item.name}".encode()).digest()[:8]
                # SQLite stores text as UTF-8, and a path may be any bytes.
                row = (item.split, key, item.name, os.fsencode(item.path), item.offset, item.size, item.label)
                added = self._database.execute("INSERT OR IGNORE INTO images VALUES (?,?,?,?,?,?,?)", row).rowcount
                problem = "" if added else "a second file of that name"
            if problem:
                name = item.name.encode("utf-8", "backslashreplace").decode()
                self._database.execute("INSERT INTO problems VALUES (?,?,?)", (item.split, name, problem))

    def problems(self) -> list[tuple[str, str, str]]:
        """`(split, name, problem)` of each file that cannot be used, sorted."""
        return sorted(self._database.execute("SELECT split, name, problem FROM problems"))

    def counts(self) -> dict[str, dict[str | None, int]]:
        """The number of images of each label, for each split."""
        counts = {}
        query = "SELECT split, label, COUNT(*) FROM images GROUP BY split, label ORDER BY split, label"
        for split, label, count in self._database.execute(query):
            counts.setdefault(split, {})[label] = count
        return counts

    def sizes(self) -> dict[str, tuple[int, int]]:
        """The number of images of each split, and their bytes."""
        query = "SELECT split, COUNT(*), SUM(size) FROM images GROUP BY split"
        return {split: (count, size) for split, count, size in self._database.execute(query)}

    def fingerprint(self, classes: list[tuple[str, str]]) -> str:
        """sha256 over everything in the records except pixels. A tar and its extracted files have the same."""
        digest = hashlib.sha256()
        for row in self._database.execute("SELECT split, name, size, label FROM images ORDER BY split, key, name"):
            digest.update(json.dumps(row).encode())
        return hashlib.sha256(json.dumps([digest.hexdigest(), classes]).encode()).hexdigest()

    def shards(self, split: str, count: int) -> Iterator[list[tuple[str, str, int, int, str | None]]]:
        """Yield the images of each of `count` shards of a split, as `(name, path, offset, size, label)` rows."""
        ((total,),) = self._database.execute("SELECT COUNT(*) FROM images WHERE split = ?", (split,))
        query = "SELECT name, path, offset, size, label FROM images WHERE split = ? ORDER BY key, name"
        rows = self._database.execute(query, (split,))
        for number in range(count):
            size = total * (number + 1) // count - total * number // count
            yield [(name, os.fsdecode(path), *rest) for name, path, *rest in itertools.islice(rows, size)]

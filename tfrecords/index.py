"""The list of all images of a build, kept in a SQLite file so that memory stays flat whatever their number.

Images are ordered by sha256 of seed, split and name, so the order is the same on every machine; the shards of a split
are equal consecutive parts of that order.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tfrecords.archive import name_problem
from tfrecords.images import MAX_BYTES


@dataclass(frozen=True)
class Item:
    """An image file: the bytes from `offset` to `offset + size` of `path`. `label` is the class's name, None without.

    `problem` is empty, or says why the file cannot be taken.
    """

    split: str
    name: str
    path: str
    offset: int
    size: int
    label: str | None
    problem: str = ""


class Index:
    """Add items, then `arrange` them once, then read them shard by shard. `path`, a local file, is overwritten."""

    def __init__(self, path: str):
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)  # left by a build that was killed, and perhaps no database any more
        self._database = sqlite3.connect(path)
        self._database.executescript(
            """PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
            PRAGMA cache_size = -65536; PRAGMA temp_store = FILE;
            CREATE TABLE found (split, key BLOB, name, path, offset INTEGER, size INTEGER, label,
                                PRIMARY KEY (split, key, name)) WITHOUT ROWID;
            CREATE TABLE problems (split, name, problem);"""
        )

    def close(self) -> None:
        self._database.close()

    def add(self, items: Iterable[Item], seed: int) -> None:
        """Adds items; a second one of the same split and name becomes a problem."""
        for item in items:
            problem = item.problem or name_problem(item.name)
            if not problem and item.size > MAX_BYTES:
                problem = f"it has {item.size} bytes, more than the {MAX_BYTES:,} allowed"
            if not problem:
                key = hashlib.sha256(f"{seed}/{item.split}/{item.name}".encode()).digest()[:8]
                row = (item.split, key, item.name, os.fsencode(item.path), item.offset, item.size, item.label)
                added = self._database.execute("INSERT OR IGNORE INTO found VALUES (?,?,?,?,?,?,?)", row).rowcount
                problem = "" if added else "a second file of that name"
            if problem:
                # a name may be bytes that are no text, which must neither stop nor garble the report
                name = item.name.encode("utf-8", "backslashreplace").decode()
                self._database.execute("INSERT INTO problems VALUES (?,?,?)", (item.split, name, problem))

    def arrange(self) -> None:
        """Numbers the items in their final order. Nothing may be added afterwards."""
        self._database.executescript(
            """CREATE TABLE plan (number INTEGER PRIMARY KEY, split, name, path, offset INTEGER, size INTEGER, label);
            INSERT INTO plan (split, name, path, offset, size, label)
                SELECT split, name, path, offset, size, label FROM found ORDER BY split, key, name;
            DROP TABLE found;"""
        )
        query = "SELECT split, MIN(number), COUNT(*) FROM plan GROUP BY split"
        self._ranges = {split: (first, count) for split, first, count in self._database.execute(query)}

    def problems(self) -> list[tuple[str, str, str]]:
        """`(split, name, problem)` of the files that cannot be taken, sorted."""
        return sorted(self._database.execute("SELECT split, name, problem FROM problems"))

    def names(self, split: str) -> list[str]:
        return [name for (name,) in self._database.execute("SELECT name FROM found WHERE split = ?", (split,))]

    def set_labels(self, split: str, labels: dict[str, str]) -> None:
        """Gives each item of a split the label under its name. To be called before `arrange`."""
        keys = self._database.execute("SELECT key, name FROM found WHERE split = ?", (split,)).fetchall()
        rows = ((labels[name], split, key, name) for key, name in keys)
        self._database.executemany("UPDATE found SET label = ? WHERE split = ? AND key = ? AND name = ?", rows)

    def labels(self) -> set[str]:
        """The labels that occur. To be called before `arrange`."""
        return {label for (label,) in self._database.execute("SELECT DISTINCT label FROM found") if label is not None}

    def counts(self) -> dict[str, dict[str | None, int]]:
        """For each split the number of images of each label."""
        counts = {}
        query = "SELECT split, label, COUNT(*) FROM plan GROUP BY split, label ORDER BY split, label"
        for split, label, count in self._database.execute(query):
            counts.setdefault(split, {})[label] = count
        return counts

    def fingerprint(self) -> str:
        """sha256 over split, name, size and label of every item in order; the same for a tar and its extraction."""
        digest = hashlib.sha256()
        for row in self._database.execute("SELECT split, name, size, label FROM plan ORDER BY number"):
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()

    def part(self, split: str, number: int, parts: int) -> Iterator[tuple[str, str, int, int, str | None]]:
        """`(name, path, offset, size, label)` of part `number` of the `parts` equal ones of a split."""
        first, count = self._ranges.get(split, (0, 0))
        start, stop = count * number // parts, count * (number + 1) // parts
        rows = self._database.execute(
            "SELECT name, path, offset, size, label FROM plan WHERE number >= ? AND number < ? ORDER BY number",
            (first + start, first + stop),
        )
        # SQLite's text is UTF-8, a path of this system any bytes.
        return ((name, os.fsdecode(path), *rest) for name, path, *rest in rows)

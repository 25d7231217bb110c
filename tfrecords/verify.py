"""Checks a directory of TFRecord shards.

  python -m tfrecords.verify DIR [--decode]

Checked are the checksums of every record, the fields of every record, each shard's size, sha256 and count against the
manifest, and the counts of each class; with --decode every image is decoded. A damaged record is named by shard, number
and byte. Images with the same content, within a split and across splits, are listed and counted but are no failure:
ImageNet itself has some. Works without a manifest on files of the public converters; what cannot be checked is said.
Exit codes: 0 everything holds, 1 something does not, 2 a usage error.
"""

import hashlib
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence

from tfrecords import command, files, pool, records, schema
from tfrecords import filesystem as fs
from tfrecords.errors import UserError
from tfrecords.images import BadImage, check_decodes

_SHOWN = 20  # findings of a kind that are printed one by one


def main(arguments: Sequence[str]) -> int:
    parser = command.Parser(__doc__)
    parser.add_argument("directory", help="the directory with the shards")
    parser.add_argument("--decode", action="store_true", help="decode every image too")
    parser.add_processes()
    options = parser.parse_args(arguments)
    manifest = files.read_manifest(options.directory)
    failures = _Lines("FAILED")
    if manifest is None:
        unfinished = files.is_unfinished(options.directory)
        if not unfinished:
            print(f"note: no {files.MANIFEST} in {options.directory}: nothing to check counts and sha256 against")
        try:
            files.split_files(options.directory)
        except UserError as error:
            if not unfinished and not files.shard_names(options.directory):
                raise
            failures.add(str(error))
        notes = dict.fromkeys(files.shard_names(options.directory))
    else:
        notes = {note["file"]: note for note in manifest["shards"]}
        for name in sorted(set(files.shard_names(options.directory)) - set(notes)):
            failures.add(f"{name}: not in the manifest")
    tasks = [(options.directory, name, note, options.decode) for name, note in notes.items()]
    counts, images = {}, 0
    with tempfile.TemporaryDirectory() as directory:
        contents = _Contents(f"{directory}/contents.sqlite")
        expected = sum(note["records"] for note in notes.values() if note)
        with pool.progress(expected or None, "img", "verify") as bar:
            for found in pool.run(_check_shard, tasks, options.processes):
                for failure in found["failures"]:
                    failures.add(failure)
                counts.setdefault(found["split"], Counter()).update(found["labels"])
                contents.add(found["split"], found["contents"])
                images += len(found["contents"])
                bar.update(len(found["contents"]))
        duplicates = _Lines("duplicate")
        for line in contents.duplicates():
            duplicates.add(line)
        contents.close()
    if manifest:
        _check_counts(manifest, counts, images, failures)
    duplicates.more()
    failures.more()
    decoded = ", every image decoded" if options.decode else ""
    print(
        f"{options.directory}: {images} images in {len(notes)} shards{decoded}; {duplicates.count} contents occur more "
        f"than once; {failures.count} failures"
    )
    return 1 if failures.count else 0


class _Lines:
    """Prints the first findings of a kind and counts all."""

    def __init__(self, kind: str):
        self.kind, self.count = kind, 0

    def add(self, line: str) -> None:
        self.count += 1
        if self.count <= _SHOWN:
            print(f"{self.kind}: {line}")

    def more(self) -> None:
        if self.count > _SHOWN:
            print(f"{self.kind}: and {self.count - _SHOWN} more")


class _Contents:
    """The digests of all images, on disk so that memory stays flat."""

    def __init__(self, path: str):
        self._database = sqlite3.connect(path)
        self._database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = FILE;")
        self._database.execute("CREATE TABLE images (digest BLOB, split, name)")

    def close(self) -> None:
        self._database.close()

    def add(self, split: str, rows: list[tuple[bytes, str]]) -> None:
        values = ((digest, split, name) for digest, name in rows)
        self._database.executemany("INSERT INTO images VALUES (?, ?, ?)", values)

    def duplicates(self):
        """A line for each content that occurs more than once."""
        query = """SELECT digest, COUNT(*), COUNT(DISTINCT split) FROM images GROUP BY digest HAVING COUNT(*) > 1
                   ORDER BY COUNT(DISTINCT split) DESC, MIN(split || '/' || name)"""
        self._database.execute("CREATE INDEX by_digest ON images (digest)")
        for digest, count, splits in self._database.execute(query):
            same = self._database.execute(
                "SELECT split || '/' || name FROM images WHERE digest = ? ORDER BY 1 LIMIT 5", (digest,)
            )
            names = ", ".join(name for (name,) in same)
            yield f"{'across splits' if splits > 1 else 'within a split'}, {count} times: {names}"


def _check_shard(task: tuple) -> dict:
    """Everything that can be said about one shard alone."""
    directory, name, note, decode = task
    path = fs.join(directory, name)
    found = {"split": name.split("-")[0], "failures": [], "labels": Counter(), "contents": []}
    fail = found["failures"].append
    if not fs.exists(path):
        fail(f"{name}: the shard is missing; start the build again")
        return found
    number = 0
    with fs.random_access(path) as (read, size):
        try:
            for number, (offset, length) in enumerate(records.spans(read, size, name), 1):
                where = f"{name}: record {number - 1} at byte {offset - records.HEADER}"
                data = records.read_data(read, offset, length)
                if data is None:
                    fail(f"{where}: the checksum of its data does not match")
                else:
                    _check_record(data, where, decode, found)
        except UserError as error:  # a damaged length: where the next record begins is not known
            fail(f"{error}; what follows in the shard was not read")
        if note and number != note["records"]:
            fail(f"{name}: expected {note['records']} records by the manifest, received {number}")
        if note and size != note["bytes"]:
            fail(f"{name}: expected {note['bytes']} bytes by the manifest, received {size}")
        elif note and _sha256(read, size) != note["sha256"]:
            fail(f"{name}: its sha256 is not that of the manifest")
    return found


def _check_record(data: bytes, where: str, decode: bool, found: dict) -> None:
    try:
        values = schema.read_example(data)
    except ValueError as error:
        found["failures"].append(f"{where}: expected a tf.train.Example with an image, received none ({error})")
        return
    encoded = values[schema.ENCODED]
    name = values.get(schema.FILENAME, b"").decode("utf-8", "backslashreplace")
    found["labels"][values.get(schema.LABEL, schema.NO_LABEL)] += 1
    found["contents"].append((hashlib.sha256(encoded).digest(), name))
    if decode:
        try:
            check_decodes(encoded)
        except BadImage as error:
            found["failures"].append(f"{where}: {name}: {error}")


def _sha256(read: fs.ReadAt, size: int) -> str:
    digest = hashlib.sha256()
    for offset in range(0, size, 1 << 20):
        digest.update(read(offset, 1 << 20))
    return digest.hexdigest()


def _check_counts(manifest: dict, counts: dict[str, Counter], images: int, failures: _Lines) -> None:
    names = {entry["label"]: entry["synset"] for entry in manifest["classes"]}
    if images != manifest["images"]:
        failures.add(f"expected {manifest['images']} images by the manifest, received {images}")
    for split, values in manifest["splits"].items():
        expected = {schema.NO_LABEL if key == "unlabelled" else int(key): n for key, n in values["classes"].items()}
        found = counts.get(split, Counter())
        for label in sorted(set(expected) | set(found)):
            if expected.get(label, 0) != found[label]:
                kind = f"class {label} ({names.get(label, 'unknown')})" if label != schema.NO_LABEL else "unlabelled"
                failures.add(f"{split}: expected {expected.get(label, 0)} images of {kind}, received {found[label]}")


if __name__ == "__main__":
    sys.exit(command.run(main))

"""Check a directory of TFRecord shards.

  python -m tfrecords.verify DIR [--decode]

Checks the checksums and fields of every record; each shard's size, sha256 and count against the manifest; and the
count of each class. --decode decodes every image too. A damaged record is named by shard, number and byte. Images with
equal bytes are listed and counted, but are not failures, because ImageNet itself has some. Without a manifest, as in
files of the public converters, it checks what it can and says so. Of a subset it checks the training records, and that the
dataset with its validation shards is there. Exit codes: 0 all is well, 1 something is wrong, 2 a
usage error.
"""

import hashlib
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from pf_keras import filesystem as fs
from pf_keras import processes
from pf_keras.data import record_container, record_schema, shard_files
from pf_keras.errors import UserError
from tfrecords import command
from tfrecords.encode import CorruptImage, check_decodes

_SHOWN = 20  # findings of a kind that are printed
_COPIES = 5  # names of equal images that are printed


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = command.Parser(__doc__)
    parser.add_argument("directory", help="the directory with the shards")
    parser.add_argument("--decode", action="store_true", help="decode every image too")
    parser.add_processes()
    options = parser.parse_args(arguments)
    manifest = shard_files.read_manifest(options.directory)
    found = shard_files.shard_names(options.directory)
    failures = []
    if manifest:
        notes = {note["file"]: note for note in manifest["shards"]}
        failures += [f"{name}: not in the manifest" for name in sorted(set(found) - set(notes))]
        if whole := shard_files.whole_dataset(options.directory):
            print(f"note: a subset of {whole[0]}, whose validation shards it uses: verify that directory, too")
            failures += _lost_validation(options.directory)
    else:
        notes = dict.fromkeys(found)
        unfinished = shard_files.is_unfinished(options.directory)
        if not unfinished:
            print(f"note: no {shard_files.MANIFEST} in {options.directory}: counts and sha256 are not checked")
        try:
            shard_files.split_files(options.directory)
        except UserError as error:
            if not unfinished and not found:
                raise
            failures.append(str(error))
    tasks = ((options.directory, name, note, options.decode) for name, note in notes.items())
    counts, images = {}, 0
    contents = sqlite3.connect("")  # a temporary file, so that memory does not grow
    contents.execute("CREATE TABLE images (digest BLOB, split, name)")
    expected = sum(note["records"] for note in notes.values() if note)
    with processes.progress(expected or None, "img", "verify") as bar:
        for shard in processes.run(_check_shard, tasks, options.processes):
            failures += shard["failures"]
            counts.setdefault(shard["split"], Counter()).update(shard["labels"])
            contents.executemany("INSERT INTO images VALUES (?, ?, ?)", shard["contents"])
            images += len(shard["contents"])
            bar.update(len(shard["contents"]))
    if manifest:
        failures += _wrong_counts(manifest, counts, images)
    duplicates = _print("duplicate", _duplicates(contents))
    _print("FAILED", failures)
    decoded = ", every image decoded" if options.decode else ""
    print(
        f"{options.directory}: {images} images in {len(notes)} shards{decoded}; {duplicates} contents occur more "
        f"than once; {len(failures)} failures"
    )
    return 1 if failures else 0


def _lost_validation(directory: str) -> list[str]:
    """Why the validation shards of a subset cannot be used, if so."""
    try:
        shard_files.split_files(directory)
    except UserError as error:
        return [str(error)]
    return []


def _print(kind: str, lines: Iterable[str]) -> int:
    """Print the first findings of a kind and return the number of all."""
    count = 0
    for count, line in enumerate(lines, 1):
        if count <= _SHOWN:
            print(f"{kind}: {line}")
    if count > _SHOWN:
        print(f"{kind}: and {count - _SHOWN} more")
    return count


def _check_shard(task: tuple[str, str, dict | None, bool]) -> dict:
    """Everything that one shard alone can show."""
    directory, name, note, decode = task
    path = fs.join(directory, name)
    found = {"split": name.split("-")[0], "failures": [], "labels": Counter(), "contents": []}
    fail = found["failures"].append
    if not fs.exists(path):
        fail(f"{name}: the shard is missing. Run the build again.")
        return found
    number = 0
    with fs.random_access(path) as (read, size):
        try:
            for number, (offset, length) in enumerate(record_container.spans(read, size, name), 1):
                where = f"{name}: record {number - 1} at byte {offset - record_container.HEADER}"
                data = record_container.read_data(read, offset, length)
                if data is None:
                    fail(f"{where}: the checksum of its data does not match")
                else:
                    _check_record(data, where, decode, found)
        except UserError as error:  # without its length, nobody knows where the next record begins
            fail(f"{error}; the rest of the shard was not read")
        if note and number != note["records"]:
            fail(f"{name}: {number} records, but {note['records']} in the manifest")
        if note and size != note["bytes"]:
            fail(f"{name}: {size} bytes, but {note['bytes']} in the manifest")
        elif note and fs.sha256(path) != note["sha256"]:
            fail(f"{name}: its sha256 differs from the manifest")
    return found


def _check_record(data: bytes, where: str, decode: bool, found: dict) -> None:
    try:
        values = record_schema.read_example(data)
    except ValueError as error:
        found["failures"].append(f"{where}: not a tf.train.Example with an image ({error})")
        return
    encoded = values[record_schema.ENCODED]
    name, label = record_schema.name_and_label(values)
    found["labels"][label] += 1
    found["contents"].append((hashlib.sha256(encoded).digest(), found["split"], name))
    if decode:
        try:
            check_decodes(encoded)
        except CorruptImage as error:
            found["failures"].append(f"{where}: {name}: {error}")


def _duplicates(contents: sqlite3.Connection) -> Iterator[str]:
    """A line for each content that occurs more than once, those in several splits first."""
    query = """SELECT COUNT(*), COUNT(DISTINCT split), GROUP_CONCAT(split || '/' || name, char(10)) FROM images
               GROUP BY digest HAVING COUNT(*) > 1 ORDER BY 2 DESC, MIN(split || '/' || name)"""
    for count, splits, names in contents.execute(query):
        shown = ", ".join(sorted(names.split("\n"))[:_COPIES])
        yield f"{'across splits' if splits > 1 else 'within a split'}, {count} times: {shown}"


def _wrong_counts(manifest: dict, counts: dict[str, Counter], images: int) -> Iterator[str]:
    names = {entry["label"]: entry["synset"] for entry in manifest["classes"]}
    if images != manifest["images"]:
        yield f"{images} images, but {manifest['images']} in the manifest"
    for split, values in manifest["splits"].items():
        classes = values["classes"].items()
        expected = {record_schema.NO_LABEL if key == "unlabelled" else int(key): number for key, number in classes}
        found = counts.get(split, Counter())
        for label in sorted(set(expected) | set(found)):
            if expected.get(label, 0) != found[label]:
                kind = "no class" if label == record_schema.NO_LABEL else f"class {label} ({names.get(label, 'unknown')})"
                yield f"{split}: {found[label]} images of {kind}, but {expected.get(label, 0)} in the manifest"


if __name__ == "__main__":
    sys.exit(command.run(main))

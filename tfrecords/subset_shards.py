"""Writes a label subset as a dataset of its own: the chosen training records, byte for byte, in shards with a manifest.

Validation images are not copied. The manifest names the dataset that has them, relative to the subset, so that both can be
moved or copied together, also to an object store.
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence

from pf_keras import filesystem as fs
from pf_keras import processes
from pf_keras.data import record_container
from pf_keras.data.shard_files import MANIFEST, SUBSET, read_manifest, split_files
from pf_keras.data.splits import TRAIN, VALIDATION
from pf_keras.errors import UserError
from tfrecords import manifest, shards
from tfrecords.work import work_directory

Place = tuple[str, int, int]  # a record: the path of its shard, and the offset and length of its data in bytes


def open_whole(directory: str) -> dict:
    """The manifest of a dataset that subsets can be copied from.

    Raises:
        UserError: it has no manifest, no validation shards or shards of another origin, or is a subset itself.
    """
    whole = read_manifest(directory)
    if whole is None:
        raise UserError(
            f"{directory} has no {MANIFEST}. --shards needs the output of tfrecords.build. Leave it out to write lists."
        )
    if SUBSET in whole:
        raise UserError(f"{directory} is a subset itself. Give the directory of the whole dataset.")
    files = split_files(directory)
    if not files[VALIDATION]:
        raise UserError(f"{directory} has no validation shards to score a subset on. Build it with validation images.")
    known = {fs.join(directory, note["file"]) for note in whole["shards"]}
    if unknown := sorted({*files[TRAIN], *files[VALIDATION]} - known):
        raise UserError(f"{unknown[0]} is not in the {MANIFEST} of {directory}. Remove it, or run tfrecords.build again.")
    return whole


def write_subset(
    output: str, directory: str, whole: dict, places: Sequence[Place], labels: Sequence[int], draw: dict, workers: int
) -> dict:
    """Copy records into shards of their own. What an earlier, interrupted command finished is kept.

    Args:
        output: the directory for the shards.
        directory: of the dataset.
        whole: its manifest.
        places: the records, in their order in the dataset.
        labels: of these records, as stored.
        draw: what else defines the subset, for the manifest.
        workers: the number of processes.

    Returns:
        The manifest.

    Raises:
        UserError: the output belongs to another subset or dataset, or a record is damaged.
    """
    with work_directory(output):
        sha256 = {fs.join(directory, note["file"]): note["sha256"] for note in whole["shards"]}
        origin = [[sha256[path], offset] for path, offset, _ in places]
        count = shards.shard_count(len(places), sum(length for *_, length in places))
        settings = {"source_fingerprint": _digest(origin), **draw, "train_shards": count}
        done = manifest.begin(output, settings)
        tasks = _tasks(output, places, origin, count, done)
        notes = []
        with processes.progress(len(places), "img", "copy") as bar:
            for note in processes.run(copy_shard, tasks, workers):
                notes.append(note)
                bar.update(note["records"])
        notes.sort(key=lambda note: note["file"])
        return manifest.finish_subset(output, settings, whole, fs.relative(directory, output), Counter(labels), notes)


def _tasks(output: str, places: Sequence[Place], origin: Sequence[list], count: int, done: dict[str, dict]) -> Iterator[dict]:
    """The tasks of `copy_shard`: equal consecutive parts of the records."""
    for number in range(count):
        part = slice(number * len(places) // count, (number + 1) * len(places) // count)
        file = shards.shard_name(TRAIN, number, count)
        earlier = done.get(file) or manifest.earlier_note(output, file)
        yield {"output": output, "file": file, "items": places[part], "made_of": _digest(origin[part]), "done": earlier}


def copy_shard(task: dict) -> dict:
    """Make a shard of a subset, unless an earlier command made it.

    Args:
        task: `output`, `file` and `done` as for `shards.make_shard`, `items`, a list of `Place`, and `made_of`, their digest.

    Returns:
        The note, as of `shards.make_shard`.
    """
    return shards.make_noted(task, task["made_of"], _copy)


def _copy(task: dict, path: str) -> dict:
    digest, size = hashlib.sha256(), 0
    with fs.open_file(path, "wb") as file:
        for data in _read(task["items"]):
            for piece in record_container.frame(data):
                file.write(piece)
                digest.update(piece)
                size += len(piece)
    noted = {"file": task["file"], "records": len(task["items"]), "bytes": size, "sha256": digest.hexdigest()}
    return {**noted, "odd": {}, "bad": []}


def _read(places: Sequence[Place]) -> Iterator[bytes]:
    """The data of records. Opens each shard once, because its records are together."""
    for path, records in itertools.groupby(places, key=lambda place: place[0]):
        with fs.random_access(path) as (read, _):
            for _, offset, length in records:
                data = record_container.read_data(read, offset, length)
                if data is None:
                    where = f"{path}: the record at byte {offset - record_container.HEADER}"
                    raise UserError(f"{where} is damaged. Run tfrecords.build again to repair the shard.")
                yield data


def _digest(rows: Sequence[list]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

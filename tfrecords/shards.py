"""A shard, the unit of work: written under a temporary name, renamed when whole, then noted as done.

The same function runs in a process of the local pool and in a worker of a Beam pipeline. It knows no other shard.
"""

import contextlib
import hashlib
import json
import os
import secrets
from collections import Counter

from tfrecords import filesystem as fs
from tfrecords import records, schema
from tfrecords.errors import UserError
from tfrecords.files import WORK
from tfrecords.images import BadImage, prepare


def shard_name(split: str, number: int, shards: int) -> str:
    return f"{split}-{number:05d}-of-{shards:05d}"


def note_path(output: str, file: str) -> str:
    """Where it is noted that the shard `file` is done."""
    return fs.join(output, WORK, file + ".json")


def make_shard(task: dict) -> dict:
    """Makes the shard that `task` describes, unless it is there and whole, and returns what is noted about it.

    A task is JSON: `output`, `file`, `resize_shorter`, `quality`, `skip_bad`, `items` as rows of `Index.part`,
    `classes` as `{synset: [label, text]}`, and `done`, an earlier note or None.
    A note is JSON: `file`, `records`, `bytes`, `sha256`, `odd` (counts) and `bad` (`[name, reason, synset]` rows); while
    the build is unfinished also `made_of`, a digest of the items, so that a shard is made again where they have changed.
    Where there are bad files and `skip_bad` is not set, no shard is written and `sha256` is None.
    """
    path = fs.join(task["output"], task["file"])
    temporary = fs.join(task["output"], WORK, f"{task['file']}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    made_of = _digest_of(task["items"], task["classes"])
    note = dict(task["done"] or {})
    same = note.pop("made_of", made_of) == made_of
    if not (note and same and (task["skip_bad"] or not note["bad"]) and _is_whole(path, note) and _still_bad(task, note)):
        try:
            note = _write(task, temporary)
        except BaseException:
            with contextlib.suppress(OSError):
                fs.remove(temporary)  # which only takes room, as on a full disk
            raise
        if note["sha256"] is None:
            fs.remove(temporary)
        else:
            fs.replace(temporary, path)
    noted = json.dumps({**note, "made_of": made_of}).encode()
    fs.write_whole(note_path(task["output"], task["file"]), noted, temporary)
    return note


def _still_bad(task: dict, note: dict) -> bool:
    """Whether the files that the note calls bad are so still, for the reasons that it gives."""
    noted = {name: reason for name, reason, _ in note["bad"]}
    with _Reader() as reader:
        for name, source, offset, length, _ in task["items"]:
            if name in noted:
                try:
                    prepare(reader.read(source, offset, length), name, task["resize_shorter"], task["quality"])
                    return False
                except BadImage as error:
                    if str(error) != noted[name]:
                        return False
    return True


def _digest_of(items: list, classes: dict) -> str:
    """sha256 over all that goes into a shard's records but the pixels: names, sizes, labels, the classes' names."""
    named = [(name, size, synset) for name, _, _, size, synset in items]
    return hashlib.sha256(json.dumps([named, classes], sort_keys=True).encode()).hexdigest()


def _is_whole(path: str, note: dict) -> bool:
    if note["sha256"] is None or not fs.exists(path) or fs.size(path) != note["bytes"]:
        return False
    with fs.open_file(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == note["sha256"]


def _write(task: dict, path: str) -> dict:
    """Writes the records and returns the note; after a bad file that may not be skipped only looks for more."""
    digest, odd, bad, size, count = hashlib.sha256(), Counter(), [], 0, 0
    refused = False
    with _Reader() as reader, fs.open_file(path, "wb") as file:
        for name, source, offset, length, synset in task["items"]:
            try:
                image = prepare(reader.read(source, offset, length), name, task["resize_shorter"], task["quality"])
            except BadImage as error:
                bad.append([name, str(error), synset])
                refused = not task["skip_bad"]
                continue
            odd.update(image.oddities)
            if refused:
                continue
            label, text = task["classes"][synset] if synset is not None else (None, "")
            record = schema.make_example(
                encoded=image.encoded,
                height=image.height,
                width=image.width,
                channels=image.channels,
                colorspace=image.colorspace,
                format=image.format,
                filename=name,
                label=label,
                synset=synset or "",
                text=text,
            )
            for piece in records.frame(record):
                file.write(piece)
                digest.update(piece)
                size += len(piece)
            count += 1
    sha256 = None if refused else digest.hexdigest()
    return {
        "file": task["file"],
        "records": count,
        "bytes": size,
        "sha256": sha256,
        "odd": dict(sorted(odd.items())),
        "bad": bad,
    }


class _Reader:
    """Reads parts of files and keeps the last file open, as in a tar all parts are of one."""

    def __init__(self):
        self._path, self._file = None, contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def read(self, path: str, offset: int, size: int) -> bytes:
        if path != self._path:
            self._file.close()
            self._path = None
            try:
                self._read, _ = self._file.enter_context(fs.random_access(path))
            except (FileNotFoundError, PermissionError) as error:
                if offset or not os.path.isdir(os.path.dirname(path)):  # more is lost than this image
                    raise
                raise BadImage(f"it cannot be read ({error.strerror})") from None
            self._path = path
        data = self._read(offset, size)
        if len(data) != size:
            raise UserError(f"{path}: expected {size} bytes at {offset}, received {len(data)}: it has changed")
        return data

"""The files of a converted data set: which shards there are, what the manifest says, how many records they hold."""

import concurrent.futures
import re
from collections.abc import Sequence

from tfrecords import filesystem as fs
from tfrecords import records
from tfrecords.errors import UserError

MANIFEST = "manifest.json"
WORK = ".build"  # the folder in the output that holds what is unfinished; removed at the end
SETTINGS = "settings.json"  # in it, of a build that has begun to write here
_SHARD = re.compile(r"(train|validation|valid|val|test)-(\d{5})-of-(\d{5})(\.tfrecords?)?")
_THREADS = 16  # of `count_records`: on a cold disk or a remote store it waits more than it works


def split_files(directory: str) -> dict[str, list[str]]:
    """The shards in a directory, `{"train": [paths], "validation": [paths]}`, each sorted and possibly empty.

    Names are `train-00000-of-01024` and `validation-…`, or the public variants `val-…` and `valid-…`, with or without
    `.tfrecord` behind; `test-…` is taken as the validation split where there is no other. Raises UserError where there
    are no shards, not all of those that `-of-` promises, or the directory is that of an unfinished build.
    """
    if is_unfinished(directory):
        raise UserError(f"{directory}: expected a finished build, received one that is not; start tfrecords.build again")
    found = shards_in(directory)
    names = [name for name in ("validation", "val", "valid", "test") if name in found]
    if not found:
        raise UserError(
            f"expected TFRecord shards named like train-00000-of-01024 in {directory}, found none; "
            f"python -m tfrecords.build makes them"
        )
    return {"train": found.get("train", []), "validation": found[names[0]] if names else []}


def is_unfinished(directory: str) -> bool:
    """Whether a build has begun in the directory and not ended."""
    return fs.exists(fs.join(directory, WORK, SETTINGS)) and not fs.exists(fs.join(directory, MANIFEST))


def shard_names(directory: str) -> list[str]:
    """The names in a directory that are those of shards, sorted. Raises UserError where there is no directory."""
    if not fs.is_directory(directory):
        raise UserError(f"expected a directory with TFRecord shards at {directory}, found none")
    return [name for name in fs.names_in(directory) if _SHARD.fullmatch(name)]


def shards_in(directory: str) -> dict[str, list[str]]:
    """The shards of every split by its name in the files, sorted. Raises UserError where a split is incomplete."""
    splits = {}
    for name in shard_names(directory):
        match = _SHARD.fullmatch(name)
        splits.setdefault(match[1], {}).setdefault(int(match[3]), {}).setdefault(int(match[2]), []).append(name)
    for split, totals in splits.items():
        if len(totals) > 1:
            counts = " and ".join(f"-of-{total:05d}" for total in sorted(totals))
            raise UserError(f"{directory}: expected one set of {split} shards, received several ({counts}); keep one")
        ((total, numbers),) = totals.items()
        missing = sorted(set(range(total)) - set(numbers))
        if missing:
            raise UserError(
                f"{directory}: expected {total} {split} shards, received {len(numbers)}; missing is "
                f"{split}-{missing[0]:05d}-of-{total:05d}{' and others' if len(missing) > 1 else ''}; "
                f"start tfrecords.build again to finish them"
            )
        if twice := [names for names in numbers.values() if len(names) > 1]:
            raise UserError(f"{directory}: expected each shard once, received {' and '.join(twice[0])}; keep one")
        if len(numbers) > total:
            raise UserError(f"{directory}: expected {total} {split} shards, received number {max(numbers)}")
    return {
        split: [fs.join(directory, names[0]) for _, names in sorted(next(iter(totals.values())).items())]
        for split, totals in splits.items()
    }


def read_manifest(directory: str) -> dict | None:
    """The manifest that `tfrecords.build` wrote, or None. Raises UserError for one that is damaged."""
    path = fs.join(directory, MANIFEST)
    if not fs.exists(path):
        return None
    manifest = fs.read_json(path)
    kinds = {"images": int, "bytes": int, "classes": list, "splits": dict, "settings": dict, "odd": dict}
    kinds["shards"] = list
    for key, kind in kinds.items():
        if not isinstance(manifest.get(key), kind):
            raise UserError(f"{path}: expected {key!r} to be a {kind.__name__}; the file is damaged, build it again")
    note = {"file": str, "records": int, "bytes": int, "sha256": str, "odd": dict, "bad": list}
    parts = ((manifest["shards"], note), (manifest["classes"], {"label": int, "synset": str, "text": str}))
    parts += ((list(manifest["splits"].values()), {"images": int, "bytes": int, "shards": int, "classes": dict}),)
    for entries, kinds in parts:
        for entry in entries:
            if not isinstance(entry, dict) or not all(isinstance(entry.get(key), kind) for key, kind in kinds.items()):
                raise UserError(f"{path}: expected entries with {', '.join(kinds)}; damaged, build it again")
    for split in manifest["splits"].values():
        if other := [key for key in split["classes"] if key != "unlabelled" and not key.isdecimal()]:
            raise UserError(f"{path}: expected classes by their number, received {other[0]!r}; damaged, build it again")
    return manifest


def count_records(paths: Sequence[str]) -> list[int]:
    """The number of records in each file, by reading the 12 bytes in front of each record and nothing else.

    At a remote path TensorFlow reads half a megabyte at a time, and so nearly all of the file: a manifest saves that.
    Raises UserError, naming file, record and position, for a file that is truncated or is no TFRecord file.
    """

    def count(path: str) -> int:
        if not fs.exists(path):
            raise UserError(f"expected a TFRecord file at {path}, found none")
        with fs.random_access(path) as (read, size):
            return sum(1 for _ in records.spans(read, size, path))

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(count, paths))

"""What a finished build says about itself, and what an unfinished one may go on from.

Neither holds a time, a path or a machine's name: the same images and settings give the same bytes everywhere.
"""

import hashlib
import json
from collections import Counter

from tfrecords import filesystem as fs
from tfrecords.errors import UserError
from tfrecords.files import MANIFEST, SETTINGS, WORK, read_manifest, shard_names, shards_in
from tfrecords.images import ODDITIES
from tfrecords.index import Index
from tfrecords.shards import note_path

BAD = "bad.txt"
LOCK, INDEX = "lock", "index.sqlite"  # of a build that runs; it removes them as it ends
_SOURCE = "source_fingerprint"


def source_fingerprint(index: Index, classes: list[tuple[str, str]]) -> str:
    """sha256 over all that goes into the records but the pixels: names, sizes, labels and the classes' names."""
    return hashlib.sha256(json.dumps([index.fingerprint(), classes]).encode()).hexdigest()


def begin(output: str, settings: dict) -> dict[str, dict]:
    """Opens an output directory for a build and returns the notes of a finished build's shards by file.

    Where the build is unfinished its source may have changed since, as where a damaged file was replaced: each shard's
    note knows what it was made of. Raises UserError where the directory belongs to a build with other settings, or holds
    shards that nobody noted.
    """
    manifest = read_manifest(output)
    unfinished = fs.join(output, WORK, SETTINGS)
    if manifest:
        earlier = manifest["settings"]
    elif fs.exists(unfinished):
        earlier = {**fs.read_json(unfinished), _SOURCE: settings[_SOURCE]}
    else:
        earlier = settings
        try:
            foreign = shards_in(output)
        except UserError:  # an incomplete set is foreign too
            foreign = True
        if foreign:
            raise UserError(f"expected an empty --output, received {output}, which has shards but no {MANIFEST}")
        data = json.dumps(settings, indent=1).encode()
        fs.write_whole(unfinished, data, unfinished + ".partial")
    keys = [*settings, *(key for key in earlier if key not in settings)]
    different = [
        f"{key} (there {earlier.get(key)!r}, now {settings.get(key)!r})"
        for key in keys
        if earlier.get(key) != settings.get(key)
    ]
    if different:
        raise UserError(
            f"expected in {output} a build with the same settings, received one that differs in {', '.join(different)}"
            f"; give another --output"
        )
    return {note["file"]: note for note in manifest["shards"]} if manifest else {}


def earlier_note(output: str, file: str) -> dict | None:
    """What an unfinished build noted about a shard, or None. A note is written whole or not at all."""
    path = note_path(output, file)
    note = fs.read_json(path) if fs.exists(path) else {}
    return note if "made_of" in note else None


def finish(output: str, settings: dict, source: dict, classes: list[tuple[str, str]], index: Index, notes: list[dict]):
    """Writes bad.txt and the manifest from the notes of all shards, removes the rest, returns the manifest."""
    labels = {synset: number for number, (synset, _) in enumerate(classes, 1)}
    counts = {split: Counter(number) for split, number in index.counts().items()}
    bad = [f"{split}/{name}\t{problem}" for split, name, problem in index.problems()]
    splits = {split: {"images": 0, "bytes": 0, "shards": 0} for split in sorted(counts)}
    odd = Counter({key: 0 for key in (*ODDITIES, "bad_skipped")})
    for note in notes:
        split = note["file"].split("-")[0]
        for name, reason, synset in note["bad"]:
            counts[split][synset] -= 1
            bad.append(f"{split}/{name}\t{reason}")
        splits[split]["images"] += note["records"]
        splits[split]["bytes"] += note["bytes"]
        splits[split]["shards"] += 1
        odd.update(note["odd"])
    odd["bad_skipped"] = len(bad)
    for split, values in splits.items():
        by_label = sorted((labels.get(synset, 0), number) for synset, number in counts[split].items() if number)
        values["classes"] = {str(label or "unlabelled"): number for label, number in by_label}
    manifest = {
        "format": "pf_keras tfrecords 1",
        "images": sum(values["images"] for values in splits.values()),
        "bytes": sum(values["bytes"] for values in splits.values()),
        "source": source,
        "settings": settings,
        "splits": splits,
        "odd": dict(odd),
        "classes": [{"label": n, "synset": synset, "text": text} for n, (synset, text) in enumerate(classes, 1)],
        "shards": notes,
    }
    for name in set(shard_names(output)) - {note["file"] for note in notes}:
        if fs.exists(note_path(output, name)):  # made by this build, of a split that the source no longer has
            fs.remove(fs.join(output, name))
    temporary = fs.join(output, WORK, MANIFEST + ".partial")
    if not bad and fs.exists(fs.join(output, BAD)):
        fs.remove(fs.join(output, BAD))  # of an earlier time
    if bad:
        fs.write_whole(fs.join(output, BAD), "".join(line + "\n" for line in sorted(bad)).encode(), temporary)
    fs.write_whole(fs.join(output, MANIFEST), json.dumps(manifest, indent=1).encode() + b"\n", temporary)
    _clear(fs.join(output, WORK))
    return manifest


def _clear(work: str) -> None:
    """Removes what the work directory holds but its lock, without which a second build could begin, and the index."""
    if fs.is_remote(work):
        fs.remove_tree(work)
    else:
        for name in set(fs.names_in(work)) - {LOCK, INDEX}:
            fs.remove(fs.join(work, name))

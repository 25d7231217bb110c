"""The output of a build: the manifest of a finished one, and the notes from which an unfinished one resumes.

Neither holds a time, a path or the name of a machine: the same images and settings give the same bytes everywhere.
"""

import json
from collections import Counter

from pf_keras import filesystem as fs
from pf_keras.data.shard_files import FORMAT, MANIFEST, SETTINGS, SUBSET, WORK, read_manifest, shard_names
from pf_keras.data.splits import TRAIN
from pf_keras.errors import UserError
from tfrecords.encode import ODDITIES
from tfrecords.index import Index
from tfrecords.shards import note_path

BAD = "bad.txt"
_SOURCE = "source_fingerprint"


def begin(output: str, settings: dict) -> dict[str, dict]:
    """Prepare an output directory for a build.

    The input of an unfinished build may change, for example because a corrupt file was repaired: the note of each shard knows
    what the shard was made of.

    Args:
        output: the directory.
        settings: of this build. An earlier build must have had the same.

    Returns:
        The notes of a finished build's shards by file name. Empty if the build has not finished.

    Raises:
        UserError: the directory belongs to a build with other settings, or holds shards without a manifest.
    """
    manifest = read_manifest(output)
    unfinished = fs.join(output, WORK, SETTINGS)
    if manifest:
        earlier = manifest["settings"]
    elif fs.exists(unfinished):
        earlier = {**fs.read_json(unfinished), _SOURCE: settings[_SOURCE]}
    else:
        earlier = settings
        if shard_names(output):
            raise UserError(f"{output} has shards but no {MANIFEST}. Give an empty directory.")
        fs.write_whole(unfinished, json.dumps(settings, indent=1).encode(), unfinished + ".partial")
    different = [key for key in {**settings, **earlier} if settings.get(key) != earlier.get(key)]
    if different:
        was = [f"{key}={earlier.get(key)!r}, not {settings.get(key)!r}" for key in different if key != _SOURCE]
        was += [f"other input files ({_SOURCE})"] if _SOURCE in different else []
        raise UserError(f"{output} was built with {'; '.join(was)}. Use a new --output, or the original settings and input.")
    return {note["file"]: note for note in manifest["shards"]} if manifest else {}


def earlier_note(output: str, file: str) -> dict | None:
    """What an unfinished build noted about a shard, or None."""
    path = note_path(output, file)
    note = fs.read_json(path) if fs.exists(path) else {}
    return note if "made_of" in note else None


def finish(output: str, settings: dict, source: dict, classes: list[tuple[str, str]], index: Index, notes: list[dict]) -> dict:
    """Write the manifest and bad.txt.

    Args:
        output: the directory.
        settings: of the build.
        source: the kind of input and the files it was read from.
        classes: `(synset, text)` in the order of the labels.
        index: all images of the build.
        notes: of all shards, in the order of their names.

    Returns:
        The manifest.
    """
    counts = {split: Counter(number) for split, number in index.counts().items()}
    bad = [f"{split}/{name}\t{problem}" for split, name, problem in index.problems()]
    odd = Counter(dict.fromkeys((*ODDITIES, "bad_skipped"), 0))
    for note in notes:
        split = note["file"].split("-")[0]
        for name, reason, synset in note["bad"]:
            counts[split][synset] -= 1
            bad.append(f"{split}/{name}\t{reason}")
        odd.update(note["odd"])
    odd["bad_skipped"] = len(bad)
    labels = {synset: number for number, (synset, _) in enumerate(classes, 1)}
    by_label = {
        split: {labels.get(synset, 0): number for synset, number in number_of.items() if number}
        for split, number_of in counts.items()
    }
    manifest = {
        "format": FORMAT,
        **totals(notes),
        "source": source,
        "settings": settings,
        "splits": splits(by_label, notes),
        "odd": dict(odd),
        "classes": [{"label": n, "synset": synset, "text": text} for n, (synset, text) in enumerate(classes, 1)],
        "shards": notes,
    }
    for name in set(shard_names(output)) - {note["file"] for note in notes}:
        if fs.exists(note_path(output, name)):  # this build made it, of a split that the input no longer has
            fs.remove(fs.join(output, name))
    temporary = fs.join(output, WORK, MANIFEST + ".partial")
    if bad:
        fs.write_whole(fs.join(output, BAD), "".join(line + "\n" for line in sorted(bad)).encode(), temporary)
    elif fs.exists(fs.join(output, BAD)):
        fs.remove(fs.join(output, BAD))  # by an earlier build
    write(output, manifest)
    return manifest


def finish_subset(output: str, settings: dict, whole: dict, parent: str, images: Counter, notes: list[dict]) -> dict:
    """Write the manifest of a subset: of training images alone, with a reference to the dataset that has the validation images.

    Args:
        output: the directory of the subset.
        settings: of the command.
        whole: the manifest of the dataset.
        parent: its directory, relative to `output`.
        images: how many images of each label there are.
        notes: of all shards, in the order of their names.

    Returns:
        The manifest.
    """
    manifest = {
        "format": FORMAT,
        **totals(notes),
        SUBSET: {"directory": parent, "images": whole["splits"][TRAIN]["images"]},
        "source": whole["source"],
        "settings": settings,
        "splits": splits({TRAIN: images}, notes),
        "odd": {},  # records do not tell what their images were
        "classes": whole["classes"],
        "shards": notes,
    }
    write(output, manifest)
    return manifest


def totals(notes: list[dict]) -> dict[str, int]:
    """The numbers of images and bytes in all shards."""
    return {"images": sum(note["records"] for note in notes), "bytes": sum(note["bytes"] for note in notes)}


def splits(by_label: dict[str, dict[int, int]], notes: list[dict]) -> dict[str, dict]:
    """What a manifest says of each split.

    Args:
        by_label: for each split, how many images of each label there are. 0 stands for no label.
        notes: of all shards.
    """
    described = {}
    for split in sorted(by_label):
        own = [note for note in notes if note["file"].split("-")[0] == split]
        classes = {str(label or "unlabelled"): number for label, number in sorted(by_label[split].items())}
        described[split] = {**totals(own), "shards": len(own), "classes": classes}
    return described


def write(output: str, manifest: dict) -> None:
    """Write a manifest, the last file of a build."""
    temporary = fs.join(output, WORK, MANIFEST + ".partial")
    fs.write_whole(fs.join(output, MANIFEST), json.dumps(manifest, indent=1).encode() + b"\n", temporary)

"""Labels, for the tasks that need them: which images have one, which keep theirs in fine-tuning, and the classes."""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pf_keras.data.images import Images
from pf_keras.data.records import Split
from pf_keras.data.selection import hold_out, match_list, read_list, stratified_subset
from pf_keras.data.sources import Source
from pf_keras.errors import UserError, printable

SHOWN = 8  # classes in a line
MOST_CLASSES = 1_000_000  # a larger label is an identifier, not the number of a class


def labelled_subset(split: Split, fraction: float | None, list_file: str = "") -> Split:
    """The part of a training split whose labels are used.

    Args:
        split: a split in which every example has a label.
        fraction: of each class, but at least one image. Subsets are nested (1% is part of 10%), and the same for every seed
            of a run.
        list_file: a file with the names of the examples, such as a published list, in place of a fraction.

    Raises:
        UserError: an image has no label, or the list has names that are not in the data, or images of one class only.
    """
    require_labels(split)
    if list_file:
        if fraction not in (None, 1):
            raise UserError(f"Both --label_list={list_file} and --label_fraction={fraction} are given. Use one of them.")
        chosen = split.subset(sorted(match_list(read_list(list_file), split.names)))
        if len(set(chosen.labels.tolist())) < 2:
            raise UserError(f"All images in {list_file} are of one class. List images of two or more classes.")
        return chosen
    if fraction == 1:
        return split
    return split.subset(stratified_subset(split.names, split.labels, fraction, seed=0))


def kept_fraction(source: Source, labels: int, fraction: float, list_file: str) -> float:
    """The fraction of all training images that keep their labels: the given one, unless a list or a subset chose them.

    Args:
        source: the data of a run.
        labels: how many images keep their labels.
        fraction: as given, of `source`.
        list_file: as given, or empty.
    """
    if list_file or source.whole:
        return round(labels / (source.whole or source.train.size), 6)
    return fraction


def labels_definition(fraction: float, list_file: str) -> dict[str, object]:
    """What defines the labels of a run: the fraction, or the list file and a digest of what it lists."""
    lines = read_list(list_file) if list_file else []
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest() if list_file else ""
    return {"label_fraction": fraction, "label_list": list_file, "label_list_sha256": digest}


def labelled_source(source: Source, fraction: float, whole: bool = False) -> Source:
    """The source with labels in its validation split.

    Where the training images have labels and no validation image has one, as in a flat folder `test`, validation images are
    held out from the training split, and the unlabelled ones are not used. Says so. Other sources stay as they are.

    Args:
        source: a source.
        fraction: of each class that is held out.
        whole: for data on which nothing is trained: all training images become the validation split.

    Raises:
        UserError: a training image has no label, or no class has an image to hold out.
    """
    train, validation = source.train, source.validation
    if train is validation or (np.asarray(validation.labels) >= 0).any():
        return source
    require_labels(train)
    if whole:
        print(f"validation: all training images, because {_why_unlabelled(validation)}", file=sys.stderr)
        return replace(source, validation=train, validation_note="all training images")
    train, held = hold_out(train, fraction)
    if not held.size:
        raise UserError(f"{_why_unlabelled(validation)}, and no class has two training images, to hold one out. Add images.")
    note = f"{fraction:.0%} of each class of the training images, because {_why_unlabelled(validation)}"
    print(f"validation: {note}, {held.size} images", file=sys.stderr)
    return replace(source, train=train, validation=held, validation_note=note)


def require_labels(split: Split) -> None:
    """Raises UserError where an example of the split has no label, or one that cannot be the number of a class."""
    if (np.asarray(split.labels) < 0).any():
        raise UserError(
            f"{_why_unlabelled(split)}. Put labelled images in one folder per class, or list them in a file: --data=csv:FILE."
        )
    _require_numbers(split)


def _require_numbers(split: Split) -> None:
    highest = int(np.max(split.labels, initial=-1))
    if highest >= MOST_CLASSES:
        name = split.names[int(np.argmax(split.labels))]
        raise UserError(f"{name} has the label {highest}. Labels must number the classes from 0 or 1, without large gaps.")


def _why_unlabelled(split: Split) -> str:
    name = split.names[int(np.argmax(np.asarray(split.labels) < 0))]
    return split.unlabelled or f"{name} has no label"


def require_classes(names: Sequence[str]) -> None:
    """Raises UserError where there are fewer than two classes."""
    if len(names) < 2:
        raise UserError(f"The data have {len(names)} class, but a classifier needs two or more. Use one folder per class.")


def class_names(source: Source) -> tuple[str, ...]:
    """The names of the classes to train, in the order of the labels. Numbers where the source has no names.

    Raises:
        UserError: a class of images in files has no image to train on.
    """
    if not source.classes:
        return tuple(str(i) for i in range(int(np.max(source.train.labels)) + 1))
    if isinstance(source.train, Images):  # shards of a part of ImageNet have the classes of the whole
        counts = np.bincount(source.train.labels[source.train.labels >= 0], minlength=len(source.classes))
        none = [*source.empty_classes, *(name for name, count in zip(source.classes, counts, strict=True) if not count)]
        if none:
            more = f" (and {len(none) - 1} more)" if len(none) > 1 else ""
            raise UserError(f"The class {none[0]}{more} has no image to train on. Add images, or remove the class.")
    return tuple(source.classes)


def describe_classes(source: Source) -> str:
    """One line: the classes of the training images, and how many images each has."""
    train, names = source.train, source.classes
    labels = np.asarray(train.labels)
    if not (labels >= 0).any():
        return f"classes: none, {train.size} images without labels"
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    parts = [f"{names[i] if names else i} ({count})" for i, count in enumerate(counts.tolist()[:SHOWN])]
    line = f"classes: {', '.join(parts)}" + (f", ... ({len(counts)} in all)" if len(counts) > SHOWN else "")
    return printable(line)

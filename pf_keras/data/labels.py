"""Which training examples keep their labels in fine-tuning, and checks of labels."""

import hashlib
from collections.abc import Sequence

import numpy as np

from pf_keras.data.records import Split
from pf_keras.data.selection import match_list, read_list, stratified_subset
from pf_keras.data.sources import Source
from pf_keras.errors import UserError


def labelled_subset(split: Split, fraction: float | None, list_file: str = "") -> Split:
    """The part of a training split whose labels are used.

    Args:
        split: a split in which every example has a label.
        fraction: of each class. Subsets are nested (1% is part of 10%), and the same for every seed of a run.
        list_file: a file with the names of the examples, such as a published list, in place of a fraction.

    Raises:
        UserError: an image has no label, the fraction leaves a class empty, or the list has names that are not in the data,
            or images of one class only.
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


def labels_definition(fraction: float, list_file: str) -> dict[str, object]:
    """What defines the labels of a run: the fraction, or the list file and a digest of what it lists."""
    lines = read_list(list_file) if list_file else []
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest() if list_file else ""
    return {"label_fraction": fraction, "label_list": list_file, "label_list_sha256": digest}


def require_labels(split: Split) -> None:
    """Raises UserError where an example of the split has no label."""
    unlabelled = np.asarray(split.labels) < 0
    if unlabelled.any():
        missing = split.names[int(np.argmax(unlabelled))]
        raise UserError(f"{missing} has no label. Put labelled images in one folder per class.")


def require_classes(names: Sequence[str]) -> None:
    """Raises UserError where there are fewer than two classes."""
    if len(names) < 2:
        raise UserError(f"The data have {len(names)} class, but a classifier needs two or more. Use one folder per class.")


def class_names(source: Source) -> tuple[str, ...]:
    """The names of the classes in the order of the labels. Numbers where the source has no names."""
    if source.classes:
        return tuple(source.classes)
    return tuple(str(i) for i in range(int(np.max(source.train.labels)) + 1))

"""Which training examples keep their labels while fine-tuning."""

import hashlib

import numpy as np

from pf_keras.errors import UserError
from tfrecords.selection import match_list, read_list, stratified_subset


def labelled_subset(split, fraction, list_file=""):
    """The part of a training split whose labels are used.

    fraction: share of each class, stratified, nested (1% in 10% in 20%) and the same on every machine and for every seed
    of a run; or list_file: the names of the files, as published lists give them.
    Raises UserError for unlabelled images, a fraction that leaves a class empty, names that are not in the data, and those of
    one class alone.
    """
    require_labels(split)
    if list_file:
        if fraction not in (None, 1):
            raise UserError(f"expected --label_list or --label_fraction, received both, {list_file} and {fraction}: use one")
        wanted = read_list(list_file)
        try:
            chosen = split.subset(sorted(match_list(wanted, split.names)))
        except UserError as error:
            raise UserError(f"{error} (images that cannot be read and are left out are not among them)") from error
        if len(set(chosen.labels.tolist())) < 2:
            raise UserError(f"expected images of two classes or more in {list_file}, received one class: name others too")
        return chosen
    if fraction == 1:
        return split
    return split.subset(stratified_subset(split.names, split.labels, fraction, seed=0))


def labels_definition(fraction, list_file):
    """What `Workdir.start` keeps of a run's labels: the fraction, or the file with what it holds, which may change."""
    lines = read_list(list_file) if list_file else []
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest() if list_file else ""
    return {"label_fraction": fraction, "label_list": list_file, "label_list_sha256": digest}


def hold_out(split, share, seed=0):
    """Two parts of a labelled split, `(train, held out)`: of each class `share` is held out, at least one example and
    not the last one.

    Raises UserError where a class has a single example.
    """
    labels = np.asarray(split.labels)
    chosen = set()
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            alone = split.names[members[0]]
            raise UserError(
                f"expected two labelled images of each class to hold one out, received {alone} alone of its class: use more"
            )
        kept_in = np.clip(share, 1 / len(members), 1 - 1 / len(members))
        names = [split.names[i] for i in members]
        chosen |= {int(members[i]) for i in stratified_subset(names, [0] * len(names), kept_in, seed)}
    return split.subset([i for i in range(split.size) if i not in chosen]), split.subset(sorted(chosen))


def require_labels(split):
    """Raises UserError where an example of the split has no label."""
    if (np.asarray(split.labels) < 0).any():
        missing = split.names[int(np.argmax(np.asarray(split.labels) < 0))]
        raise UserError(f"expected labelled images, received {missing} without a label: put images in class folders")


def require_classes(names):
    """Raises UserError where there are fewer than two classes to tell apart."""
    if len(names) < 2:
        raise UserError(f"expected images of two classes or more, received {len(names)}: put them in folders by class")


def class_names(source):
    """The names of the classes in label order; numbers where the source knows none."""
    if source.classes:
        return tuple(source.classes)
    return tuple(str(i) for i in range(int(np.max(source.train.labels)) + 1))

"""Where images come from: `--data=SOURCE` resolved into splits, for the one pipeline that all of them feed.

A split is one of two kinds. `Images` can be read in any order (`digits`, `folder:`), `Records` are streams of shards
(`tfrecord:`, `tfds:`). Both offer
    size, names            how many examples, and what to call the i-th
    keys(...)              a dataset of dicts with `epoch` and `index`, and what else `load` needs
    load(key)              the encoded image (bytes) and its label, from 0 (-1: none); runs inside tf.data
    gifs                   whether an image may be a GIF
TensorFlow is imported when a source is opened.
"""

import os
from dataclasses import dataclass

from pf_keras.data.digits import open_digits
from pf_keras.data.folder import open_folder
from pf_keras.data.tfds import open_tfds
from pf_keras.data.tfrecord import open_tfrecords
from pf_keras.errors import UserError
from tfrecords.filesystem import is_remote

KINDS = {"folder": open_folder, "tfrecord": open_tfrecords, "tfds": open_tfds}


@dataclass(frozen=True)
class Source:
    """The splits of a source. `classes` are names in label order, empty where images are unlabelled.

    `held_out` says where validation examples come from when the source has no split of its own for them.
    """

    train: object
    validation: object
    classes: tuple[str, ...] = ()
    held_out: str = ""

    def splits(self):
        """The splits by name; where both are one, as `open_source` makes them `whole`, that one alone."""
        both = {"train": self.train, "validation": self.validation}
        return {"validation": self.validation} if self.train is self.validation else both


def same_data(one, other):
    """Whether two `data.source` name the same data, however their paths are spelled."""

    def resolved(source):
        kind, _, place = source.partition(":")
        local = kind in ("folder", "tfrecord") and not is_remote(place)
        return kind, os.path.realpath(os.path.expanduser(place)) if local else place

    return resolved(one) == resolved(other)


def open_source(config, whole=False):
    """The `Source` of a `DataConfig`. Raises UserError where it names nothing readable.

    whole: for data that nothing is trained on. Where they have no validation split, both splits are all images there are.
    """
    kind, colon, place = config.source.partition(":")
    if config.source == "digits":
        return Source(*open_digits())
    if kind not in KINDS or not colon or not place:
        raise UserError(
            "expected --data to be digits, folder:DIR, tfrecord:DIR or tfds:NAME, "
            f"received {config.source!r}: name one of these"
        )
    source = Source(*KINDS[kind](place, config, whole))
    for name, split in source.splits().items():
        if not split.size:
            raise UserError(f"expected images for {name} in {config.source}, received none: add some, or remove empty shards")
    return source

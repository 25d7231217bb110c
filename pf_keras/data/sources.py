"""Where images come from: resolves `--data=SOURCE` into splits for the input pipeline.

There are two kinds of splits. `Images` can be read in any order (`digits`, `folder:`, `csv:`). `Records` are streams of shards
(`tfrecord:`, `tfds:`). Both have:

    size, names, labels    the number of examples, their names, and their labels from 0 (-1 for none)
    keys(...)              a dataset of dicts with `epoch`, `index` and what else `load` needs
    loader()               a function `load(key)` for tf.data that gives the encoded image (bytes) and its label
    any_format             whether an image may be of another format than JPEG and PNG
    subset, sample, without, name_of, digest

TensorFlow is imported only when a split is read.
"""

import os
from collections import Counter
from dataclasses import dataclass, field, replace

from pf_keras.config import DataConfig
from pf_keras.data.csv_list import open_csv
from pf_keras.data.digits import open_digits
from pf_keras.data.folder import open_folder
from pf_keras.data.reader import DEFAULTS, ReadOptions
from pf_keras.data.records import Split
from pf_keras.data.shard_files import whole_dataset
from pf_keras.data.tfds import open_tfds
from pf_keras.data.tfrecord import open_tfrecords
from pf_keras.errors import UserError

KINDS = {"folder": open_folder, "csv": open_csv, "tfrecord": open_tfrecords, "tfds": open_tfds}


@dataclass(frozen=True)
class Source:
    """The splits of a source.

    Args:
        train: the training split.
        validation: the validation split. The same object as `train` where nothing is trained on the data.
        classes: the names of the classes in the order of the labels. Empty where images have no labels or no names are known.
        validation_note: where validation images come from when the source has no validation split.
        empty_classes: class folders of the training split without a single image. They are not among `classes`.
        skipped: how many files and folders the listing of a folder skipped, by kind.
        place: the `data.source` that was opened.
        options: how its pixels are read.
        whole: how many training images the whole dataset has, where these are a subset that has shards of its own. Otherwise 0.
    """

    train: Split
    validation: Split
    classes: tuple[str, ...] = ()
    validation_note: str = ""
    empty_classes: tuple[str, ...] = ()
    skipped: Counter = field(default_factory=Counter)
    place: str = ""
    options: ReadOptions = DEFAULTS
    whole: int = 0

    def splits(self) -> dict[str, Split]:
        """The splits by name. Only `validation` where both are the same."""
        both = {"train": self.train, "validation": self.validation}
        return {"validation": self.validation} if self.train is self.validation else both

    def digests(self) -> dict[str, dict]:
        """What a split is recognised by: `{name: {"images": n, "digest": hex}}`."""
        return {name: {"images": split.size, "digest": split.digest()} for name, split in self.splits().items()}


def open_source(config: DataConfig, whole: bool = False, labels: bool = True) -> Source:
    """Open the data that a config names.

    Args:
        config: the config of the data.
        whole: for data on which nothing is trained. Where they have no validation split, both splits are all images.
        labels: whether a task reads labels. Without it, records are not looked at for labels.

    Images need no labels here: `pf_keras.data.labels` checks them where a task needs them.

    Raises:
        UserError: the config names nothing that can be read, or a split without images.
    """
    kind, colon, place = config.source.partition(":")
    if config.source == "digits":
        return Source(*open_digits(), place=config.source)
    if not config.source:
        raise UserError("--data is missing, and a preset has no data of its own. Use --data=folder:DIR, or another source.")
    if kind not in KINDS or not colon or not place:
        raise UserError(
            f"--data={config.source} is not a data source. Use digits, folder:DIR, csv:FILE, tfrecord:DIR or tfds:NAME."
        )
    options = {"labels": labels} if kind in ("tfrecord", "tfds") else {}  # reading labels of records may take a pass over them
    # The range of 16-bit images is found later, and any range tells whether an image can be read.
    reading = ReadOptions.from_config(replace(config, range16="type") if config.range16 == "data" else config)
    source = Source(*KINDS[kind](place, config, whole, **options), place=config.source, options=reading)
    if kind == "tfrecord" and (dataset := whole_dataset(os.path.expanduser(place))):
        source = replace(source, whole=dataset[1])
    for name, split in source.splits().items():
        if not split.size:
            raise UserError(f"The {name} split of {config.source} has no images. Add some, or remove its empty shards.")
    return source

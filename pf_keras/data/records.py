"""A split whose examples are records in TFRecord files, read as a stream."""

import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pf_keras import filesystem as fs
from pf_keras.config import DataConfig
from pf_keras.data.dataset_options import as_written
from pf_keras.data.images import Images
from pf_keras.data.shares import share
from pf_keras.data.shuffle import permutation
from pf_keras.errors import UserError
from pf_keras.processes import cores

if TYPE_CHECKING:
    import tensorflow as tf

FILE = 2**32  # the index of an example is FILE times the number of its file, plus its place in that file
IN_MEMORY = 2 * 2**30  # bytes of a labelled subset up to which it is read into memory
SIZE_THREADS = 16  # that ask for the sizes of files, which takes long in a remote store


class FirstLabel:
    """The stored label of the first class, shared by all splits of a source.

    Args:
        value: the label, or None to find out on first use: 0 where any split has a 0, else 1.

    Attributes:
        was_found: whether `value` was found in the data, now or when the run began.
    """

    def __init__(self, value: int | None = None):
        self.value = value
        self.was_found = False
        self.splits: list[Records] = []  # where to look for a 0; one split alone may lack the first class

    def find(self, asking: "Records") -> int:
        """The label. Looks for a 0 in the split `asking` first, to read the others only where that has none."""
        if self.value is None:
            others = (split for split in self.splits if split is not asking)
            self.value = 0 if any(0 in split.stored_labels for split in (asking, *others)) else 1
            self.was_found = True
            print(f"labels seem to begin at {self.value}; set data.first_label if they do not", file=sys.stderr)
        return self.value


@dataclass(eq=False)
class Records:
    """A split of TFRecord files.

    Args:
        files: their paths.
        counts: how many records each file has.
        parse: a graph function from a serialized record to a dict of `encoded`, `label` and `filename`.
        config: the config of the data.
        first_label: one object for all splits of the source.
        wanted: int64, the indices that belong to the split, ascending. None for all.
        any_format: whether there may be other formats than JPEG and PNG among them.
        sha256: of each file, where a manifest knows it.
        unlabelled: why an example has no label, as the beginning of a message, or empty.
    """

    files: list[str]
    counts: list[int]
    parse: Callable
    config: DataConfig
    first_label: FirstLabel
    wanted: np.ndarray | None = None
    any_format: bool = True
    sha256: Sequence[str] = ()
    unlabelled: str = ""

    @property
    def size(self) -> int:
        """The number of examples."""
        return sum(self.counts) if self.wanted is None else len(self.wanted)

    def digest(self) -> str:
        """The sha256, in hex, of the names, record counts and sizes of all files, and of the content of a few."""
        with ThreadPoolExecutor(SIZE_THREADS) as threads:
            sizes = list(threads.map(fs.size, self.files))
        wanted = None if self.wanted is None else self.wanted.tolist()
        content = self.sha256 or fs.sampled_content(self.files)  # a manifest knows the content of all
        facts = [[_without_folder(file) for file in self.files], self.counts, sizes, content, wanted]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def sample(self, count: int) -> "Records":
        """The split of the first `count` records, which converters shuffle, or of all where there are fewer."""
        if count >= self.size:
            return self
        wanted = self.indices[:count]
        files = int(wanted[-1] // FILE) + 1
        return self._part(wanted, files)

    @property
    def names(self) -> list[str]:
        """The file names that the records hold. Where one has none, its file and place. Reads every record once."""
        return self._contents[0]

    @property
    def labels(self) -> np.ndarray:
        """int64 (size,), from 0; -1 for none. Reads every record once."""
        labels, first = self.stored_labels, self.first_label.find(self)
        below = np.flatnonzero((labels >= 0) & (labels < first))
        if len(below):
            name = self.name_of(int(self._contents[2][below[0]]))
            raise UserError(
                f"{name} has label {labels[below[0]]}, but the first class has label {first}. "
                f"Set data.first_label={labels[below].min()} if it is another."
            )
        return np.where(labels < 0, labels, labels - first)

    @property
    def stored_labels(self) -> np.ndarray:
        """int64 (size,), as the records store them; -1 for none. Reads every record once."""
        return self._contents[1]

    @functools.cached_property
    def _contents(self) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
        """Names, stored labels, indices and sizes in bytes, in order."""
        import tensorflow as tf

        def describe(key):
            record = self.parse(key["serialized"])
            return record["filename"], record["label"], key["index"], tf.strings.length(record["encoded"])

        print(f"reading the labels of {self.size} records", file=sys.stderr)
        rows = self.keys(shuffle=False).map(describe, num_parallel_calls=cores()).batch(4096)
        parts = [tuple(part.numpy() for part in row) for row in as_written(rows)]
        names, labels, indices, sizes = (np.concatenate(column) for column in zip(*parts, strict=True))
        places = [self.name_of(index) for index in indices.tolist()]
        texts = [name.decode(errors="backslashreplace") for name in names.tolist()]
        return [text or place for text, place in zip(texts, places, strict=True)], labels, indices, sizes

    def subset(self, positions: Sequence[int]) -> "Images | Records":
        """The split of some of the examples.

        A small subset is read into memory once. A larger one is filtered out of the stream, which reads every record each
        epoch but decodes only the chosen ones: TFRecord files have no index to find them by.
        """
        names, _, indices, sizes = self._contents
        positions = np.asarray(positions)
        wanted = indices[positions]
        chosen = self._part(np.sort(wanted))
        if sizes[positions].sum() > IN_MEMORY:
            print(f"{len(wanted)} labelled images do not fit in memory: each epoch reads all {self.size}", file=sys.stderr)
            return chosen
        encoded = {int(key["index"]): self.parse(key["serialized"])["encoded"].numpy() for key in chosen.keys(shuffle=False)}
        values = [encoded[int(i)] for i in wanted]
        names, labels = [names[p] for p in positions], self.labels[positions]
        return Images(names, labels, values, any_format=self.any_format, unlabelled=self.unlabelled)

    def name_of(self, index: int) -> str:
        """The file and place of the record of a key's `index`."""
        return f"{self.files[index // FILE]} record {index % FILE}"

    def without(self, names: Collection[str]) -> "Records":
        """The split without the records of these names (`name_of`), whatever folder they were in."""
        left_out = {_without_folder(name) for name in names}
        indices = self.indices.tolist()
        kept = [index for index in indices if _without_folder(self.name_of(index)) not in left_out]
        left = self._part(np.asarray(kept, "int64"))
        # The first label must be found without reading what is left out.
        self.first_label.splits = [left if split is self else split for split in self.first_label.splits]
        return left

    def _part(self, wanted: np.ndarray, files: int | None = None) -> "Records":
        """The split of these indices, all of them in the first `files` files."""
        first, counts, sha256 = self.files[:files], self.counts[:files], self.sha256[:files]
        return dataclasses.replace(self, files=first, counts=counts, wanted=wanted, sha256=sha256)

    def at(self, indices: Collection[int]) -> "Records":
        """The split of the examples with these keys' `index`, in ascending order."""
        return self._part(np.sort(np.asarray(indices, "int64")))

    @property
    def indices(self) -> np.ndarray:
        """int64 (size,): the `index` of every key, ascending."""
        if self.wanted is not None:
            return self.wanted
        return np.concatenate([number * FILE + np.arange(count) for number, count in enumerate(self.counts)])

    def keys(
        self,
        start: int = 0,
        seed: int = 0,
        shuffle: bool = True,
        batch: int = 1,
        host: int = 0,
        hosts: int = 1,
        counted: bool = True,
    ) -> "tf.data.Dataset":
        """The records in order: endless, from shuffled files and a shuffle buffer, or once through.

        The order depends on the seed and the epoch alone. To start in the middle of an epoch, the stream skips the records
        before it without parsing them.

        Args:
            start: how many records of all hosts to skip.
            seed: of the shuffling.
            shuffle: whether the stream is endless and shuffled.
            batch: not used; `Images.keys` needs it.
            host: which records to read, if shuffled: an equal share, see `shares.share`. An epoch of a host is an epoch of
                its share.
            hosts: the number of hosts.
            counted: unless shuffled: whether it is an error if there are more or fewer records than were counted.

        Returns:
            A dataset of dicts of the int64 scalars `epoch` and `index` and the string `serialized`.

        Raises:
            UserError: there are fewer files or records than hosts.
        """
        import tensorflow as tf

        if len(self.files) < hosts:
            raise UserError(f"{len(self.files)} shards are too few for {hosts} hosts. Write at least one shard per host.")
        if self.size < hosts:
            raise UserError(f"{self.size} records are too few for {hosts} hosts. Use more records or fewer hosts.")
        parts, wanted, size = self._share(host, hosts)
        files, count = tf.constant(self.files), len(parts)
        start = start // hosts

        def numbered(part, epoch):
            # tf.unstack would crash tf.data: it looks into the inputs of skip and take for constants.
            number, first, taken = (tf.constant(column)[part] for column in parts.T)

            def key(place, record):
                return {"epoch": epoch, "index": number * FILE + place, "serialized": record}

            records = tf.data.TFRecordDataset(files[number]).enumerate()
            return records.skip(first).take(taken).map(key)

        def chosen(records):
            if wanted is None:
                return records
            places = tf.constant(wanted)

            def is_wanted(key):
                place = tf.searchsorted(places, key["index"][None])[0]
                return places[tf.minimum(place, len(wanted) - 1)] == key["index"]

            return records.filter(is_wanted)

        if not shuffle:
            zero = tf.constant(0, tf.int64)
            records = chosen(tf.data.Dataset.range(count).flat_map(lambda number: numbered(number, zero)))
            # Where a manifest counts too many, the zeros that fill up the last batch would be scored as examples.
            if counted:
                records = records.apply(tf.data.experimental.assert_cardinality(size))
            return records.skip(start)

        first = start // size

        def one_epoch(epoch):
            # Sets the seed of this graph: shuffle fails with a computed seed and a global seed of 0, and the order must
            # not depend on the global seed.
            tf.random.set_seed(1)
            order = tf.data.Dataset.from_tensor_slices(permutation(count, seed, epoch))
            records = order.interleave(
                lambda part: numbered(part, epoch),
                cycle_length=min(count, self.config.parallel_files),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            buffer = min(self.config.shuffle_buffer, size)
            records = chosen(records).shuffle(buffer, seed=seed * 2**20 + epoch, reshuffle_each_iteration=False)
            passed = tf.where(epoch == first, start % size, 0)
            return records.skip(tf.cast(passed, tf.int64))

        return tf.data.Dataset.range(first, np.iinfo("int64").max).flat_map(one_epoch)

    def _share(self, host: int, hosts: int) -> tuple[np.ndarray, np.ndarray | None, int]:
        """What a host reads: int64 (F, 3) with the number of each file, its first record and how many, -1 for all that follow;
        the indices that it keeps of them, or None for all; and how many records these are."""
        if self.wanted is None:
            parts = share(self.counts, host, hosts)
            number, first, last = parts.T
            whole = last == np.asarray(self.counts)[number]
            return np.stack([number, first, np.where(whole, -1, last - first)], axis=1), None, int((last - first).sum())
        offsets = np.searchsorted(self.wanted, FILE * np.arange(len(self.files) + 1))
        parts = share(np.diff(offsets), host, hosts)
        wanted = np.concatenate([self.wanted[offsets[n] + first : offsets[n] + last] for n, first, last in parts])
        return parts * [1, 0, 0] - [0, 0, 1], np.sort(wanted), len(wanted)

    def loader(self) -> Callable[[dict], tuple]:
        """A function for tf.data, from a key to `(encoded, label)`: a string and an int64 scalar."""
        import tensorflow as tf

        base = self.first_label.value or 0  # unknown as long as nobody asks for labels; then nobody uses them

        def load(key):
            record = self.parse(key["serialized"])
            label = record["label"]
            return record["encoded"], tf.where(label < 0, label, label - base)

        return load


def open_splits(
    place: str, train: Sequence[str], validation: Sequence[str], whole: bool, open_files: Callable[[Sequence[str]], Records]
) -> tuple[Records, Records, str]:
    """Open the files of a dataset by `open_files`. Without validation files, the last train file is held out.

    Of a single train file, records are held out: a fraction `holdout` of the config, drawn by their positions.

    Args:
        place: names the dataset in messages.
        train: the train files.
        validation: the validation files, possibly none.
        whole: whether both splits are all train files where there are no validation files.
        open_files: gives the split of some files.

    Returns:
        `(train, validation, validation_note)`.

    Raises:
        UserError: there is a single record to divide.
    """
    if validation:
        return open_files(train), open_files(validation), ""
    if whole:
        both = open_files(train)
        return both, both, f"all train files of {place}, which has no validation split"
    if len(train) == 1:
        return *_hold_out_records(place, open_files(train)), f"some records of {train[0]}, its only train file"
    return open_files(train[:-1]), open_files(train[-1:]), f"the last train file, {train[-1]}"


def _hold_out_records(place: str, split: Records) -> tuple[Records, Records]:
    """The train and the validation records of a single file, both in its order."""
    from pf_keras.data.selection import draw_per_class  # which imports this module

    if split.size < 2:
        count = "a single image" if split.size else "no images"
        raise UserError(f"{place} has no validation split, and its train split has {count}, too few to divide. Add images.")
    positions = [str(position) for position in range(split.size)]
    fraction = split.config.holdout
    held = draw_per_class(positions, [0] * split.size, lambda n: min(max(1, round(fraction * n)), n - 1))
    is_held = np.zeros(split.size, bool)
    is_held[held] = True
    indices = split.indices
    return split._part(indices[~is_held]), split._part(indices[is_held])


Split = Images | Records


def _without_folder(name: str) -> str:
    """A path, or the name of a record, without its folder."""
    return name.rpartition("/")[2]

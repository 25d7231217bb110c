"""A split whose examples can be read in any order."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pf_keras.data.shuffle import permutation
from pf_keras.filesystem import sampled_content

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(eq=False)
class Images:
    """A split whose examples can be read in any order.

    Args:
        names: n strings.
        labels: n ints from 0, or -1 for an example without a label.
        values: n byte strings: the encoded images, or with `paths=True` the paths of their files.
        paths: whether `values` are paths.
        any_format: whether there may be other formats than JPEG and PNG among them.
        sizes: n ints, the bytes of each encoded image. By default they are looked up.
        unlabelled: why an example has no label, as the beginning of a message, or empty.
    """

    names: list[str]
    labels: Sequence[int]
    values: Sequence[bytes]
    paths: bool = False
    any_format: bool = True
    sizes: Sequence[int] | None = None
    unlabelled: str = ""

    def __post_init__(self):
        self.labels = np.asarray(self.labels, "int64")
        if self.sizes is None:
            self.sizes = [os.path.getsize(value) if self.paths else len(value) for value in self.values]
        self.sizes = list(self.sizes)

    @property
    def size(self) -> int:
        """The number of examples."""
        return len(self.names)

    def subset(self, indices: Iterable[int]) -> "Images":
        """The split of some of the examples, in the given order."""
        pick = [int(i) for i in indices]
        names, values, sizes = ([column[i] for i in pick] for column in (self.names, self.values, self.sizes))
        return dataclasses.replace(self, names=names, labels=self.labels[pick], values=values, sizes=sizes)

    @property
    def indices(self) -> np.ndarray:
        """int64 (size,): the `index` of every key, ascending."""
        return np.arange(self.size)

    def at(self, indices: Iterable[int]) -> "Images":
        """The split of the examples with these keys' `index`, in ascending order."""
        return self.subset(sorted(indices))

    def sample(self, count: int) -> "Images":
        """The split of `count` examples evenly spread over this one, or of all where there are fewer."""
        if count >= self.size:
            return self
        return self.subset(np.linspace(0, self.size - 1, count).round())

    def name_of(self, index: int) -> str:
        """The name of the example of a key's `index`."""
        return self.names[index]

    def without(self, names: Collection[str]) -> "Images":
        """The split without the examples of these names."""
        return self.subset(i for i, name in enumerate(self.names) if name not in names)

    def digest(self) -> str:
        """The sha256, in hex, of the names and sizes of all images and of the content of a few."""
        content = sampled_content([os.fsdecode(path) for path in self.values]) if self.paths else []
        return hashlib.sha256(json.dumps([self.names, self.sizes, *content]).encode()).hexdigest()

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
        """The order of the examples: endless and shuffled anew each epoch, or once through.

        Position p of the stream belongs to epoch p // size. The order of an epoch is a random permutation, a function of `seed`
        and the epoch alone, so the stream can start at any position.

        Args:
            start: the first position. Where it is shuffled: a multiple of `batch`.
            seed: of the shuffling.
            shuffle: whether the stream is endless and shuffled.
            batch: examples of a batch over all hosts, a multiple of `hosts`.
            host: which slice of every batch to take, if shuffled: all hosts together have the batch that one host would.
            hosts: the number of hosts.
            counted: not used; `Records.keys` needs it.

        Returns:
            A dataset of dicts of int64 scalars `epoch` and `index`.
        """
        import tensorflow as tf

        if not shuffle:
            return tf.data.Dataset.range(start, self.size).map(lambda i: {"epoch": tf.constant(0, tf.int64), "index": i})

        def one_epoch(epoch):
            position = epoch * self.size + tf.range(self.size, dtype=tf.int64)
            own = tf.logical_and(position >= start, position % batch // (batch // hosts) == host)
            order = permutation(self.size, seed, epoch)[own]
            return tf.data.Dataset.from_tensor_slices(order).map(lambda index: {"epoch": epoch, "index": index})

        return tf.data.Dataset.range(start // self.size, np.iinfo("int64").max // self.size).flat_map(one_epoch)

    def loader(self) -> Callable[[dict], tuple]:
        """A function for tf.data, from a key to `(encoded, label)`: a string and an int64 scalar."""
        import tensorflow as tf

        values, labels = tf.constant(self.values, tf.string), tf.constant(self.labels)

        def load(key):
            value = values[key["index"]]
            return tf.io.read_file(value) if self.paths else value, labels[key["index"]]

        return load

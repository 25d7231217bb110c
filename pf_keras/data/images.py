"""Examples that can be read in any order."""

import hashlib
from collections import defaultdict

import numpy as np


class Images:
    """A split whose examples are read by number.

    names: a list of n strings; labels: n ints from 0, or -1 for none.
    values: n byte strings, either the encoded images or, with `paths=True`, where their files are. gifs: whether there may
    be GIFs among them.
    """

    def __init__(self, names, labels, values, paths=False, gifs=True):
        self.names, self.labels, self.values, self.paths = list(names), np.asarray(labels, "int64"), values, paths
        self.gifs = gifs

    @property
    def size(self):
        return len(self.names)

    def subset(self, indices):
        """The split of some of the examples, in the given order."""
        pick = [int(i) for i in indices]
        return Images(
            [self.names[i] for i in pick], self.labels[pick], [self.values[i] for i in pick], self.paths, self.gifs
        )

    def sample(self, count):
        """The split of `count` examples evenly spread over this one, or all where there are no more."""
        if count >= self.size:
            return self
        return self.subset(np.linspace(0, self.size - 1, count).round())

    def name_of(self, index):
        """What to call the example of a key's `index`."""
        return self.names[index]

    def without(self, names):
        """The split of all examples but those of these names."""
        return self.subset(i for i, name in enumerate(self.names) if name not in names)

    def fingerprint(self):
        """What tells whether the split is still the same: a digest of its names."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()

    def held_out(self, share):
        """Two splits, `(train, validation)`: a fixed share of the examples of each label is kept for validation, one at
        least, but none of a label that has a single example.

        Which ones is a function of all names: the same on every machine, others where images come or go. Examples
        without a label are shared as if all had the same.
        """
        order = sorted(range(self.size), key=lambda i: hashlib.sha256(self.names[i].encode()).digest())
        members = defaultdict(list)
        for i in order:
            members[int(self.labels[i])].append(i)
        kept = {i for part in members.values() for i in part[: min(max(1, round(share * len(part))), len(part) - 1)]}
        return self.subset(i for i in range(self.size) if i not in kept), self.subset(sorted(kept))

    def keys(self, start=0, seed=0, shuffle=True, batch=1, host=0, hosts=1):
        """The examples' order: forever and shuffled anew each epoch, or once through.

        Position p of the stream belongs to epoch p // size. Its place in the epoch's permutation is computed, not
        stored, so that starting at any position costs nothing.

        Shuffled, each of `hosts` hosts takes the `host`-th slice of every `batch` positions, so that together they
        hold the batch that one host would; `start` is then a multiple of `batch`, and `batch` one of `hosts`.
        """
        import tensorflow as tf

        if not shuffle:
            return tf.data.Dataset.range(start, self.size).map(lambda i: {"epoch": tf.constant(0, tf.int64), "index": i})

        share = batch // hosts

        def key(own):
            position = own // share * batch + host * share + own % share
            epoch, place = position // self.size, position % self.size
            seeds = tf.stack([tf.constant(seed, tf.int64), epoch])
            index = tf.random.experimental.index_shuffle(place, tf.cast(seeds, tf.int32), self.size - 1)
            return {"epoch": epoch, "index": index}

        return tf.data.Dataset.range(start // hosts, np.iinfo("int64").max // hosts).map(key)

    def loader(self):
        """A function for tf.data from a key to `(encoded, label)`."""
        import tensorflow as tf

        values, labels = tf.constant(self.values, tf.string), tf.constant(self.labels)

        def load(key):
            value = values[key["index"]]
            return tf.io.read_file(value) if self.paths else value, labels[key["index"]]

        return load

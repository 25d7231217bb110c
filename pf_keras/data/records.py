"""A split whose examples are records in TFRecord files, read as a stream."""

import functools
import hashlib
import sys

import numpy as np

from pf_keras.data.images import Images
from pf_keras.data.options import as_written
from pf_keras.errors import UserError
from tfrecords.pool import cores

FILE = 2**32  # an example's index is its file's number times this plus its place in the file
IN_MEMORY = 2 * 2**30  # bytes of a labelled subset that are kept in memory rather than filtered out of the stream


class FirstLabel:
    """The stored label of the first class, one for all splits of a source: as told, else 0 if that occurs and 1 if not.

    Found out when it is first asked for, from the labels of `splits`: of one split alone it would be wrong where that
    happens to lack the first class.
    """

    def __init__(self, told=None):
        self.told, self.splits = told, []

    def find(self, asking):
        """The label; `asking`, a split, is looked at first, and the others only if it has no 0."""
        if self.told is None:
            others = (split for split in self.splits if split is not asking)
            self.told = 0 if any(split.has_stored(0) for split in (asking, *others)) else 1
            print(f"labels are taken to begin at {self.told}: data.first_label sets it", file=sys.stderr)
        return self.told


class Records:
    """A split of TFRecord files.

    files: their paths; counts: how many records each holds. parse: a graph function of a serialized record to a dict
    of `encoded`, `label` and `filename`. first_label: a `FirstLabel`, shared with the other splits of the source.
    config: a `DataConfig`. wanted: the indices that belong to the split, ascending, or None for all. gifs: whether there
    may be GIFs among them, whose frames are counted in Python, which a TPU's own hosts have not. digests: of the files, where a
    manifest knows them.
    """

    def __init__(self, files, counts, parse, config, first_label, wanted=None, gifs=True, digests=()):
        self.files, self.counts, self.parse, self.config = list(files), list(counts), parse, config
        self.first_label, self.wanted, self.gifs, self.digests = first_label, wanted, gifs, list(digests)

    @property
    def size(self):
        return sum(self.counts) if self.wanted is None else len(self.wanted)

    def fingerprint(self):
        """What tells whether the split is still the same, without reading it: a digest of its files and their counts,
        and of their content as far as it is known."""
        wanted = "" if self.wanted is None else self.wanted.tolist()
        files = list(map(_file_of, self.files))
        return hashlib.sha256(repr((files, self.counts, wanted, *self.digests)).encode()).hexdigest()

    def sample(self, count):
        """The split of the first `count` records, which converters have shuffled, or of all where there are no more."""
        if count >= self.size:
            return self
        wanted = self._indices()[:count]
        files = int(wanted[-1] // FILE) + 1
        return self._part(wanted, files)

    @property
    def names(self):
        """The file names that the records hold; where one has none, its file and place."""
        return self._contents[0]

    @property
    def labels(self):
        """int64 (size,), from 0; -1 for none. Reads every record once."""
        labels = self._contents[1]
        return np.where(labels < 0, labels, labels - self.first_label.find(self))

    def has_stored(self, label):
        """Whether a record has this label, as it is stored. Reads every record once."""
        return bool((self._contents[1] == label).any())

    @functools.cached_property
    def _contents(self):
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

    def subset(self, positions):
        """The split of some of the examples.

        A small one is read into memory once. A larger one is filtered out of the stream, which reads every record but
        decodes only these: TFRecord files have no index by which to find them.
        """
        names, _, indices, sizes = self._contents
        positions = np.asarray(positions)
        wanted = indices[positions]
        chosen = self._part(np.sort(wanted))
        if sizes[positions].sum() > IN_MEMORY:
            print(f"{len(wanted)} labelled records are filtered out of all {self.size} each epoch", file=sys.stderr)
            return chosen
        encoded = {
            int(key["index"]): self.parse(key["serialized"])["encoded"].numpy() for key in chosen.keys(shuffle=False)
        }
        values = [encoded[int(i)] for i in wanted]
        return Images([names[p] for p in positions], self.labels[positions], values, gifs=self.gifs)

    def name_of(self, index):
        """The file and place of the record of a key's `index`."""
        return f"{self.files[index // FILE]} record {index % FILE}"

    def without(self, names):
        """The split of all records but those of these names (`name_of`), in whatever folder they were then."""
        left_out = {_file_of(name) for name in names}
        indices = self._indices().tolist()
        kept = np.asarray([index for index in indices if _file_of(self.name_of(index)) not in left_out], "int64")
        left = self._part(kept)
        # What is left out may not even be read, to find the first label.
        self.first_label.splits = [left if split.files == self.files else split for split in self.first_label.splits]
        return left

    def _part(self, wanted, files=None):
        """The split of these indices, which lie in the first so many files."""
        files, counts, digests = self.files[:files], self.counts[:files], self.digests[:files]
        return Records(files, counts, self.parse, self.config, self.first_label, wanted, self.gifs, digests)

    def _indices(self):
        """int64 (size,): the indices of the split, ascending."""
        if self.wanted is not None:
            return self.wanted
        return np.concatenate([number * FILE + np.arange(count) for number, count in enumerate(self.counts)])

    def keys(self, start=0, seed=0, shuffle=True, batch=1, host=0, hosts=1):
        """The records in order: forever, in shuffled files and a shuffle buffer, or once through.

        The order is a function of the seed and the epoch. Starting in the middle of an epoch passes over the records
        before it unparsed.

        Shuffled, each of `hosts` hosts reads every `hosts`-th file only, from the `host`-th on, and its epochs are
        those of its own files; `start` counts the records of all hosts. `batch` is that of `Images.keys`: not needed.
        """
        import tensorflow as tf

        if len(self.files) < hosts:
            raise UserError(
                f"expected a file for each of {hosts} hosts, received {len(self.files)} in all: write more shards"
            )
        files = tf.constant(self.files)
        count = len(self.files[host::hosts])
        size = self.size if hosts == 1 else self._size_of(host, hosts)
        if not size:
            raise UserError(f"expected records for host {host} of {hosts}, received none in its files: write fewer shards")
        start = start // hosts

        def numbered(number, epoch):
            def key(place, record):
                return {"epoch": epoch, "index": number * FILE + place, "serialized": record}

            return tf.data.TFRecordDataset(files[number]).enumerate().map(key)

        def chosen(records):
            if self.wanted is None:
                return records
            places = tf.constant(self.wanted)

            def is_wanted(key):
                place = tf.searchsorted(places, key["index"][None])[0]
                return places[tf.minimum(place, len(self.wanted) - 1)] == key["index"]

            return records.filter(is_wanted)

        if not shuffle:
            zero = tf.constant(0, tf.int64)
            records = chosen(tf.data.Dataset.range(count).flat_map(lambda number: numbered(number, zero)))
            # Else a manifest that says more would have what fills up the last batch taken for examples.
            return records.apply(tf.data.experimental.assert_cardinality(size)).skip(start)

        first = start // size

        def one_epoch(epoch):
            # Of this graph: shuffle cannot combine a computed seed with a global seed of 0, and the order is to be a
            # function of ours alone.
            tf.random.set_seed(1)
            seeds = tf.cast(tf.stack([tf.constant(seed, tf.int64), epoch]), tf.int32)
            order = tf.data.Dataset.range(count).map(
                lambda i: tf.random.experimental.index_shuffle(i, seeds, count - 1) * hosts + host
            )
            records = order.interleave(
                lambda number: numbered(number, epoch),
                cycle_length=min(count, self.config.parallel_files),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            buffer = min(self.config.shuffle_buffer, size)
            records = chosen(records).shuffle(buffer, seed=seed * 2**20 + epoch, reshuffle_each_iteration=False)
            passed = tf.where(epoch == first, start % size, 0)
            return records.skip(tf.cast(passed, tf.int64))

        return tf.data.Dataset.range(first, np.iinfo("int64").max).flat_map(one_epoch)

    def _size_of(self, host, hosts):
        """How many of the records lie in every `hosts`-th file from the `host`-th on."""
        if self.wanted is None:
            return sum(self.counts[host::hosts])
        return int(np.sum(self.wanted // FILE % hosts == host))

    def loader(self):
        """A function for tf.data from a key to `(encoded, label)`."""
        import tensorflow as tf

        base = self.first_label.told or 0  # not known before any label was asked for: then none is wanted

        def load(key):
            record = self.parse(key["serialized"])
            label = record["label"]
            return record["encoded"], tf.where(label < 0, label, label - base)

        return load


def _file_of(name):
    """The name of a record without its folder, which has several spellings."""
    return name.rpartition("/")[2]

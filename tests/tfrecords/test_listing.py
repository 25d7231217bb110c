"""Names, labels and places of records, read without the images."""

from pathlib import Path

import pytest

from pf_keras.data import record_schema, shard_files
from pf_keras.errors import UserError
from tfrecords.listing import read_listing

FIELDS = dict(height=1, width=1, channels=3, colorspace="RGB", format="JPEG", filename="a.jpg")


def test_counts_and_listing_equal_what_tensorflow_reads(helpers, built):
    for split, paths in shard_files.split_files(str(built)).items():
        records = helpers.records(built, split)
        assert sum(shard_files.count_records(paths)) == len(records)
        for workers in (1, 2):
            names, labels, places = read_listing(paths, workers)
            assert names == [record["image/filename"].decode() for record in records]
            assert labels == [record["image/class/label"] for record in records]
            for record, (path, offset, length) in zip(records, places, strict=True):
                assert record["image/encoded"] in Path(path).read_bytes()[offset : offset + length]


@pytest.mark.parametrize("size", [0, 1, 200, 16_000, 17_000, 3_000_000])
def test_images_of_any_size_are_passed_over(tmp_path, size):
    import tensorflow as tf

    path = str(tmp_path / "train-00000-of-00001")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(record_schema.make_example(encoded=bytes(size), label=300, synset="s", text="t", **FIELDS))
        writer.write(record_schema.make_example(encoded=bytes(size), **FIELDS))
        writer.write(b"")
    assert read_listing([path], 1)[:2] == (["a.jpg", "a.jpg", ""], [300, -1, -1])


def test_a_record_that_is_not_an_example_is_named(tmp_path):
    import tensorflow as tf

    path = str(tmp_path / "train-00000-of-00001")
    damaged = bytearray(record_schema.make_example(encoded=b"x", **{**FIELDS, "filename": "a"}))
    damaged[damaged.index(b"image/filename") + 18] ^= 0x7F  # within the feature
    for other in (b"not an example", b"\x0a\x7f\x0a", bytes(damaged)):
        with tf.io.TFRecordWriter(path) as writer:
            writer.write(tf.train.Example().SerializeToString())
            writer.write(other)
        with pytest.raises(UserError, match="record 1 at byte 16 is not a tf.train.Example"):
            read_listing([path], 1)

"""The container: checksums and framing against TensorFlow's writer and reader, damage named by position."""

import os

import pytest

from tfrecords import records
from tfrecords.errors import UserError
from tfrecords.files import count_records


def test_tensorflow_reads_what_is_framed_and_writes_the_same(tmp_path):
    import tensorflow as tf

    data = [b"", b"a", os.urandom(63), os.urandom(64), os.urandom(10001)]
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_bytes(b"".join(piece for item in data for piece in records.frame(item)))
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for item in data:
            writer.write(item)
    assert ours.read_bytes() == theirs.read_bytes()
    assert list(tf.data.TFRecordDataset(str(ours)).as_numpy_iterator()) == data
    assert count_records([str(ours), str(theirs)]) == [5, 5]


def test_truncated_and_foreign_files_are_named_with_the_position(tmp_path):
    path = tmp_path / "train-00000-of-00001"
    whole = b"".join(piece for item in (b"x" * 100, b"y" * 50) for piece in records.frame(item))
    for cut in (117, 120, 130, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"00000-of-00001: record 1 at byte 116: the file is truncated"):
            count_records([str(path)])
    path.write_bytes(b"\x89PNG and so on, nothing like a record")
    with pytest.raises(UserError, match="record 0 at byte 0: the checksum of its length does not match"):
        count_records([str(path)])
    path.write_bytes(b"")
    assert count_records([str(path)]) == [0]
    with pytest.raises(UserError, match="found none"):
        count_records([str(tmp_path / "absent")])

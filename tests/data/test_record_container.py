"""The container format: our framing against TensorFlow's writer and reader, and damaged records named by their position."""

import os
import re

import pytest

from pf_keras.data import record_container
from pf_keras.data.shard_files import count_records
from pf_keras.errors import UserError


def framed(*records):
    return b"".join(piece for record in records for piece in record_container.frame(record))


def test_framing_equals_tensorflows_writer_and_its_reader_reads_it(tmp_path):
    import tensorflow as tf

    records = [b"", b"a", os.urandom(63), os.urandom(64), os.urandom(10001)]
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_bytes(framed(*records))
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for record in records:
            writer.write(record)
    assert ours.read_bytes() == theirs.read_bytes()
    assert list(tf.data.TFRecordDataset(str(ours)).as_numpy_iterator()) == records
    assert count_records([str(ours), str(theirs)]) == [5, 5]


def test_errors_name_the_record_and_its_position(tmp_path):
    path = tmp_path / "train-00000-of-00001"
    whole = framed(b"x" * 100, b"y" * 50)
    for cut in (117, 120, 130, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"00000-of-00001: record 1 at byte 116: the file is truncated"):
            count_records([str(path)])
    path.write_bytes(b"\x89PNG and so on, nothing like a record")
    with pytest.raises(UserError, match="record 0 at byte 0: the checksum of its length does not match"):
        count_records([str(path)])
    path.write_bytes(b"")
    assert count_records([str(path)]) == [0]
    with pytest.raises(UserError, match="There is no TFRecord file .*absent"):
        count_records([str(tmp_path / "absent")])


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
def test_compressed_shards_are_an_error_that_says_so(tmp_path, compression):
    import tensorflow as tf

    path = str(tmp_path / "train-00000-of-00001")
    with tf.io.TFRecordWriter(path, compression) as writer:
        writer.write(b"a" * 100)
    with pytest.raises(UserError, match=f"^{re.escape(path)} is compressed with {compression}. Write it again without"):
        count_records([path])

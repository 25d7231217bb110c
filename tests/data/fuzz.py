"""Feeds mutated files to the functions that parse files of users.

    python -m tests.data.fuzz images 200000
    python -m tests.data.fuzz records 200000

Each input must decode, or raise TensorFlow's error for bad input. Anything else ends the process with a non-zero code.
"""

import os
import random
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from PIL import Image

from pf_keras.data import record_schema as schema
from pf_keras.data.decode import centre_window, decode_and_crop
from tests.data import images_made as made

SECONDS = 10  # the limit for one input
# UnicodeDecodeError: where the message of an error would quote bytes of the input that are not text.
BAD_INPUT = tf.errors.InvalidArgumentError, tf.errors.DataLossError, UnicodeDecodeError


def image_files():
    small = made.pixels(24, 32)
    return [
        made.encoded(small, "JPEG"),
        made.encoded(small, "JPEG", progressive=True),
        made.encoded(Image.fromarray(small).convert("CMYK"), "JPEG"),
        made.encoded(small, "PNG"),
        made.encoded(Image.fromarray(small).quantize(16), "PNG"),
        made.encoded(small.astype("uint16")[..., 0] * 257, "PNG"),
        made.animated_gif(3, (32, 24)),
        made.encoded(small, "BMP"),
        made.encoded(Image.fromarray(small).quantize(16), "BMP"),
    ]


def record_files():
    fields = {"height": 24, "width": 32, "channels": 3, "colorspace": "RGB", "format": "JPEG", "filename": "a.jpg"}
    content = made.encoded(made.pixels(24, 32), "JPEG")
    return [schema.make_example(encoded=content, label=label, **fields) for label in (None, 1, 1000)]


def mutate(data, chance):
    """`data` with some bytes changed, removed, repeated or cut off, mostly near the beginning, where headers are."""
    data = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 16])):
        if not data:
            break
        place = chance.randrange(min(len(data), chance.choice([32, 128, len(data)])))
        how = chance.randrange(6)
        if how <= 1:
            data[place] = chance.randrange(256)
        elif how == 2:
            data[place] ^= 1 << chance.randrange(8)
        elif how == 3:
            data[place : place + chance.randrange(1, 9)] = chance.choice([b"\xff", b"\x00", b"\x7f\xff", b"\x80\x00"])
        elif how == 4:
            data[place:place] = data[place : place + chance.randrange(1, 65)]
        else:
            del data[len(data) - chance.randrange(len(data)) :]
    return bytes(data)


def attempts(kind):
    """The files to mutate, and the graph function to feed."""
    if kind == "images":
        function = tf.function(
            lambda encoded: decode_and_crop(encoded, centre_window(1.0), 8), input_signature=[tf.TensorSpec((), tf.string)]
        )
        return image_files(), function
    function = tf.function(lambda record: schema.parse(record), input_signature=[tf.TensorSpec((), tf.string)])
    return record_files(), function


def main(kind, count, seed=0):
    files, function = attempts(kind)
    chance, decoded, slowest = random.Random(seed), 0, 0.0
    for file in files:
        if kind == "records":
            assert set(function(file)) == {"encoded", "label", "filename"}
    for number in range(count):
        mutated = mutate(chance.choice(files), chance)
        with open(os.environ.get("FUZZ_INPUT", os.devnull), "wb") as kept:  # keeps the input that crashes the process
            kept.write(mutated)
        began = tf.timestamp()
        try:
            result = function(mutated)
        except BAD_INPUT:
            continue
        finally:
            slowest = max(slowest, float(tf.timestamp() - began))
            assert slowest < SECONDS, f"input {number} took {slowest} s"
        decoded += 1
        if kind == "images":
            assert result.shape == (8, 8, 3) and result.dtype == np.uint8
    print(f"{count} inputs, {decoded} decoded, {count - decoded} refused, the slowest in {slowest * 1000:.0f} ms")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

"""Feeds mutated files to the functions that parse files of users.

    python -m tests.data.fuzz images 200000     JPEG, PNG, GIF and BMP in the input pipeline
    python -m tests.data.fuzz reader 100000     every format in the reader
    python -m tests.data.fuzz served 100000     JPEG, PNG and BMP in the graph of an export
    python -m tests.data.fuzz records 200000

Each input must decode, or raise the error for bad input. Anything else ends the process with a non-zero code.
"""

import importlib.util
import os
import random
import sys
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from PIL import Image, features

from pf_keras.data import record_schema as schema
from pf_keras.data.decode import centre_window, decode_and_crop
from pf_keras.data.reader import CorruptImage, decode, describe
from tests.data import images_made as made

SECONDS = 10  # of all cores together, the limit for one input
# UnicodeDecodeError: where the message of an error would quote bytes of the input that are not text.
BAD_INPUT = tf.errors.InvalidArgumentError, tf.errors.DataLossError, UnicodeDecodeError, CorruptImage


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


def turned_files():
    """Files with EXIF data."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    small = made.pixels(24, 32)
    return [made.encoded(small, kind, exif=exif.tobytes()) for kind in ("JPEG", "PNG", "WEBP")]


def other_files():
    """Files of the formats that TensorFlow does not read."""
    small = made.pixels(24, 32)
    image = Image.fromarray(small)
    opacity = np.concatenate([small, small[..., :1]], axis=-1)
    compressions = "raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"
    files = [made.encoded(small, "TIFF", compression=compression) for compression in compressions]
    files += [
        made.encoded(small.astype("uint16")[..., 0] * 257, "TIFF"),
        made.encoded(small, "TIFF", big_tiff=True),
        made.encoded(image.convert("1"), "TIFF", compression="group4"),
        made.encoded(image.convert("CMYK"), "TIFF", compression="tiff_lzw"),
        made.encoded(opacity, "TIFF"),
        made.encoded(image.quantize(16), "TIFF", save_all=True, append_images=[image]),
        made.encoded(small, "WEBP"),
        made.encoded(small, "WEBP", lossless=True),
        made.encoded(opacity, "WEBP", save_all=True, append_images=[Image.fromarray(opacity[::-1])]),
        made.encoded(small, "PPM"),
        b"P3\n4 3\n255\n" + b"12 200 7 " * 12,
        b"P5\n4 3\n65535\n" + bytes(range(24)),
        made.encoded(image.convert("1"), "PPM"),
        made.encoded(image.convert("1"), "BMP"),
        made.encoded(opacity, "PNG"),
        made.encoded(small, "PNG", transparency=(1, 2, 3)),
    ]
    if features.check("avif"):
        files += [made.encoded(pixels, "AVIF", speed=10) for pixels in (small, opacity)]
    if importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
        files.append(made.encoded(small, "HEIF"))
    return files


def bombs():
    webp = made.webp_bomb, made.lossless_webp_bomb, made.extended_webp_bomb
    return [make() for make in (made.tiff_bomb, made.tile_bomb, *webp, made.png_bomb)]


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
    """The files to mutate, and the function to feed."""
    if kind == "reader":

        def read(encoded):
            describe(encoded)
            return decode(encoded)

        return [*image_files(), *turned_files(), *other_files(), *bombs()], read
    if kind in ("images", "served"):
        signature, python = [tf.TensorSpec((), tf.string)], kind == "images"
        function = tf.function(
            lambda encoded: decode_and_crop(encoded, centre_window(1.0), 8, python=python), input_signature=signature
        )
        return [*image_files(), *turned_files(), *([] if python else other_files())], function
    function = tf.function(lambda record: schema.parse(record), input_signature=[tf.TensorSpec((), tf.string)])
    return record_files(), function


def main(kind, count, seed=0):
    warnings.simplefilter("ignore")  # Pillow's on damaged metadata
    files, function = attempts(kind)
    chance, decoded, slowest = random.Random(seed), 0, 0.0
    for file in files:
        if kind == "records":
            assert set(function(file)) == {"encoded", "label", "filename"}
    for number in range(count):
        mutated = mutate(chance.choice(files), chance)
        with open(os.environ.get("FUZZ_INPUT", os.devnull), "wb") as kept:  # keeps the input that crashes the process
            kept.write(mutated)
        began = time.process_time()
        try:
            result = function(mutated)
        except BAD_INPUT:
            continue
        finally:
            slowest = max(slowest, time.process_time() - began)
            assert slowest < SECONDS, f"input {number} took {slowest} s"
        decoded += 1
        if kind != "records":
            assert kind == "reader" or result.shape == (8, 8, 3)
            assert result.dtype == np.uint8 and result.shape[2:] == (3,)
    print(f"{count} inputs, {decoded} decoded, {count - decoded} refused, the slowest in {slowest * 1000:.0f} ms")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

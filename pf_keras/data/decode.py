"""Encoded bytes to a cropped uint8 image, inside tf.data."""

import contextlib
import math
import struct

import numpy as np
import tensorflow as tf

from tfrecords.images import MAX_PIXELS

# Uniform numbers that a training crop takes: area, aspect ratio, place, mirror.
CROP_NOISE = 5


def decode_and_crop(encoded, window, size, gif=True):
    """Decode an image of any size and cut it to a window.

    encoded: scalar string, a JPEG, PNG, GIF (its first frame) or BMP of 24 bits; grey and CMYK become RGB.
    window: a function of `(height, width)`, int32, to `(top, left, height, width)`, int32, inside the image.
    gif: whether GIFs are read. Their frames are counted in Python, which an exported graph has not, nor a TPU's own host.
    Returns uint8 (size, size, 3), resized by bilinear interpolation. Raises InvalidArgumentError for other bytes and
    for more than `MAX_PIXELS`.
    """

    def jpeg():  # only the rows of the window are decoded
        height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(encoded))
        with tf.control_dependencies([_check_size(_product(height, width))]):
            # The accurate transform is no slower than the default one, whose pixels are off by up to 10 of 255.
            box = tf.stack(window(height, width))
            return tf.image.decode_and_crop_jpeg(encoded, box, channels=3, dct_method="INTEGER_ACCURATE")

    def other():
        with tf.control_dependencies([_check_size(_declared_pixels(encoded, gif), gif)]):
            image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        shape = tf.shape(image)
        top, left, height, width = window(shape[0], shape[1])
        return image[top : top + height, left : left + width]

    image = tf.cond(tf.io.is_jpeg(encoded), jpeg, other)
    return resize(tf.ensure_shape(image, (None, None, 3)), size)


def resize(images, size):
    """uint8 (..., H, W, 3) -> uint8 (..., size, size, 3), by bilinear interpolation; halves go up."""
    images = tf.image.resize(images, (size, size), method="bilinear")
    return tf.cast(images + 0.5, tf.uint8)  # bilinear values lie between those of the pixels: none to clip


def _product(height, width):
    return tf.cast(height, tf.int64) * tf.cast(width, tf.int64)


def _check_size(pixels, gif=True):
    kinds = "JPEG, PNG, GIF or 24-bit BMP" if gif else "JPEG, PNG or 24-bit BMP"
    return tf.debugging.Assert(
        tf.logical_and(pixels > 0, pixels <= MAX_PIXELS),
        [f"expected a {kinds} of 1 to", MAX_PIXELS, "pixels; by its header this one has", pixels],
    )


# Where the numbers stand in the headers that are read below: offset, bytes, order.
PNG_WIDTH, PNG_HEIGHT = (16, 4, "big"), (20, 4, "big")
BMP_WIDTH, BMP_HEIGHT, BMP_BITS, BMP_PACKING = ((o, n, "little") for o, n in ((18, 4), (22, 4), (28, 2), (30, 4)))
HEADER = 54  # bytes, of a BMP; a PNG's is shorter


def _declared_pixels(encoded, gif):
    """The pixels that the header of a PNG, BMP or, if asked for, GIF declares; int64, 0 for what is none of them.

    As one product with a matrix: every JPEG passes the graph of this too, and each operation costs it.
    """
    places = (PNG_WIDTH, PNG_HEIGHT, BMP_WIDTH, BMP_HEIGHT, BMP_BITS, BMP_PACKING)
    weights = np.zeros((len(places), HEADER))
    for row, (offset, size, order) in zip(weights, places, strict=True):
        powers = 256.0 ** np.arange(size)
        row[offset : offset + size] = powers if order == "little" else powers[::-1]
    header = tf.strings.substr(tf.strings.join([tf.strings.substr(encoded, 0, HEADER), b"\x00" * HEADER]), 0, HEADER)
    numbers = tf.linalg.matvec(weights, tf.cast(tf.io.decode_raw(header, tf.uint8), tf.float64))
    png_width, png_height, bmp_width, bmp_height, bits, packing = tf.unstack(numbers)
    bmp_height = tf.minimum(bmp_height, 2.0**32 - bmp_height)  # a negative one: the rows stand from top to bottom

    def is_a(magic):
        return tf.equal(tf.strings.substr(header, 0, len(magic)), magic)

    # Of BMPs that are packed or have a palette TensorFlow reads the palette's numbers for grey, or nothing.
    is_bmp = tf.reduce_all([is_a(b"BM"), tf.equal(bits, 24), tf.equal(packing, 0)])
    pixels = tf.where(is_a(b"\x89PNG\r\n\x1a\n"), png_width * png_height, 0.0)
    pixels = tf.where(is_bmp, bmp_width * bmp_height, pixels)
    pixels = tf.cast(tf.minimum(pixels, MAX_PIXELS + 1.0), tf.int64)
    if not gif:
        return pixels

    def count():
        return tf.ensure_shape(tf.numpy_function(_gif_pixels, [encoded], tf.int64, stateful=False), ())

    return tf.cond(is_a(b"GIF8"), count, lambda: pixels)


def _gif_pixels(encoded):
    """The pixels of all frames of a GIF: TensorFlow decodes them all, and keeps the first. int64; 0 where damaged."""
    data, pixels = encoded if isinstance(encoded, bytes) else encoded.item(), 0

    def table(flags):
        return 3 * 2 ** (1 + flags % 8) if flags >= 128 else 0

    with contextlib.suppress(struct.error, IndexError):  # it ends early: the decoder says so, if it matters
        pixels = math.prod(struct.unpack_from("<HH", data, 6))
        position = 13 + table(data[10])
        while data[position] != 0x3B:
            if data[position] == 0x2C:
                width, height, flags = struct.unpack_from("<HHB", data, position + 5)
                pixels += width * height
                position += 11 + table(flags)
            else:
                position += 2
            while data[position]:
                position += 1 + data[position]
            position += 1
    return np.int64(pixels)


def random_window(noise, scale, ratio):
    """A window of random area and aspect ratio at a random place (Inception's crop), for `decode_and_crop`.

    noise: float32 (CROP_NOISE,), uniform in [0, 1). scale: (low, high) share of the area; ratio: (low, high) width
    over height, drawn evenly on a logarithmic scale. A side that would not fit is cut to the image's.
    """

    def window(height, width):
        full_height, full_width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
        area = (scale[0] + noise[0] * (scale[1] - scale[0])) * full_height * full_width
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect = tf.exp(low + noise[1] * (high - low))
        crop_height = tf.cast(tf.clip_by_value(tf.round(tf.sqrt(area / aspect)), 1.0, full_height), tf.int32)
        crop_width = tf.cast(tf.clip_by_value(tf.round(tf.sqrt(area * aspect)), 1.0, full_width), tf.int32)
        top = tf.cast(noise[2] * tf.cast(height - crop_height + 1, tf.float32), tf.int32)
        left = tf.cast(noise[3] * tf.cast(width - crop_width + 1, tf.float32), tf.int32)
        # A float32 product can round up to the excluded end of its range.
        return tf.minimum(top, height - crop_height), tf.minimum(left, width - crop_width), crop_height, crop_width

    return window


def centre_window(share):
    """The central square whose side is `share` of the shorter side, for `decode_and_crop`."""

    def window(height, width):
        side = tf.cast(tf.minimum(height, width), tf.float32) * share
        side = tf.maximum(tf.cast(tf.round(side), tf.int32), 1)
        return (height - side) // 2, (width - side) // 2, side, side

    return window

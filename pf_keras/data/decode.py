"""From encoded bytes to a cropped uint8 image, inside tf.data."""

import contextlib
import math
import struct
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from pf_keras.data.formats import MAX_PIXELS
from pf_keras.noise import CROP

# A function from int32 (height, width) to int32 (top, left, height, width), a window inside the image.
Window = Callable[[object, object], tuple]


def decode_and_crop(encoded, window: Window, size: int, gif: bool = True):
    """Decode an image of any size and crop it.

    Args:
        encoded: scalar string: a JPEG, PNG, GIF (its first frame is used) or 24-bit BMP. Grey and CMYK become RGB.
        window: where to crop.
        size: of the result, in pixels a side.
        gif: whether GIFs are read. Python code counts their frames, which neither an exported graph nor the host of a TPU can
            run.

    Returns:
        uint8 (size, size, 3), resized by bilinear interpolation.

    Raises:
        InvalidArgumentError: for other bytes, and for images of more than `MAX_PIXELS`.
    """

    def jpeg():  # decodes only the rows of the window
        height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(encoded))
        with tf.control_dependencies([_check_size(tf.cast(height, tf.int64) * tf.cast(width, tf.int64))]):
            # The accurate transform is as fast as the default one, whose pixels differ by up to 10 of 255.
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


def resize(images, size: int):
    """Resize by bilinear interpolation, rounding halves up: uint8 (..., H, W, 3) -> uint8 (..., size, size, 3)."""
    images = tf.image.resize(images, (size, size), method="bilinear")
    return tf.cast(images + 0.5, tf.uint8)  # needs no clipping: interpolation stays between the pixels' values


def _check_size(pixels, gif=True):
    kinds = "JPEG, PNG, GIF or 24-bit BMP" if gif else "JPEG, PNG or 24-bit BMP"
    return tf.debugging.Assert(
        tf.logical_and(pixels > 0, pixels <= MAX_PIXELS),
        [f"not a {kinds} of 1 to", MAX_PIXELS, "pixels; its header declares", pixels],
    )


# Offset, bytes and order of a PNG's width and height and of a BMP's width, height, bits and packing in the headers read below.
PLACES = (16, 4, "big"), (20, 4, "big"), (18, 4, "little"), (22, 4, "little"), (28, 2, "little"), (30, 4, "little")
HEADER = 54  # bytes of a BMP's header; a PNG's is shorter


def _declared_pixels(encoded, gif):
    """The pixels that the header of a PNG, BMP or (with `gif`) GIF declares: int64, 0 for other bytes.

    All numbers of the header come from one product with a matrix, because every JPEG pays for the operations of this graph.
    """
    weights = np.zeros((len(PLACES), HEADER))
    for row, (offset, size, order) in zip(weights, PLACES, strict=True):
        powers = 256.0 ** np.arange(size)
        row[offset : offset + size] = powers if order == "little" else powers[::-1]
    header = tf.strings.substr(tf.strings.join([tf.strings.substr(encoded, 0, HEADER), b"\x00" * HEADER]), 0, HEADER)
    numbers = tf.linalg.matvec(weights, tf.cast(tf.io.decode_raw(header, tf.uint8), tf.float64))
    png_width, png_height, bmp_width, bmp_height, bits, packing = tf.unstack(numbers)
    bmp_height = tf.minimum(bmp_height, 2.0**32 - bmp_height)  # negative where rows are stored from top to bottom

    def is_a(magic):
        return tf.equal(tf.strings.substr(header, 0, len(magic)), magic)

    # TensorFlow misreads packed BMPs and takes the palette's indices for grey values.
    is_bmp = tf.reduce_all([is_a(b"BM"), tf.equal(bits, 24), tf.equal(packing, 0)])
    pixels = tf.where(is_a(b"\x89PNG\r\n\x1a\n"), png_width * png_height, 0.0)
    pixels = tf.where(is_bmp, bmp_width * bmp_height, pixels)
    pixels = tf.cast(tf.minimum(pixels, MAX_PIXELS + 1.0), tf.int64)
    if not gif:
        return pixels

    def count():
        return tf.ensure_shape(tf.numpy_function(_gif_pixels, [encoded], tf.int64, stateful=False), ())

    return tf.cond(is_a(b"GIF8"), count, lambda: pixels)


def _gif_pixels(encoded: bytes | np.ndarray) -> np.int64:
    """The pixels of all frames of a GIF, because TensorFlow decodes them all. 0 for a damaged one."""
    data, pixels = encoded if isinstance(encoded, bytes) else encoded.item(), 0

    def table(flags):
        return 3 * 2 ** (1 + flags % 8) if flags >= 128 else 0

    with contextlib.suppress(struct.error, IndexError):  # it ends early; the decoder reports that if it matters
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


def random_window(noise, scale: Sequence[float], ratio: Sequence[float]) -> Window:
    """A window of random area and aspect ratio at a random place (Inception's crop).

    Args:
        noise: float32 (K,), uniform in [0, 1), K >= len(CROP).
        scale: (low, high), the fraction of the image's area.
        ratio: (low, high), width over height, uniform on a logarithmic scale. A side that does not fit is cut to the image's.
    """
    draw = {name: noise[i] for i, name in enumerate(CROP)}

    def window(height, width):
        full_height, full_width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
        area = (scale[0] + draw["area"] * (scale[1] - scale[0])) * full_height * full_width
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect = tf.exp(low + draw["aspect_ratio"] * (high - low))
        crop_height = tf.cast(tf.clip_by_value(tf.round(tf.sqrt(area / aspect)), 1.0, full_height), tf.int32)
        crop_width = tf.cast(tf.clip_by_value(tf.round(tf.sqrt(area * aspect)), 1.0, full_width), tf.int32)
        top = tf.cast(draw["top"] * tf.cast(height - crop_height + 1, tf.float32), tf.int32)
        left = tf.cast(draw["left"] * tf.cast(width - crop_width + 1, tf.float32), tf.int32)
        # A float32 product can round up to the excluded end of its range.
        return tf.minimum(top, height - crop_height), tf.minimum(left, width - crop_width), crop_height, crop_width

    return window


def centre_window(fraction: float) -> Window:
    """The central square whose side is a fraction of the shorter side."""

    def window(height, width):
        side = tf.cast(tf.minimum(height, width), tf.float32) * fraction
        side = tf.maximum(tf.cast(tf.round(side), tf.int32), 1)
        return (height - side) // 2, (width - side) // 2, side, side

    return window

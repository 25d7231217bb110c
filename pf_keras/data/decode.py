"""Encoded bytes to a cropped uint8 image, inside tf.data."""

import math

import tensorflow as tf

# Uniform numbers that a training crop takes: area, aspect ratio, place, mirror.
CROP_NOISE = 5


def decode_and_crop(encoded, window, size):
    """Decode an image of any size and cut it to a window.

    encoded: scalar string, a JPEG, PNG, GIF (its first frame) or BMP; grey and CMYK become RGB.
    window: a function of `(height, width)`, int32, to `(top, left, height, width)`, int32, inside the image.
    Returns uint8 (size, size, 3), resized by bilinear interpolation. Raises InvalidArgumentError for other bytes.
    """

    def jpeg():  # only the rows of the window are decoded
        height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(encoded))
        return tf.image.decode_and_crop_jpeg(encoded, tf.stack(window(height, width)), channels=3)

    def other():
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        shape = tf.shape(image)
        top, left, height, width = window(shape[0], shape[1])
        return image[top : top + height, left : left + width]

    image = tf.cond(tf.io.is_jpeg(encoded), jpeg, other)
    image = tf.image.resize(tf.ensure_shape(image, (None, None, 3)), (size, size), method="bilinear")
    return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)


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

"""Strong augmentation of whole images in fine-tuning: rotation, shear and colour. The paper uses none of it."""

import math

import tensorflow as tf

from pf_keras.noise import STRONG

# At a strength of 1. torchvision's RandAugment turns and shears as far; the colours are SimCLR's at half of its strength.
ROTATION, SHEAR = math.pi / 6, 0.3
BRIGHTNESS, CONTRAST, SATURATION, HUE, GREY = 0.4, 0.4, 0.4, 0.1, 0.2


def augment_strongly(image, noise, strength: float):
    """Rotate and shear an image, then change its brightness, contrast, saturation and hue, and make some images grey.

    Each change is uniform between its two extremes, which grow in proportion to the strength. Beyond its edge an image goes on
    as in a mirror.

    Args:
        image: uint8 (S, S, 3).
        noise: float32 (len(STRONG),), uniform in [0, 1).
        strength: in (0, 1].

    Returns:
        uint8 (S, S, 3).
    """
    draw = dict(zip(STRONG, tf.unstack(2 * noise - 1), strict=True))  # in [-1, 1)
    image = _move(tf.cast(image, tf.float32), *(draw[name] * strength for name in ("rotation", "shear_x", "shear_y")))
    image = tf.clip_by_value(image / 255.0, 0.0, 1.0)
    image = tf.image.adjust_brightness(image, draw["brightness"] * BRIGHTNESS * strength)
    image = tf.image.adjust_contrast(image, 1 + draw["contrast"] * CONTRAST * strength)
    image = tf.clip_by_value(image, 0.0, 1.0)  # hue and saturation are defined there only
    image = tf.image.adjust_saturation(image, 1 + draw["saturation"] * SATURATION * strength)
    image = tf.image.adjust_hue(image, draw["hue"] * HUE * strength)
    grey = (draw["grey"] + 1) / 2 < GREY * strength
    image = tf.cond(grey, lambda: tf.tile(tf.image.rgb_to_grayscale(image), (1, 1, 3)), lambda: image)
    return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 1.0) * 255.0), tf.uint8)


def _move(image, rotation, shear_x, shear_y):
    """A float32 image (S, S, 3), rotated and sheared about its centre by fractions of the largest angle and shear."""
    side = image.shape[0]
    cosine, sine = tf.cos(rotation * ROTATION), tf.sin(rotation * ROTATION)
    x, y = shear_x * SHEAR, shear_y * SHEAR
    # Where a pixel (column, row) of the result comes from: rotation times shear.
    a, b, c, d = cosine - sine * y, cosine * x - sine, sine + cosine * y, sine * x + cosine
    centre = (side - 1) / 2
    matrix = tf.stack([a, b, centre * (1 - a - b), c, d, centre * (1 - c - d), 0.0, 0.0])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None], transforms=matrix[None], output_shape=(side, side), fill_value=0.0,
        interpolation="BILINEAR", fill_mode="REFLECT",
    )[0]  # fmt: skip

"""Augmentation of patches on the device, as a pure function of patches and uniform noise (paper, caption of Figure 1).

The order is jitter, flip, colour (brightness, hue and saturation, contrast), bit depth, grey blending, and scaling
to [-1, 1]. docs/paper.md explains each part.
"""

import math

import numpy as np
from keras import ops

from pf_keras.config import AugmentConfig

# The last axis of the noise: a patch has one uniform number in [0, 1) for each of these, in this order.
NOISE = (
    "jitter_row",
    "jitter_column",
    "flip",
    "flip_axis",
    "brightness",
    "hue",
    "saturation",
    "contrast",
    "bit_depth",
    "grey",
    "grey_weight",
)

# NTSC's luminance Y and chroma I, Q. In the plane of I and Q, hue is an angle and saturation a radius.
RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def scale_pixels(pixels):
    """Scale uint8 pixels to float32 in [-1, 1], the input of the patch encoder."""
    return ops.cast(pixels, "float32") / 127.5 - 1.0


def augment_patches(patches, noise, config: AugmentConfig):
    """Augment each patch independently and scale it to [-1, 1].

    Args:
        patches: uint8 `(B, V, p, p, 3)`.
        noise: float32 `(B, V, len(NOISE))`, uniform in [0, 1). With `config.per_image`, all patches of an image use
            the noise of its first patch. Not used, and may be None, if `config.enabled` is false.
        config: which parts to apply, and how strongly.

    Returns:
        float32 `(B, V, p, p, 3)`.
    """
    if not config.enabled:
        return scale_pixels(patches)
    if config.per_image:
        noise = ops.repeat(noise[:, :1], noise.shape[1], axis=1)
    draw = {name: noise[..., i] for i, name in enumerate(NOISE)}  # each (B, V)

    pixels = move_pixels(ops.cast(patches, "float32"), draw, config.jitter_size, config.flip_probability)
    pixels = adjust_colour(
        pixels / 255.0,
        brightness=config.brightness * (2 * draw["brightness"] - 1),
        hue=config.hue * (2 * draw["hue"] - 1),
        saturation=1 + config.saturation * (2 * draw["saturation"] - 1),
        contrast=1 + config.contrast * (2 * draw["contrast"] - 1),
    )
    depths = 9 - config.min_bit_depth
    pixels = reduce_bit_depth(pixels, config.min_bit_depth + ops.floor(depths * draw["bit_depth"]))
    weight = ops.where(draw["grey"] < config.grey_probability, draw["grey_weight"], 0.0)
    return blend_grey(pixels, weight) * 2.0 - 1.0


def move_pixels(pixels, draw: dict, jitter_size: int, flip_probability: float):
    """Jitter and flip patches. Every output pixel is a pixel of the same patch.

    Jitter takes a random square sub-crop and pads it to the size of the patch by repeating its edge. A black frame
    would only occur in pre-training.

    Args:
        pixels: float32 `(B, V, p, p, 3)`.
        draw: the noise `jitter_row`, `jitter_column`, `flip` and `flip_axis` by name, each `(B, V)`.
        jitter_size: pixels on each side of the sub-crop. 0 is off.
        flip_probability: probability of a flip. Half of the flips are horizontal, half vertical.

    Returns:
        float32 `(B, V, p, p, 3)`.
    """
    side = pixels.shape[2]
    flip = draw["flip"] < flip_probability
    horizontal = draw["flip_axis"] < 0.5
    rows = _source_index(side, jitter_size, draw["jitter_row"], ops.logical_and(flip, ops.logical_not(horizontal)))
    columns = _source_index(side, jitter_size, draw["jitter_column"], ops.logical_and(flip, horizontal))
    # Products with matrices of zeros and ones are faster on a TPU than a gather. They are exact for integers up to 255,
    # even if the matrix unit rounds its inputs to bfloat16.
    pixels = ops.einsum("bvij,bvjkc->bvikc", ops.one_hot(rows, side, dtype="float32"), pixels)
    return ops.einsum("bvij,bvkjc->bvkic", ops.one_hot(columns, side, dtype="float32"), pixels)


def _source_index(side, jitter_size, offset, flip):
    """The row (or column) of the patch from which each row of the result is copied: int32 `(B, V, side)`."""
    size = jitter_size or side
    before = (side - size) // 2
    place = ops.clip(ops.arange(side, dtype="int32") - before, 0, size - 1)
    place = ops.where(flip[..., None], size - 1 - place, place)
    return place + ops.cast(ops.floor(offset * (side - size + 1)), "int32")[..., None]


def adjust_colour(pixels, brightness, hue, saturation, contrast):
    """Inception's colour noise, clipped to [0, 1]. Contrast scales each channel about its mean over the patch.

    Args:
        pixels: float32 `(B, V, p, p, 3)` in [0, 1].
        brightness: what is added to each pixel, `(B, V)`.
        hue: rotation in turns, `(B, V)`.
        saturation: factor, `(B, V)`.
        contrast: factor, `(B, V)`.

    Returns:
        float32 `(B, V, p, p, 3)` in [0, 1].
    """
    pixels = pixels + brightness[:, :, None, None, None]
    pixels = ops.einsum("bvijc,bvdc->bvijd", pixels, _hue_saturation_matrix(hue, saturation))
    mean = ops.mean(pixels, axis=(2, 3), keepdims=True)
    pixels = (pixels - mean) * contrast[:, :, None, None, None] + mean
    return ops.clip(pixels, 0.0, 1.0)


def _hue_saturation_matrix(hue, saturation):
    """Matrices `(B, V, 3, 3)` of RGB colours that rotate and scale the chroma of YIQ and keep the luminance."""
    to_rgb = np.linalg.inv(RGB_TO_YIQ)
    keep, scale, turn = (
        (to_rgb @ np.array(chroma, "float64") @ RGB_TO_YIQ).astype("float32")
        for chroma in (
            [[1, 0, 0], [0, 0, 0], [0, 0, 0]],
            [[0, 0, 0], [0, 1, 0], [0, 0, 1]],
            [[0, 0, 0], [0, 0, -1], [0, 1, 0]],
        )
    )
    angle = 2 * math.pi * hue
    cosine = (saturation * ops.cos(angle))[..., None, None]
    sine = (saturation * ops.sin(angle))[..., None, None]
    return keep + cosine * scale + sine * turn


def reduce_bit_depth(pixels, bits):
    """Keep the most significant of a pixel's 8 bits, and spread the levels over the full range again.

    Args:
        pixels: float32 `(B, V, p, p, 3)` in [0, 1].
        bits: how many bits to keep, float32 `(B, V)` with integers 1..8.

    Returns:
        float32 `(B, V, p, p, 3)` in [0, 1].
    """
    bits = bits[:, :, None, None, None]
    levels = ops.power(2.0, bits)
    kept = ops.floor(ops.floor(pixels * 255.0 + 0.5) * levels / 256.0)
    return kept / (levels - 1.0)


def blend_grey(pixels, weight):
    """Blend pixels `(B, V, p, p, 3)` with their luminance by a weight `(B, V)`: 0 keeps them, 1 makes them grey."""
    luminance = ops.sum(pixels * RGB_TO_YIQ[0].astype("float32"), axis=-1, keepdims=True)
    weight = weight[:, :, None, None, None]
    return pixels * (1.0 - weight) + luminance * weight

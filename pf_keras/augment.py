"""Augmentation of patches on the device: a pure function of patches and uniform noise (paper, caption of Figure 1).

The order is fixed: jitter, flip, colour (brightness, hue and saturation, contrast), bit depth, grey blending, then
scaling to [-1, 1]. `docs/paper.md` says why each part is as it is.
"""

import math

import numpy as np
from keras import ops

# One uniform number in [0, 1) a patch for each of these, in this order, along the last axis of the noise.
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

# NTSC: the luminance Y and two chroma axes I, Q, in which hue is an angle and saturation a radius.
RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def scale_pixels(pixels):
    """uint8 pixels 0..255 to float32 in [-1, 1]: what the patch encoder is fed."""
    return ops.cast(pixels, "float32") / 127.5 - 1.0


def augment_patches(patches, noise, config):
    """Augment each patch on its own and scale it to [-1, 1].

    patches: uint8 (B, V, p, p, 3).
    noise: float32 (B, V, len(NOISE)), uniform in [0, 1); with `config.per_image` the first patch's serves all.
    config: an `AugmentConfig`.
    Returns float32 (B, V, p, p, 3).
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


def move_pixels(pixels, draw, jitter_size, flip_probability):
    """Jitter and flip: every output pixel is one input pixel of the same patch.

    Jitter takes a random `jitter_size` square sub-crop and pads it back to the patch's size by repeating its edge, so
    that no frame appears which the network would not meet later. A patch is flipped with `flip_probability`,
    horizontally or vertically.

    pixels: float32 (B, V, p, p, 3); draw: `jitter_row`, `jitter_column`, `flip`, `flip_axis`, each (B, V).
    """
    side = pixels.shape[2]
    flip = draw["flip"] < flip_probability
    horizontal = draw["flip_axis"] < 0.5
    rows = _source_index(side, jitter_size, draw["jitter_row"], ops.logical_and(flip, ops.logical_not(horizontal)))
    columns = _source_index(side, jitter_size, draw["jitter_column"], ops.logical_and(flip, horizontal))
    # Matrices of zeros and ones instead of a gather: static, and fast on a TPU. Exact for whole numbers up to 255
    # even where the matrix unit rounds its inputs to bfloat16.
    pixels = ops.einsum("bvij,bvjkc->bvikc", ops.one_hot(rows, side, dtype="float32"), pixels)
    return ops.einsum("bvij,bvkjc->bvkic", ops.one_hot(columns, side, dtype="float32"), pixels)


def _source_index(side, jitter_size, offset, flip):
    """Which row (or column) of the patch each row of the result is taken from: int32 (B, V, side)."""
    size = jitter_size or side
    before = (side - size) // 2
    place = ops.clip(ops.arange(side, dtype="int32") - before, 0, size - 1)
    place = ops.where(flip[..., None], size - 1 - place, place)
    return place + ops.cast(ops.floor(offset * (side - size + 1)), "int32")[..., None]


def adjust_colour(pixels, brightness, hue, saturation, contrast):
    """Inception's colour noise: shift, rotate hue and scale saturation, scale about the mean, clip to [0, 1].

    pixels: float32 (B, V, p, p, 3) in [0, 1].
    brightness: what is added; hue: in turns; saturation, contrast: factors. Each (B, V).
    """
    pixels = pixels + brightness[:, :, None, None, None]
    pixels = ops.einsum("bvijc,bvdc->bvijd", pixels, _hue_saturation_matrix(hue, saturation))
    mean = ops.mean(pixels, axis=(2, 3), keepdims=True)
    pixels = (pixels - mean) * contrast[:, :, None, None, None] + mean
    return ops.clip(pixels, 0.0, 1.0)


def _hue_saturation_matrix(hue, saturation):
    """(B, V, 3, 3) matrices that rotate and scale chroma in YIQ and leave luminance alone."""
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
    """Keep the `bits` most significant of the 8 bits of each pixel, spread over the whole range again.

    pixels: float32 (B, V, p, p, 3) in [0, 1]; bits: whole numbers 1..8 as float32, (B, V).
    """
    bits = bits[:, :, None, None, None]
    levels = ops.power(2.0, bits)
    kept = ops.floor(ops.floor(pixels * 255.0 + 0.5) * levels / 256.0)
    return kept / (levels - 1.0)


def blend_grey(pixels, weight):
    """Mix each pixel with its luminance: 0 leaves it, 1 makes it grey. pixels (B, V, p, p, 3), weight (B, V)."""
    luminance = ops.sum(pixels * RGB_TO_YIQ[0].astype("float32"), axis=-1, keepdims=True)
    weight = weight[:, :, None, None, None]
    return pixels * (1.0 - weight) + luminance * weight

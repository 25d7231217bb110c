"""Every part of the augmentation against a float64 reference, patch by patch and pixel by pixel."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from tiny import compiled

from pf_keras.config import AugmentConfig
from pf_keras.patches.augment import NOISE, adjust_colour, augment_patches, blend_grey, move_pixels, reduce_bit_depth

YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
OFF = AugmentConfig(
    jitter_size=0,
    flip_probability=0.0,
    brightness=0.0,
    hue=0.0,
    saturation=0.0,
    contrast=0.0,
    min_bit_depth=8,
    grey_probability=0.0,
)


def reference_move(patch, draw, size, probability):
    side = len(patch)
    size = size or side
    top, left = (int(draw[name] * (side - size + 1)) for name in ("jitter_row", "jitter_column"))
    crop = patch[top : top + size, left : left + size]
    if draw["flip"] < probability:
        crop = crop[:, ::-1] if draw["flip_axis"] < 0.5 else crop[::-1]
    before = (side - size) // 2
    after = side - size - before
    return np.pad(crop, ((before, after), (before, after), (0, 0)), mode="edge")


def reference_colour(pixels, brightness, hue, saturation, contrast):
    """pixels (p, p, 3) in [0, 1]; hue in radians."""
    result = np.zeros(pixels.shape)
    for row in range(len(pixels)):
        for column in range(len(pixels)):
            y, i, q = YIQ @ (pixels[row, column] + brightness)
            turned = saturation * (i * math.cos(hue) - q * math.sin(hue))
            q = saturation * (i * math.sin(hue) + q * math.cos(hue))
            result[row, column] = np.linalg.solve(YIQ, [y, turned, q])
    mean = [result[:, :, channel].mean() for channel in range(3)]
    return np.clip((result - mean) * contrast + mean, 0, 1)


def reference_bit_depth(pixels, bits):
    whole = np.floor(pixels * 255 + 0.5).astype(int)
    return (whole >> (8 - bits)) / (2**bits - 1)


def reference_grey(pixels, weight):
    result = np.zeros(pixels.shape)
    for row in range(len(pixels)):
        for column in range(len(pixels)):
            red, green, blue = pixels[row, column]
            grey = 0.299 * red + 0.587 * green + 0.114 * blue
            result[row, column] = (1 - weight) * pixels[row, column] + weight * grey
    return result


def reference(patch, draw, config):
    """Augment one patch with all parts, in the order of the paper's list."""
    pixels = reference_move(patch, draw, config.jitter_size, config.flip_probability) / 255.0
    span = lambda name: getattr(config, name) * (2 * draw[name] - 1)  # noqa: E731
    pixels = reference_colour(
        pixels, span("brightness"), 2 * math.pi * span("hue"), 1 + span("saturation"), 1 + span("contrast")
    )
    lowest = config.min_bit_depth
    pixels = reference_bit_depth(pixels, lowest + int((9 - lowest) * draw["bit_depth"]))
    if draw["grey"] < config.grey_probability:
        pixels = reference_grey(pixels, draw["grey_weight"])
    return 2 * pixels - 1


def check(config, per_image=False, seed=0, side=8):
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (2, 5, side, side, 3), dtype="uint8")
    noise = rng.random((2, 5, len(NOISE)), dtype="float32")
    ours = compiled(lambda patches, noise: augment_patches(patches, noise, config))(patches, noise)
    assert ours.dtype == "float32" and ours.shape == patches.shape
    for image in range(2):
        for patch in range(5):
            draws = noise[image, 0 if per_image else patch].astype("float64")
            expected = reference(patches[image, patch], dict(zip(NOISE, draws, strict=True)), config)
            np.testing.assert_allclose(ours[image, patch], expected, atol=2e-5)
    return patches, ours


PARTS = {
    "jitter": {"jitter_size": 5},
    "jitter to one pixel": {"jitter_size": 1},
    "flip": {"flip_probability": 1.0},
    "flip of some": {"flip_probability": 0.5},
    "jitter and flip": {"jitter_size": 5, "flip_probability": 1.0},
    "brightness": {"brightness": 32 / 255},
    "hue": {"hue": 0.2},
    "saturation": {"saturation": 0.5},
    "contrast": {"contrast": 0.5},
    "bit depth": {"min_bit_depth": 2},
    "one bit": {"min_bit_depth": 1},
    "grey": {"grey_probability": 1.0},
    "grey of some": {"grey_probability": 0.5},
}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_alone_matches_the_reference(part):
    patches, ours = check(dataclasses.replace(OFF, **PARTS[part]))
    assert np.abs(ours - (patches / 127.5 - 1)).max() > 0.01  # the part does something


def test_all_parts_together_match_the_reference():
    check(dataclasses.replace(AugmentConfig(), jitter_size=7))


def test_per_image_uses_the_noise_of_the_first_patch():
    check(dataclasses.replace(AugmentConfig(), jitter_size=7, per_image=True), per_image=True)


@pytest.mark.parametrize("config", [OFF, AugmentConfig(enabled=False)], ids=["every part off", "disabled"])
def test_with_every_part_off_pixels_are_only_scaled(config):
    patches, ours = check(OFF if config.enabled else dataclasses.replace(OFF, enabled=False))
    np.testing.assert_allclose(ours, patches / 127.5 - 1, atol=1e-6)
    assert ours.min() >= -1 and ours.max() <= 1


def test_disabled_augmentation_needs_no_noise():
    patches = np.random.default_rng(0).integers(0, 256, (1, 2, 4, 4, 3), dtype="uint8")
    ours = compiled(lambda patches: augment_patches(patches, None, AugmentConfig(enabled=False)))(patches)
    np.testing.assert_allclose(ours, patches / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1 - 2**-24], ids=["lowest", "highest"])
def test_extreme_noise_is_valid(value):
    """The largest float32 below 1 still gives a row, a bit depth and a weight in range."""
    config = dataclasses.replace(AugmentConfig(), jitter_size=3, flip_probability=1.0, grey_probability=1.0)
    patches = np.random.default_rng(0).integers(0, 256, (1, 1, 8, 8, 3), dtype="uint8")
    noise = np.full((1, 1, len(NOISE)), value, "float32")
    ours = compiled(lambda patches, noise: augment_patches(patches, noise, config))(patches, noise)
    draw = dict.fromkeys(NOISE, float(noise[0, 0, 0]))
    np.testing.assert_allclose(ours[0, 0], reference(patches[0, 0], draw, config), atol=2e-5)


def test_jitter_and_flip_copy_pixels_exactly():
    patches = np.arange(2 * 64).reshape(1, 2, 8, 8, 1).repeat(3, axis=-1).astype("float32")
    draw = {name: np.full((1, 2), 0.3, "float32") for name in NOISE[:4]}
    moved = compiled(lambda patches, draw: move_pixels(patches, draw, 5, 1.0))(patches, draw)
    for patch in range(2):
        assert np.isin(moved[0, patch], patches[0, patch]).all()


@pytest.mark.parametrize("bits", range(1, 9))
def test_bit_depth_of_every_pixel_value(bits):
    ramp = (np.arange(256, dtype="float32") / 255).reshape(1, 1, 16, 16, 1)
    ours = compiled(reduce_bit_depth)(ramp, np.full((1, 1), bits, "float32"))
    expected = (np.arange(256) >> (8 - bits)) / (2**bits - 1)
    np.testing.assert_allclose(ours.ravel(), expected, atol=1e-6)


def test_grey_weights_blend_with_the_luminance():
    pixels = np.random.default_rng(0).random((1, 3, 4, 4, 3), dtype="float32")
    ours = compiled(blend_grey)(pixels, np.array([[0.0, 1.0, 0.25]], "float32"))
    np.testing.assert_allclose(ours[0, 0], pixels[0, 0], atol=1e-6)
    np.testing.assert_allclose(ours[0, 1], np.repeat(ours[0, 1, :, :, :1], 3, axis=-1), atol=1e-6)
    np.testing.assert_allclose(ours[0, 2], reference_grey(pixels[0, 2], 0.25), atol=1e-6)


def test_hue_and_saturation_match_tensorflow_addons():
    """The recorded values of tensorflow-addons 0.23 have hue in radians and are not clipped."""
    path = Path(__file__).parents[1] / "golden" / "tensorflow_addons.json"
    golden = json.loads(path.read_text())["yiq"]
    images, outputs = (np.array(golden[name], "float32")[None] for name in ("images", "outputs"))  # each image as a patch
    hue = np.array(golden["delta_hue"], "float32")[None] / (2 * math.pi)
    saturation = np.array(golden["scale_saturation"], "float32")[None]
    ours = compiled(adjust_colour)(images, np.zeros_like(hue), hue, saturation, np.ones_like(hue))
    np.testing.assert_allclose(ours, np.clip(outputs, 0, 1), atol=2e-6)
    assert ((outputs > 0) & (outputs < 1)).mean() > 0.5  # most values are not clipped

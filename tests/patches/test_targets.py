"""Target levels against a reference in integers."""

import numpy as np
import pytest
from tiny import compiled

from pf_keras.patches.targets import target_levels


def reference(patch, size, bits, crop, channels):
    """The levels of one patch, pixel by pixel."""
    side = len(patch)
    levels = np.zeros((size, size, channels), int)
    for row in range(size):
        for column in range(size):
            if crop == "centre_crop":
                start = (side - size) // 2
                red, green, blue = (int(x) for x in patch[start + row, start + column])
            else:
                step = side // size
                red, green, blue = (int(x) for x in patch[row * step, column * step])
            grey = (299 * red + 587 * green + 114 * blue + 500) // 1000  # the luminance, rounded
            values = [grey] if channels == 1 else [red, green, blue]
            levels[row, column] = [value >> (8 - bits) for value in values]
    return levels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", ["centre_crop", "subsample"])
@pytest.mark.parametrize("side, size, bits", [(16, 8, 2), (16, 8, 1), (16, 4, 4), (8, 8, 8), (7, 4, 2), (9, 3, 2)])
def test_levels_match_the_reference(side, size, bits, crop, channels):
    if crop == "subsample" and side % size:
        pytest.skip("a config does not allow it")
    patches = np.random.default_rng(side).integers(0, 256, (2, 3, side, side, 3), dtype="uint8")
    levels = compiled(lambda patches: target_levels(patches, size, bits, crop, channels))(patches)
    assert levels.dtype == "int32" and levels.shape == (2, 3, size, size, channels)
    for image in range(2):
        for patch in range(3):
            assert (levels[image, patch] == reference(patches[image, patch], size, bits, crop, channels)).all()


@pytest.mark.parametrize("bits", range(1, 9))
def test_grey_values_keep_their_top_bits(bits):
    ramp = np.repeat(np.arange(256, dtype="uint8").reshape(1, 1, 16, 16, 1), 3, axis=-1)
    levels = compiled(lambda patches: target_levels(patches, 16, bits))(ramp)
    assert (levels[0, 0, :, :, 0] == ramp[0, 0, :, :, 0] >> (8 - bits)).all()


def test_unknown_crop_is_an_error():
    with pytest.raises(ValueError, match="centre_crop"):
        target_levels(np.zeros((1, 1, 8, 8, 3), "uint8"), 4, 2, "corner")

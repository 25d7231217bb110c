"""What the decoder predicts of a masked patch: its middle in a few grey levels, as in the paper (2.1), or in colour."""

from keras import ops

from pf_keras.config import TargetConfig


def target_levels(patches, size: int, bits: int, crop: str = TargetConfig.crop, channels: int = TargetConfig.channels):
    """The level of each target pixel.

    Args:
        patches: uint8 `(..., p, p, 3)`, not augmented.
        size: pixels on each side of the target, at most p.
        bits: how many of the 8 bits to keep, the most significant first.
        crop: `centre_crop` takes the middle of a patch, `subsample` takes every (p / size)-th pixel.
        channels: 1 is grey, 3 is red, green and blue.

    Returns:
        int32 `(..., size, size, channels)` in 0 .. 2**bits - 1.

    Raises:
        ValueError: unknown `crop`.
    """
    side = patches.shape[-2]
    if crop == "centre_crop":
        start = (side - size) // 2
        patches = patches[..., start : start + size, start : start + size, :]
    elif crop == "subsample":
        patches = patches[..., :: side // size, :: side // size, :]
    else:
        raise ValueError(f"Expected crop to be 'centre_crop' or 'subsample'. Received: {crop!r}")
    levels = ops.cast(patches, "int32")
    if channels == 1:
        red, green, blue = (levels[..., c : c + 1] for c in range(3))
        # ITU-R 601 luminance in integers gives the same level on every backend and device. Grey pixels keep their value.
        levels = (299 * red + 587 * green + 114 * blue + 500) // 1000
    return levels // 2 ** (8 - bits)

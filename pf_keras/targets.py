"""What is decoded of a masked patch: a small, low-bit version of it, grey in the paper (2.1) or in colour."""

from keras import ops


def target_levels(patches, size, bits, crop="centre_crop", channels=1):
    """The level of each target pixel, from the unaugmented patch.

    patches: uint8 (..., p, p, 3).
    size: pixels a side of the target; bits: the most significant bits kept of the 8.
    crop: `centre_crop` takes the middle, `subsample` every (p / size)-th pixel.
    channels: 1 for grey, 3 for red, green and blue.
    Returns int32 (..., size, size, channels) in 0 .. 2**bits - 1.
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
        # ITU-R 601 in whole numbers: the same level on every backend and device, and grey pixels keep their value.
        levels = (299 * red + 587 * green + 114 * blue + 500) // 1000
    return levels // 2 ** (8 - bits)

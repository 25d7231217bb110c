"""What is decoded of a masked patch: a small, grey, low-bit version of it (paper, 2.1)."""

from keras import ops


def grey_levels(patches, size, bits, crop="centre_crop"):
    """The grey level of each target pixel, from the unaugmented patch.

    patches: uint8 (..., p, p, 3).
    size: pixels a side of the target; bits: the most significant bits kept of the 8.
    crop: `centre_crop` takes the middle, `subsample` every (p / size)-th pixel.
    Returns int32 (..., size, size) in 0 .. 2**bits - 1.
    """
    side = patches.shape[-2]
    if crop == "centre_crop":
        start = (side - size) // 2
        patches = patches[..., start : start + size, start : start + size, :]
    elif crop == "subsample":
        patches = patches[..., :: side // size, :: side // size, :]
    else:
        raise ValueError(f"Expected crop to be 'centre_crop' or 'subsample'. Received: {crop!r}")
    red, green, blue = (ops.cast(patches[..., c], "int32") for c in range(3))
    # ITU-R 601 in whole numbers: the same level on every backend and device, and grey pixels keep their value.
    grey = (299 * red + 587 * green + 114 * blue + 500) // 1000
    return grey // 2 ** (8 - bits)

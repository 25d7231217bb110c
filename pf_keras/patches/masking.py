"""Block masks: which patches the encoder sees, and which are decoded (paper, 2.1)."""

import numpy as np
from keras import ops


def block_count(grid: int, block: int) -> int:
    """Number of blocks in a patch grid, which is the length of an example's mask noise.

    Args:
        grid: patches on each side of the grid.
        block: patches on each side of a block. If it does not divide `grid`, blocks at the right and lower edge are smaller.
    """
    return (-(-grid // block)) ** 2


def block_mask(noise, grid: int, block: int, masked: int):
    """Split the patches of each image into visible and masked ones, block by block.

    Whole blocks are masked in ascending order of their noise. Of the last block only the first patches are masked, so
    that the total is exactly `masked`: 118 of 196 in the paper.

    Args:
        noise: float `(B, block_count(grid, block))`. Blocks with equal values are masked in row-major order.
        grid: patches on each side of the grid.
        block: patches on each side of a block.
        masked: M, the number of patches to mask.

    Returns:
        `visible_indices`, int32 `(B, N - M)`, and `masked_indices`, int32 `(B, M)`, both ascending.

    Raises:
        ValueError: the noise has another length.
    """
    side = -(-grid // block)
    if noise.shape[-1] != side**2:
        raise ValueError(f"Expected noise of {side**2} blocks, (B, {side**2}). Received: {tuple(noise.shape)}")
    row, column = np.divmod(np.arange(grid * grid), grid)
    block_of_patch = ((row // block) * side + column // block).astype("int32")
    place_in_block = ((row % block) * block + column % block).astype("int32")

    rank = ops.cast(ops.argsort(ops.argsort(noise, axis=-1), axis=-1), "int32")  # (B, blocks)
    score = ops.take(rank, block_of_patch, axis=1) * block**2 + place_in_block  # (B, N), unique in an image
    order = ops.cast(ops.argsort(score, axis=-1), "int32")
    return ops.sort(order[:, masked:], axis=-1), ops.sort(order[:, :masked], axis=-1)

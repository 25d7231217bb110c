"""Block masks: which patches the encoder sees and which are decoded (paper, 2.1)."""

import numpy as np
from keras import ops


def block_count(grid, block):
    """Blocks of a `grid x grid` patch grid; those at the right and lower edge are smaller where `block` does not
    divide `grid`. It is the length of an example's mask noise."""
    return (-(-grid // block)) ** 2


def block_mask(noise, grid, block, masked):
    """Split the patches of each image into masked and visible ones, in contiguous blocks.

    Blocks are ranked by their noise; whole blocks are masked in that order, and the last one partly (its first
    patches, row-major), so that exactly `masked` patches are: 118 of 196 at paper size.

    noise: float (B, block_count(grid, block)); any values, equal ones are ranked by position.
    Returns `visible_indices` int32 (B, N - masked) and `masked_indices` int32 (B, masked), each ascending.
    Raises ValueError for noise of another length.
    """
    side = -(-grid // block)
    if noise.shape[-1] != side**2:
        raise ValueError(f"Expected noise of {side**2} blocks, (B, {side**2}). Received: {tuple(noise.shape)}")
    row, column = np.divmod(np.arange(grid * grid), grid)
    block_of_patch = ((row // block) * side + column // block).astype("int32")
    place_in_block = ((row % block) * block + column % block).astype("int32")

    rank = ops.cast(ops.argsort(ops.argsort(noise, axis=-1), axis=-1), "int32")  # (B, blocks)
    score = ops.take(rank, block_of_patch, axis=1) * block**2 + place_in_block  # (B, N), all different in an image
    order = ops.cast(ops.argsort(score, axis=-1), "int32")
    return ops.sort(order[:, masked:], axis=-1), ops.sort(order[:, :masked], axis=-1)

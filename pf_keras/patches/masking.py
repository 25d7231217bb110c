"""Block masks: which patches the encoder sees, and which are decoded (paper, 2.1)."""

import numpy as np
from keras import ops


def block_count(grid: int, block: int) -> int:
    """Number of blocks in a patch grid.

    Args:
        grid: patches on each side of the grid.
        block: patches on each side of a block. If it does not divide `grid`, the last block of each row and column is smaller.
    """
    return (-(-grid // block)) ** 2


def mask_noise_size(grid: int, block: int) -> int:
    """How many random numbers `block_mask` takes for an image: one for each block, and two for the place of the blocks.

    Single patches need no place.
    """
    return block_count(grid, block) + (2 if block > 1 else 0)


def block_mask(noise, grid: int, block: int, masked: int):
    """Split the patches of each image into visible and masked ones, block by block.

    Whole blocks are masked in ascending order of their noise. Of the last block only the first patches are masked, so that the
    total is exactly `masked`: 118 of 196 in the paper. The result is moved to a random place; what leaves the grid on one side
    enters on the other. So every patch is masked with the same probability, whatever the grid and the block.

    Args:
        noise: float `(B, mask_noise_size(grid, block))` in [0, 1): of the blocks, then of the first row and the first column.
            Blocks with equal values are masked in row-major order. Without the last two numbers, as in version 0.1, the blocks
            begin in the corner.
        grid: patches on each side of the grid.
        block: patches on each side of a block.
        masked: M, the number of patches to mask.

    Returns:
        `visible_indices`, int32 `(B, N - M)`, and `masked_indices`, int32 `(B, M)`, both ascending.

    Raises:
        ValueError: the noise has another length.
    """
    blocks, size = block_count(grid, block), mask_noise_size(grid, block)
    if noise.shape[-1] not in (blocks, size):
        raise ValueError(f"Expected noise of {size} numbers for {blocks} blocks, (B, {size}). Received: {tuple(noise.shape)}")
    row, column = np.divmod(np.arange(grid * grid), grid)
    block_of_patch = ((row // block) * -(-grid // block) + column // block).astype("int32")
    place_in_block = ((row % block) * block + column % block).astype("int32")

    rank = ops.cast(ops.argsort(ops.argsort(noise[:, :blocks], axis=-1), axis=-1), "int32")  # (B, blocks)
    score = ops.take(rank, block_of_patch, axis=1) * block**2 + place_in_block  # (B, N), unique in an image
    order = ops.cast(ops.argsort(score, axis=-1), "int32")
    if noise.shape[-1] > blocks:
        top, left = (ops.cast(ops.floor(noise[:, blocks + i, None] * grid), "int32") for i in range(2))  # (B, 1)
        order = (order // grid + top) % grid * grid + (order % grid + left) % grid
    return ops.sort(order[:, masked:], axis=-1), ops.sort(order[:, :masked], axis=-1)


def sample_targets(noise, masked_indices, count: int):
    """Choose the masked patches to decode, `count` of each image, at random.

    Args:
        noise: float `(B, M)`. The patches with the lowest noise are chosen.
        masked_indices: int32 `(B, M)`.
        count: how many, at most M.

    Returns:
        int32 `(B, count)`, ascending.
    """
    chosen = ops.argsort(noise, axis=-1)[:, :count]
    return ops.sort(ops.take_along_axis(masked_indices, chosen, axis=1), axis=-1)

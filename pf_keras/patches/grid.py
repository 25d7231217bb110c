"""From images to patches and back. Patches are in row-major order: patch `i` is in row `i // grid` and column `i % grid`."""

from keras import ops


def extract_patches(images, grid: int):
    """Cut images into a grid of patches that do not overlap (paper, 2.1).

    Args:
        images: `(B, H, W, C)` of any dtype, with H and W multiples of `grid`.
        grid: patches on each side of the grid.

    Returns:
        `(B, N, H / grid, W / grid, C)` with N = grid * grid, in the dtype of the images.

    Raises:
        ValueError: `grid` does not divide H and W.
    """
    _, height, width, channels = images.shape
    if height % grid or width % grid:
        raise ValueError(f"Expected images whose sides are multiples of grid={grid}. Received: {height} x {width}")
    rows, columns = height // grid, width // grid
    tiles = ops.reshape(images, (-1, grid, rows, grid, columns, channels))
    return ops.reshape(ops.transpose(tiles, (0, 1, 3, 2, 4, 5)), (-1, grid * grid, rows, columns, channels))


def assemble_patches(patches, grid: int):
    """Put patches together again, the inverse of `extract_patches`: `(B, N, p, q, C)` to `(B, grid * p, grid * q, C)`."""
    _, _, rows, columns, channels = patches.shape
    tiles = ops.reshape(patches, (-1, grid, grid, rows, columns, channels))
    return ops.reshape(ops.transpose(tiles, (0, 1, 3, 2, 4, 5)), (-1, grid * rows, grid * columns, channels))


def gather_patches(patches, indices):
    """Pick K patches of each image.

    Args:
        patches: `(B, N, p, p, C)`.
        indices: int32 `(B, K)`, each image's own.

    Returns:
        `(B, K, p, p, C)`.
    """
    shape = patches.shape
    count = indices.shape[1]
    flat = ops.reshape(patches, (-1, shape[1], shape[2] * shape[3] * shape[4]))
    # Indexing along an image's own patch axis needs no communication when a batch is split over devices.
    picked = ops.take_along_axis(flat, indices[:, :, None], axis=1)
    return ops.reshape(picked, (-1, count, *shape[2:]))

"""Images to patches and back. A patch grid is row-major: patch `i` lies in row `i // grid`, column `i % grid`."""

from keras import ops


def extract_patches(images, grid):
    """Cut images into a grid of non-overlapping patches (paper, 2.1).

    images: (B, H, W, C), H and W multiples of `grid`; any dtype, kept.
    Returns (B, N, H / grid, W / grid, C) with N = grid * grid. Raises ValueError for images that the grid does not divide.
    """
    _, height, width, channels = images.shape
    if height % grid or width % grid:
        raise ValueError(f"Expected images whose sides are multiples of grid={grid}. Received: {height} x {width}")
    rows, columns = height // grid, width // grid
    tiles = ops.reshape(images, (-1, grid, rows, grid, columns, channels))
    return ops.reshape(ops.transpose(tiles, (0, 1, 3, 2, 4, 5)), (-1, grid * grid, rows, columns, channels))


def assemble_patches(patches, grid):
    """The inverse of `extract_patches`: (B, N, p, q, C) -> (B, grid * p, grid * q, C)."""
    _, _, rows, columns, channels = patches.shape
    tiles = ops.reshape(patches, (-1, grid, grid, rows, columns, channels))
    return ops.reshape(ops.transpose(tiles, (0, 1, 3, 2, 4, 5)), (-1, grid * rows, grid * columns, channels))


def gather_patches(patches, indices):
    """Pick patches of each image: (B, N, p, p, C) by int32 (B, K) -> (B, K, p, p, C)."""
    shape = patches.shape
    count = indices.shape[1]
    flat = ops.reshape(patches, (-1, shape[1], shape[2] * shape[3] * shape[4]))
    # Indexed along the patch axis of each image, so that a batch split over devices needs no exchange.
    picked = ops.take_along_axis(flat, indices[:, :, None], axis=1)
    return ops.reshape(picked, (-1, count, *shape[2:]))

"""Cutting images into patches, and back."""

import numpy as np
import pytest
from tiny import compiled

from pf_keras.patches.grid import assemble_patches, extract_patches, gather_patches


@pytest.mark.parametrize("shape, grid", [((2, 12, 12, 3), 4), ((1, 6, 9, 1), 3)])
def test_patches_are_row_major_and_assemble_to_the_image(shape, grid):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype="uint8")
    patches = compiled(lambda images: extract_patches(images, grid))(images)
    height, width = shape[1] // grid, shape[2] // grid
    assert patches.dtype == "uint8" and patches.shape == (shape[0], grid * grid, height, width, shape[3])
    for number in range(grid * grid):
        top, left = number // grid * height, number % grid * width
        assert (patches[:, number] == images[:, top : top + height, left : left + width]).all()
    assert (compiled(lambda patches: assemble_patches(patches, grid))(patches) == images).all()


def test_gather_patches_uses_each_images_own_indices():
    patches = np.random.default_rng(0).integers(0, 256, (2, 9, 4, 4, 3), dtype="uint8")
    indices = np.array([[0, 3, 8], [7, 7, 1]], "int32")
    picked = compiled(gather_patches)(patches, indices)
    assert picked.dtype == "uint8" and picked.shape == (2, 3, 4, 4, 3)
    for image in range(2):
        for place, number in enumerate(indices[image]):
            assert (picked[image, place] == patches[image, number]).all()

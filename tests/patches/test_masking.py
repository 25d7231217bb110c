"""Block masks against a reference that fills blocks patch by patch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny import compiled, examples

from pf_keras.config import Config, MaskConfig, ModelConfig
from pf_keras.patches.masking import block_count, block_mask


def reference(noise, grid, block, masked):
    """The masked patches of one image: blocks in the order of their noise, their patches row-major."""
    side = -(-grid // block)
    hidden = []
    for number in sorted(range(side**2), key=lambda number: (noise[number], number)):
        block_row, block_column = divmod(number, side)
        for row in range(block_row * block, min((block_row + 1) * block, grid)):
            for column in range(block_column * block, min((block_column + 1) * block, grid)):
                hidden.append(row * grid + column)
    return sorted(hidden[:masked])


def blocks_of(patches, grid, block):
    return {(patch // grid // block, patch % grid // block) for patch in patches.tolist()}


@st.composite
def masks(draw):
    """(noise, grid, block, ratio) that a config allows. Half of the noise values are 0, 0.5 or 1, to have ties."""
    grid = draw(st.integers(2, 9))
    block = draw(st.integers(1, grid - 1))
    ratio = draw(st.floats(0.5 / grid**2 + 1e-6, 1 - 0.5 / grid**2 - 1e-6))
    values = st.floats(0, 1, width=32, allow_subnormal=False) | st.sampled_from([0.0, 0.5, 1.0]).map(np.float32)
    noise = draw(arrays("float32", (2, block_count(grid, block)), elements=values, fill=st.nothing()))
    return noise, grid, block, ratio


@settings(max_examples=examples(60), deadline=None, derandomize=True)
@given(masks())
def test_masks_are_whole_blocks_except_one(mask):
    noise, grid, block, ratio = mask
    masked = Config(
        model=ModelConfig(image_size=16 * grid, grid=grid, width=4, heads=1), mask=MaskConfig(ratio=ratio, block=block)
    ).masked
    assert masked == round(ratio * grid**2)
    visible_indices, masked_indices = compiled(lambda noise: block_mask(noise, grid, block, masked))(noise)
    assert visible_indices.dtype == masked_indices.dtype == "int32"
    assert masked_indices.shape == (2, masked) and visible_indices.shape == (2, grid**2 - masked)

    for image in range(2):
        hidden, seen = masked_indices[image], visible_indices[image]
        assert sorted([*hidden, *seen]) == list(range(grid**2))
        assert (np.diff(hidden) > 0).all() and (np.diff(seen) > 0).all()

        partly = blocks_of(hidden, grid, block) & blocks_of(seen, grid, block)
        assert len(partly) <= 1

        assert hidden.tolist() == reference(noise[image], grid, block, masked)


@pytest.mark.parametrize("noise", ["random", "equal"])
def test_masks_of_the_papers_size(noise):
    config = Config()
    assert (config.model.patches, config.masked, config.visible) == (196, 118, 78)
    draws = np.random.default_rng(0).random((8, 49), "float32") if noise == "random" else np.zeros((8, 49), "float32")
    visible_indices, masked_indices = compiled(lambda noise: block_mask(noise, 14, 2, 118))(draws)
    assert visible_indices.shape == (8, 78) and masked_indices.shape == (8, 118)
    for image in range(8):
        assert masked_indices[image].tolist() == reference(draws[image], 14, 2, 118)


def test_all_patches_are_masked_equally_often():
    draws = np.random.default_rng(0).random((4000, 49), "float32")
    _, masked_indices = compiled(lambda noise: block_mask(noise, 14, 2, 118))(draws)
    fraction = np.bincount(masked_indices.ravel(), minlength=196) / 4000
    np.testing.assert_allclose(fraction, 118 / 196, atol=0.04)


@pytest.mark.parametrize("grid, block, blocks", [(14, 2, 49), (14, 4, 16), (5, 2, 9), (4, 1, 16), (3, 3, 1)])
def test_block_count(grid, block, blocks):
    assert block_count(grid, block) == blocks

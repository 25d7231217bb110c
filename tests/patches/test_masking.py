"""Block masks against a reference that fills blocks patch by patch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny import compiled, examples

from pf_keras.config import Config, MaskConfig, ModelConfig
from pf_keras.patches.masking import block_count, block_mask, mask_noise_size, sample_targets


def reference(noise, grid, block, masked):
    """The masked patches of one image: blocks in the order of their noise, their patches row-major, then moved as a whole."""
    side = -(-grid // block)
    down, right = (int(np.float32(place) * np.float32(grid)) for place in noise[side**2 :]) if block > 1 else (0, 0)
    hidden = []
    for number in sorted(range(side**2), key=lambda number: (noise[number], number)):
        block_row, block_column = divmod(number, side)
        for row in range(block_row * block, min((block_row + 1) * block, grid)):
            for column in range(block_column * block, min((block_column + 1) * block, grid)):
                hidden.append((row + down) % grid * grid + (column + right) % grid)
    return sorted(hidden[:masked])


def blocks_of(patches, noise, grid, block):
    """The blocks in which patches lie."""
    side = -(-grid // block)
    down, right = (int(np.float32(place) * np.float32(grid)) for place in noise[side**2 :]) if block > 1 else (0, 0)
    return {((p // grid - down) % grid // block, (p % grid - right) % grid // block) for p in patches.tolist()}


@st.composite
def masks(draw):
    """(noise, grid, block, ratio) that a config allows. Half of the noise values are 0, 0.5 or 1, to have ties."""
    grid = draw(st.integers(2, 9))
    block = draw(st.integers(1, grid - 1))
    ratio = draw(st.floats(0.5 / grid**2 + 1e-6, 1 - 0.5 / grid**2 - 1e-6))
    values = st.floats(0, 1, width=32, allow_subnormal=False) | st.sampled_from([0.0, 0.5, 1.0]).map(np.float32)
    noise = draw(arrays("float32", (2, mask_noise_size(grid, block)), elements=values, fill=st.nothing()))
    noise[:, block_count(grid, block) :] = np.minimum(noise[:, block_count(grid, block) :], np.float32(1 - 2**-24))
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

        partly = blocks_of(hidden, noise[image], grid, block) & blocks_of(seen, noise[image], grid, block)
        assert len(partly) <= 1

        assert hidden.tolist() == reference(noise[image], grid, block, masked)


@pytest.mark.parametrize("noise", ["random", "equal"])
def test_masks_of_the_papers_size(noise):
    config = Config()
    assert (config.model.patches, config.masked, config.visible) == (196, 118, 78)
    draws = np.random.default_rng(0).random((8, 51), "float32") if noise == "random" else np.zeros((8, 51), "float32")
    visible_indices, masked_indices = compiled(lambda noise: block_mask(noise, 14, 2, 118))(draws)
    assert visible_indices.shape == (8, 78) and masked_indices.shape == (8, 118)
    for image in range(8):
        assert masked_indices[image].tolist() == reference(draws[image], 14, 2, 118)


@pytest.mark.parametrize("grid, block, ratio", [(14, 2, 0.6), (14, 4, 0.6), (8, 3, 0.75), (5, 2, 0.5), (8, 1, 0.75)])
def test_all_patches_are_masked_equally_often(grid, block, ratio):
    """Each count is binomial. Of 200 deviations, one is above 5 standard deviations once in 10,000 seeds."""
    images, masked = 20_000, round(ratio * grid**2)
    draws = np.random.default_rng(0).random((images, mask_noise_size(grid, block)), "float32")
    _, masked_indices = compiled(lambda noise: block_mask(noise, grid, block, masked))(draws)
    counts, probability = np.bincount(masked_indices.ravel(), minlength=grid**2), masked / grid**2
    assert np.abs(counts - images * probability).max() < 5 * (images * probability * (1 - probability)) ** 0.5


def test_decoded_patches_are_a_random_part_of_the_masked_ones():
    rng = np.random.default_rng(0)
    masked = np.sort(np.argsort(rng.random((20_000, 16)), axis=1)[:, :10], axis=1).astype("int32")
    noise = rng.random((20_000, 10), "float32")
    decoded = compiled(lambda noise, masked: sample_targets(noise, masked, 4))(noise, masked)
    assert decoded.shape == (20_000, 4) and decoded.dtype == "int32"
    lowest = np.sort(np.take_along_axis(masked, np.argsort(noise, axis=1)[:, :4], axis=1), axis=1)
    np.testing.assert_array_equal(decoded, lowest)
    places = (decoded[:, :, None] == masked[:, None]).any(axis=1).sum(axis=0)  # how often each of the ten is decoded
    assert np.abs(places - 8_000).max() < 5 * (20_000 * 0.4 * 0.6) ** 0.5


@pytest.mark.parametrize("grid, block, blocks", [(14, 2, 49), (14, 4, 16), (5, 2, 9), (4, 1, 16), (3, 3, 1)])
def test_block_count(grid, block, blocks):
    assert block_count(grid, block) == blocks


def test_noise_of_version_0_1_puts_the_blocks_where_it_did():
    old = np.random.default_rng(0).random((5, 9), "float32")
    new = np.concatenate([old, np.zeros((5, 2), "float32")], axis=1)
    for indices, others in zip(block_mask(old, 5, 2, 10), block_mask(new, 5, 2, 10), strict=True):
        np.testing.assert_array_equal(indices, others)

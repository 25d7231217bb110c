"""Mixed pairs against a NumPy reference, pixel by pixel, and inside the input pipeline."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pf_keras.config import AugmentConfig, Config, DataConfig, ModelConfig, TargetConfig
from pf_keras.data.mix import mix_pairs
from pf_keras.data.pipeline import training_batches
from pf_keras.data.sources import open_source
from pf_keras.errors import UserError
from pf_keras.noise import MIX, finetune_noise

CONFIG = Config(
    model=ModelConfig(image_size=16, grid=4, width=16, heads=2),
    augment=AugmentConfig(enabled=False),
    target=TargetConfig(size=2),
)
MIXED = dataclasses.replace(CONFIG, finetune=dataclasses.replace(CONFIG.finetune, mix=1.0))


def reference(images, labels, noise, fraction):
    """The same by loops over images and pixels."""
    size = images.shape[1]
    mixed, targets = images.astype("float64"), labels.astype("float64")
    for i, (kind, kept, y, x) in enumerate(noise.astype("float64")):
        other, taken = i ^ 1, 0.0
        for row in range(size):
            for column in range(size):
                if kind < fraction / 2:
                    weight = 1 - kept
                else:
                    half = np.sqrt(1 - kept) / 2
                    inside = abs((row + 0.5) / size - y) < half and abs((column + 0.5) / size - x) < half
                    weight = float(kind < fraction and inside)
                taken += weight / size**2
                mixed[i, row, column] += weight * (images[other, row, column].astype("float64") - images[i, row, column])
        targets[i] += taken * (labels[other].astype("float64") - labels[i])
    return mixed, targets


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([2, 6]), st.sampled_from([1, 7, 16]))
def test_mixed_pairs_equal_the_reference(seed, fraction, count, size):
    chance = np.random.default_rng(seed)
    images = chance.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    labels = np.eye(5, dtype="float32")[chance.integers(0, 5, count)]
    noise = chance.random((count, len(MIX)), dtype="float32")
    mixed, targets = (x.numpy() for x in mix_pairs(images, labels, noise, fraction))
    expected = reference(images, labels, noise, fraction)
    assert mixed.dtype == np.uint8 and targets.dtype == np.float32
    np.testing.assert_allclose(mixed, expected[0], atol=0.51)  # rounded
    np.testing.assert_allclose(targets, expected[1], atol=1e-5)
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-5)
    if fraction == 0:
        np.testing.assert_array_equal(mixed, images)


def test_image_of_which_nothing_is_kept_becomes_its_neighbour():
    images = np.stack([np.full((4, 4, 3), 200, np.uint8), np.full((4, 4, 3), 10, np.uint8)])
    labels = np.eye(2, dtype="float32")
    for kind in (0.0, 0.5):  # blended, cut
        noise = np.array([[kind, 0.0, 0.5, 0.5]] * 2, "float32")
        mixed, targets = (x.numpy() for x in mix_pairs(images, labels, noise, 1.0))
        np.testing.assert_array_equal(mixed, images[::-1])
        np.testing.assert_array_equal(targets, labels[::-1])


@pytest.fixture(scope="module")
def train():
    return open_source(DataConfig()).train.subset(range(50))


def take(split, config, steps, batch=8, **kwargs):
    batches = training_batches(split, config, batch, finetune_noise(config), classes=10, **kwargs)
    return [({k: v.numpy() for k, v in inputs.items()}, labels.numpy()) for inputs, labels in batches.take(steps)]


def test_mixed_batch_depends_neither_on_the_replicas_nor_on_the_first_step(train):
    whole = take(train, MIXED, 6)
    assert set(whole[0][0]) == {"image", "mask_noise"}
    assert any(((labels > 0).sum(1) == 2).any() for _, labels in whole)
    parts = take(train, MIXED, 12, replicas=2)
    late = take(train, MIXED, 2, start_step=4)
    for number, (inputs, labels) in enumerate(whole):
        halves = parts[2 * number : 2 * number + 2]
        np.testing.assert_array_equal(labels, np.concatenate([half[1] for half in halves]))
        np.testing.assert_array_equal(inputs["image"], np.concatenate([half[0]["image"] for half in halves]))
        if number >= 4:
            np.testing.assert_array_equal(inputs["image"], late[number - 4][0]["image"])


def test_odd_number_of_images_per_replica_is_refused(train):
    with pytest.raises(UserError, match="finetune.mix mixes pairs of images, but each replica has 3 images"):
        take(train, MIXED, 1, batch=6, replicas=2)

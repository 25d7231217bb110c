"""The classifier: what it masks, what its heads read, and that it learns."""

import keras
import numpy as np
import pytest
from tiny import paint, random_classifier_batch, randomize, run, runner, tiny_classifier, tiny_config

from pf_keras.patches.augment import scale_pixels
from pf_keras.training.optimizer import AdamW

# The paper's grid with tiny patches: training leaves out 20 of 196.
CONFIG = tiny_config(
    {
        "model.image_size": "28",
        "model.grid": "14",
        "target.size": "2",
        "augment.jitter_size": "0",
        "model.width": "16",
        "model.depth": "1",
        "finetune.dropout": "0.0",
    }
)
BATCH = random_classifier_batch(CONFIG)


@pytest.fixture(scope="module")
def model():
    return randomize(tiny_classifier(CONFIG, classes=5))


def test_training_leaves_out_the_20_patches_with_the_lowest_noise(model):
    forward = runner(model, training=True)
    logits = forward(BATCH)
    order = np.argsort(BATCH["mask_noise"][2])
    images = BATCH["image"]
    for patch in order[:20]:
        images = paint(images, 14, 2, patch)
    assert (forward({**BATCH, "image": images}) == logits).all()
    for patch in (order[20], order[21], order[-1]):
        seen = paint(BATCH["image"], 14, 2, patch)
        assert np.abs(forward({**BATCH, "image": seen})[2] - logits[2]).max() > 1e-5


def test_evaluation_uses_every_patch(model):
    forward = runner(model)
    logits = forward(BATCH)
    assert logits.shape == (4, 5) and logits.dtype == "float32"
    for patch in range(0, 196, 13):
        changed = forward({**BATCH, "image": paint(BATCH["image"], 14, 2, patch)}) - logits
        assert np.abs(changed[2]).max() > 1e-5 and np.abs(changed[[0, 1, 3]]).max() < 1e-5
    np.testing.assert_allclose(run(model, {"image": BATCH["image"]}), logits, atol=1e-6)  # noise is not needed


def test_fit_learns_which_images_are_bright():
    config = tiny_config({"finetune.dropout": "0.1"})
    batch, labels = random_classifier_batch(config, batch=12), np.arange(12) % 3
    batch["image"] = (batch["image"] // 3 + 85 * labels[:, None, None, None]).astype("uint8")
    model = tiny_classifier(config)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(AdamW(3e-3), loss, jit_compile=keras.backend.backend() == "jax")
    history = model.fit(batch, labels, batch_size=12, epochs=20, verbose=0).history["loss"]
    assert history[-1] < 0.7 * history[0]


def test_training_with_a_mask_ratio_of_0_uses_every_patch():
    config = tiny_config({"finetune.mask_ratio": "0.0", "finetune.dropout": "0.0"})
    model, batch = tiny_classifier(config), random_classifier_batch(config)
    np.testing.assert_array_equal(run(model, batch, training=True), run(model, {"image": batch["image"]}, training=True))


def test_linear_head_reads_the_mean_of_the_context_and_freezes_the_pooling():
    config = tiny_config({"finetune.head": "linear"})
    model = randomize(tiny_classifier(config))
    batch, weights = random_classifier_batch(config), dict(zip(("kernel", "bias"), model.head.get_weights(), strict=True))
    patches = batch["image"].reshape(4, 4, 8, 4, 8, 3).swapaxes(2, 3).reshape(4, 16, 8, 8, 3)
    context = run(model.backbone, (patches / 127.5 - 1).astype("float32"))
    np.testing.assert_allclose(run(model, batch), context.mean(1) @ weights["kernel"] + weights["bias"], atol=1e-4)

    pooling, positions = model.backbone.pooling.get_weights(), model.backbone.positions.get_weights()
    model.compile(AdamW(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(batch, np.arange(4) % 3, verbose=0)
    assert not model.backbone.pooling.trainable_variables
    assert all((old == new).all() for old, new in zip(pooling, model.backbone.pooling.get_weights(), strict=True))
    assert not any((old == new).all() for old, new in zip(positions, model.backbone.positions.get_weights(), strict=True))


def test_pixels_are_scaled_to_minus_1_to_1():
    pixels = np.array([0, 51, 255], "uint8")
    np.testing.assert_allclose(keras.ops.convert_to_numpy(scale_pixels(pixels)), [-1, -0.6, 1], atol=1e-6)

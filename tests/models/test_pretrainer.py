"""The pre-trainer: what its logits depend on, its targets, its loss, and that every option trains."""

import functools

import keras
import numpy as np
import pytest
from tiny import paint, random_batch, randomize, run, runner, tiny_config, tiny_pretrainer

from pf_keras.config import PretrainConfig
from pf_keras.models import Pretrainer, PretrainScores
from pf_keras.training.optimizer import build_optimizer

CONFIG = tiny_config()
BATCH = random_batch(CONFIG)


@functools.cache
def model_and_runners():
    """A model with random weights, and functions that evaluate and train it, compiled once for many tests."""
    model = randomize(tiny_pretrainer(CONFIG))
    return model, {False: runner(model), True: runner(model, training=True)}


def reference_loss(outputs, bits, smoothing):
    """Cross-entropy of the softmax with smoothed labels, in float64."""
    logits, levels = outputs["logits"].astype("float64"), 2**bits
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    labels = (outputs["targets"][..., None] == np.arange(levels)) * (1 - smoothing) + smoothing / levels
    return -(labels * log_probabilities).sum(axis=-1).mean()


@pytest.mark.parametrize("training", [False, True])
def test_logits_depend_on_visible_patches_only(training):
    """Batch normalisation mixes images in training, so a masked patch must change the logits of no image."""
    forward = model_and_runners()[1][training]
    outputs = forward(BATCH)
    for patch in range(CONFIG.model.patches):
        changed = forward({**BATCH, "image": paint(BATCH["image"], CONFIG.model.grid, 1, patch)})
        difference = np.abs(changed["logits"] - outputs["logits"])
        if patch in outputs["masked_indices"][1]:
            assert difference.max() == 0
            assert (changed["targets"] != outputs["targets"]).any()
        else:
            assert patch in outputs["visible_indices"][1]
            assert difference[1].max() > 1e-3
            assert (changed["targets"] == outputs["targets"]).all()


def test_masked_pixels_change_targets_but_not_logits():
    outputs = model_and_runners()[1][False](BATCH)
    images = BATCH["image"]
    for image in range(len(images)):
        for patch in outputs["masked_indices"][image]:
            noise = np.random.default_rng(patch).integers(0, 256, (8, 8, 3))
            images = paint(images, CONFIG.model.grid, image, patch, noise)
    changed = model_and_runners()[1][False]({**BATCH, "image": images})
    assert (changed["logits"] == outputs["logits"]).all() and (changed["targets"] != outputs["targets"]).any()


def test_only_training_augments():
    _, forward = model_and_runners()
    noise = np.random.default_rng(9).random(BATCH["augment_noise"].shape, "float32")
    for training in (False, True):
        ours = forward[training](BATCH)["logits"]
        other = forward[training]({**BATCH, "augment_noise": noise})["logits"]
        assert (np.abs(ours - other).max() > 1e-3) == training
    without = {name: value for name, value in BATCH.items() if name != "augment_noise"}
    np.testing.assert_allclose(forward[False](without)["logits"], forward[False](BATCH)["logits"], atol=1e-6)


def test_mask_noise_decides_which_patches_are_masked():
    outputs = model_and_runners()[1][False](BATCH)
    other = model_and_runners()[1][False]({**BATCH, "mask_noise": 1 - BATCH["mask_noise"]})
    assert (outputs["masked_indices"] != other["masked_indices"]).any()
    assert (np.sort(np.concatenate([outputs["masked_indices"], outputs["visible_indices"]], axis=1)) == range(16)).all()


def test_grey_targets_are_the_top_two_bits_of_the_middle_of_each_masked_patch():
    grey = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), dtype="uint8").repeat(3, axis=-1)
    model = tiny_pretrainer(tiny_config({"augment.enabled": "false"}))
    outputs = run(model, {**BATCH, "image": grey}, training=True)
    for image in range(4):
        for place, patch in enumerate(outputs["masked_indices"][image]):
            top, left = patch // 4 * 8 + 2, patch % 4 * 8 + 2
            pixels = grey[image, top : top + 4, left : left + 4, 0]
            assert (outputs["targets"][image, place, :, :, 0] == pixels >> 6).all()


def test_colour_targets_have_the_levels_of_each_channel():
    model = tiny_pretrainer(tiny_config({"target.channels": "3", "target.bits": "3"}))
    outputs = run(model, BATCH)
    assert outputs["logits"].shape == (4, 10, 4, 4, 3, 8)
    for image in range(4):
        for place, patch in enumerate(outputs["masked_indices"][image]):
            top, left = patch // 4 * 8 + 2, patch % 4 * 8 + 2
            pixels = BATCH["image"][image, top : top + 4, left : left + 4]
            assert (outputs["targets"][image, place] == pixels >> 5).all()
    scores = PretrainScores(model)
    scores.build()
    counts = run(scores, BATCH)["level_counts"]
    for channel in range(3):
        levels = outputs["targets"][1, ..., channel].ravel()
        assert (counts[1, channel] == np.bincount(levels, minlength=8)).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.01, 0.3])
def test_loss_is_the_cross_entropy_with_smoothed_labels(smoothing):
    model, forward = model_and_runners()
    outputs = forward[False](BATCH)
    twin = Pretrainer(model.backbone, target_size=4, label_smoothing=smoothing, augment={"enabled": False})
    tensors = {name: keras.ops.convert_to_tensor(value) for name, value in outputs.items()}
    loss = float(twin.compute_loss(y_pred=tensors))
    np.testing.assert_allclose(loss, reference_loss(outputs, 2, smoothing), rtol=1e-5)


def test_scores_are_per_example_and_survive_saving(tmp_path):
    model, forward = model_and_runners()
    outputs = forward[False](BATCH)
    scores = PretrainScores(model)
    scores.build()
    ours = run(scores, BATCH)
    for image in range(4):
        alone = {name: value[image] for name, value in outputs.items()}
        np.testing.assert_allclose(ours["cross_entropy"][image], reference_loss(alone, 2, 0.0), rtol=1e-5)
        assert (ours["level_counts"][image, 0] == np.bincount(alone["targets"].ravel(), minlength=4)).all()
    scores.save(tmp_path / "scores.keras")
    loaded = run(keras.models.load_model(tmp_path / "scores.keras"), BATCH)
    np.testing.assert_allclose(loaded["cross_entropy"], ours["cross_entropy"], rtol=1e-5)


def test_sample_weights_scale_the_loss_of_their_image():
    model, forward = model_and_runners()
    outputs = forward[False](BATCH)
    weights = np.linspace(0, 1, len(BATCH["image"])).astype("float32")
    alone = [{name: value[i] for name, value in outputs.items()} for i in range(len(weights))]
    expected = np.mean([w * reference_loss(one, 2, model.label_smoothing) for w, one in zip(weights, alone, strict=True)])
    tensors = {name: keras.ops.convert_to_tensor(value) for name, value in outputs.items()}
    loss = float(model.compute_loss(y_pred=tensors, sample_weight=weights))
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_noise_stays_float32_under_bfloat16():
    """Values that are equal in bfloat16 still rank the blocks, and values below 1 are not rounded to 1."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = tiny_pretrainer(CONFIG)
    finally:
        keras.config.set_dtype_policy("float32")
    fine = np.tile(np.array([[0.5004, 0.5003, 0.5002, 0.5001, 0.0, 0.0]], "float32"), (4, 1))
    high = np.full(BATCH["augment_noise"].shape, 1 - 2**-24, "float32")
    outputs = run(model, {**BATCH, "mask_noise": fine, "augment_noise": high}, training=True)
    assert outputs["masked_indices"][0].tolist() == [2, 3, 8, 9, 10, 11, 12, 13, 14, 15]
    assert outputs["logits"].dtype == "float32" and np.isfinite(outputs["logits"]).all()


# Every option at least once.
OPTIONS = {
    "default": {},
    "group, imagenet, pre_norm, subsample, 8 bits, no augmentation": {
        "model.norm": "group", "model.stem": "imagenet", "model.norm_order": "pre_norm", "target.crop": "subsample",
        "target.bits": "8", "target.size": "2", "augment.enabled": "false",
    },
    "additive, no_pool, per_image, 1 bit, block 3": {
        "model.decode_position": "additive", "model.stem": "no_pool", "augment.per_image": "true",
        "target.bits": "1", "target.size": "3", "mask.block": "3",
    },
    "dropout, single patches, 4 bits, colour": {
        "model.dropout": "0.1", "mask.block": "1", "mask.ratio": "0.3", "target.bits": "4", "target.channels": "3",
    },
}  # fmt: skip


@pytest.mark.parametrize("option", ["default", *(pytest.param(name, marks=pytest.mark.long) for name in list(OPTIONS)[1:])])
def test_every_option_trains_and_its_step_is_traced_once(option, monkeypatch):
    """The Python code of the model runs for the first batch only."""
    traced, call = [], Pretrainer.call

    @functools.wraps(call)
    def counted(self, *args, **kwargs):
        traced.append(self)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(Pretrainer, "call", counted)
    after = []
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: after.append(len(traced)))
    config = tiny_config(OPTIONS[option])
    batch = random_batch(config, batch=8)
    batch["image"] //= 2  # some levels become more frequent than others, which is quickly learned
    model = tiny_pretrainer(config)
    settings = PretrainConfig(learning_rate=3e-3, weight_decay=0.01, beta_2=0.95, clip_norm=1.0)
    optimizer = build_optimizer(model, settings, steps=100, warmup_steps=0)
    model.compile(optimizer, jit_compile=keras.backend.backend() == "jax")
    history = model.fit(batch, batch_size=8, epochs=12, shuffle=False, verbose=0, callbacks=[count]).history["loss"]
    assert np.isfinite(history).all()
    assert history[-1] < 0.95 * history[0]
    assert len(after) == 12 and after[0] >= 1 and set(after) == {after[0]}
    assert np.isfinite(float(keras.ops.convert_to_numpy(optimizer.gradient_norm)))

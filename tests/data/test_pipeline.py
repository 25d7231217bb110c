"""The input pipeline: the same seed gives the same batches, from any step on and for any batch size."""

import dataclasses

import numpy as np
import pytest

from pf_keras.config import AugmentConfig, Config, DataConfig, ModelConfig, RunConfig, TargetConfig
from pf_keras.data.pipeline import evaluation_batches, training_batches
from pf_keras.data.sources import open_source
from pf_keras.noise import finetune_noise, pretrain_noise

CONFIG = Config(
    model=ModelConfig(image_size=16, grid=4, width=16, heads=2),
    augment=AugmentConfig(jitter_size=3),
    target=TargetConfig(size=2),
)


def with_seed(seed):
    return dataclasses.replace(CONFIG, run=RunConfig(seed=seed))


@pytest.fixture(scope="module")
def train():
    return open_source(DataConfig()).train.subset(range(50))


def take(split, config, steps, start=0, batch=8, **kwargs):
    batches = training_batches(split, config, batch, pretrain_noise(config), start_step=start, **kwargs)
    return [{k: v.numpy() for k, v in b.items()} for b in batches.take(steps)]


def test_batches_have_the_documented_shapes_types_and_ranges(train):
    (batch,) = take(train, CONFIG, 1)
    assert batch["image"].shape == (8, 16, 16, 3) and batch["image"].dtype == np.uint8
    assert batch["mask_noise"].shape == (8, 6) and batch["augment_noise"].shape == (8, CONFIG.visible, 11)
    for name in ("mask_noise", "augment_noise"):
        assert batch[name].dtype == np.float32 and 0 <= batch[name].min() and batch[name].max() < 1


def test_seed_determines_examples_and_noise(train):
    first, again, other = (take(train, with_seed(seed), 9) for seed in (3, 3, 4))
    for left, right in zip(first, again, strict=True):
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])
    assert not np.array_equal(first[0]["mask_noise"], other[0]["mask_noise"])
    assert not np.array_equal(first[0]["image"], other[0]["image"])


def test_batches_from_a_step_on_equal_those_of_an_uninterrupted_run(train):
    whole = take(train, CONFIG, 20)
    for left, right in zip(whole[13:], take(train, CONFIG, 7, start=13), strict=True):
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])


def test_start_at_a_late_step_loads_no_earlier_example(train, monkeypatch):
    loaded = []
    loader = train.loader()

    def counting():
        import tensorflow as tf

        def load(key):
            tf.py_function(lambda i: loaded.append(int(i)), [key["index"]], [])
            return loader(key)

        return load

    monkeypatch.setattr(train, "loader", counting)
    take(train, CONFIG, 1, start=100_000)
    assert len(loaded) < 8 * 12  # the prefetched ones, not 800,000


def test_every_epoch_has_each_example_once_in_another_order(train):
    keys = [(int(k["epoch"]), int(k["index"])) for k in train.keys(seed=1).take(150)]
    epochs = [[i for e, i in keys if e == epoch] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(50))
    assert epochs[0] != epochs[1] != epochs[2]


def test_noise_of_an_example_does_not_depend_on_the_batch_size(train):
    small, large = take(train, CONFIG, 6, batch=8), take(train, CONFIG, 1, batch=48)
    np.testing.assert_array_equal(np.concatenate([b["mask_noise"] for b in small]), large[0]["mask_noise"])
    np.testing.assert_array_equal(np.concatenate([b["image"] for b in small]), large[0]["image"])


def test_labels_belong_to_their_images(train):
    config = CONFIG.override({"data.flip": "false", "data.crop_ratio": "(1.0, 1.0)", "data.eval_crop": "1.0"})
    whole = {"crop_scale": (1.0, 1.0), "classes": 10}
    inputs, labels = next(iter(training_batches(train, config, 50, finetune_noise(config), **whole)))
    shown = [b["image"].numpy().tobytes() for b in evaluation_batches(train, config, 1)]
    label_of = dict(zip(shown, train.labels.tolist(), strict=True))
    assert len(label_of) == 50
    assert [label_of[image.tobytes()] for image in inputs["image"].numpy()] == labels.numpy().argmax(1).tolist()


def test_evaluation_reads_every_image_once_in_order_and_fills_the_last_batch(train):
    batches = [b["image"].numpy() for b in evaluation_batches(train, CONFIG, 16)]
    assert [b.shape for b in batches] == [(16, 16, 16, 3)] * 4
    images = np.concatenate(batches)
    alone = np.concatenate([b["image"].numpy() for b in evaluation_batches(train, CONFIG, 1)])
    np.testing.assert_array_equal(images[:50], alone)
    assert not images[50:].any()


def test_noise_layout_is_crop_then_mask_then_augmentation(train):
    """Against TensorFlow's own numbers for `(seed * 2**20 + epoch, index)`, separated in NumPy."""
    import tensorflow as tf

    whole = dataclasses.replace(with_seed(3), data=DataConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), eval_crop=1.0))
    images = np.concatenate([b["image"].numpy() for b in evaluation_batches(train, whole, 10)])
    keys = list(train.keys(seed=3, batch=8).take(64).as_numpy_iterator())
    shapes, mirrored = pretrain_noise(whole), 0
    for number, batch in enumerate(take(train, whole, 8)):
        for place, key in enumerate(keys[8 * number : 8 * number + 8]):
            seed = [3 * 2**20 + key["epoch"], key["index"]]
            drawn = tf.random.stateless_uniform((23 + 6 + whole.visible * 11,), seed).numpy()
            np.testing.assert_array_equal(batch["mask_noise"][place], drawn[23:29])
            np.testing.assert_array_equal(batch["augment_noise"][place], drawn[29:].reshape(shapes["augment_noise"]))
            image = images[key["index"]]
            mirrored += drawn[2] < 0.5
            np.testing.assert_array_equal(batch["image"][place], np.flip(image, 1) if drawn[2] < 0.5 else image)
    assert 16 < mirrored < 48


def test_datasets_run_without_the_tuning_thread(train):
    for batches in (training_batches(train, CONFIG, 8, pretrain_noise(CONFIG)), evaluation_batches(train, CONFIG, 8)):
        options = batches.take(3).options()
        assert options.autotune.enabled is False and options.deterministic is True

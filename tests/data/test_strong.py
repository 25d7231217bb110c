"""Strong augmentation against SciPy's interpolation and the standard library's colours."""

import colorsys

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from pf_keras.config import load_config
from pf_keras.data.pipeline import training_batches
from pf_keras.data.sources import open_source
from pf_keras.data.strong import augment_strongly
from pf_keras.noise import STRONG, finetune_noise
from pf_keras.tpu.steps import batch_rows

SIDE = 16
MIDDLE = dict.fromkeys(STRONG, 0.5)  # changes nothing


def noise(**values: float) -> np.ndarray:
    return np.array([{**MIDDLE, **values}[name] for name in STRONG], "float32")


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(40, 200, (SIDE, SIDE, 3), "uint8")


def test_the_middle_of_all_noise_changes_nothing(image):
    np.testing.assert_array_equal(augment_strongly(image, noise(), 1.0), image)


@pytest.mark.parametrize("values", [
    {"rotation": 0.0}, {"rotation": 0.9}, {"shear_x": 0.1}, {"shear_y": 0.8}, {"rotation": 0.3, "shear_x": 1.0, "shear_y": 0.2},
])  # fmt: skip
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_moves_as_scipy_does(image, values, strength):
    angle, x, y = (strength * (2 * {**MIDDLE, **values}[name] - 1) for name in ("rotation", "shear_x", "shear_y"))
    angle, x, y = angle * np.pi / 6, x * 0.3, y * 0.3
    # In (column, row), as the transform is defined; SciPy counts (row, column).
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.array([[1, x], [y, 1]])
    matrix = matrix[::-1, ::-1]
    centre = np.full(2, (SIDE - 1) / 2)
    channels = [
        ndimage.affine_transform(image[..., c].astype(float), matrix, centre - matrix @ centre, order=1, mode="reflect")
        for c in range(3)
    ]
    result = augment_strongly(image, noise(**values), strength).numpy().astype(int)
    assert np.abs(result - np.stack(channels, -1)).max() <= 1  # rounding of pixels and of float32


@pytest.mark.parametrize("hue, saturation", [(0.0, 0.5), (0.8, 0.5), (0.5, 0.0), (0.5, 1.0), (0.2, 0.7)])
def test_hue_and_saturation_are_those_of_hsv(image, hue, saturation):
    expected = np.zeros_like(image)
    for row, column in np.ndindex(SIDE, SIDE):
        h, s, v = colorsys.rgb_to_hsv(*(image[row, column] / 255))
        s = min(1.0, s * (1 + (2 * saturation - 1) * 0.4))
        expected[row, column] = np.round(255 * np.array(colorsys.hsv_to_rgb((h + (2 * hue - 1) * 0.1) % 1, s, v)))
    result = augment_strongly(image, noise(hue=hue, saturation=saturation), 1.0)
    np.testing.assert_allclose(result, expected, atol=1)  # one level: float32 at a rounding boundary


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_brightness_and_contrast(image, level, strength):
    change = strength * (2 * level - 1) * 0.4
    brighter = augment_strongly(image, noise(brightness=level), strength)
    np.testing.assert_allclose(brighter, np.clip(image + 255 * change, 0, 255), atol=1)
    contrasted = augment_strongly(image, noise(contrast=level), strength)
    mean = image.mean((0, 1))
    np.testing.assert_allclose(contrasted, np.clip((image - mean) * (1 + change) + mean, 0, 255), atol=1)


def test_a_fraction_of_the_images_becomes_grey(image):
    for strength in (0.5, 1.0):
        results = [augment_strongly(image, noise(grey=value), strength) for value in (0.05, 0.15, 0.25)]
        grey = [np.ptp(result, axis=-1).max() == 0 for result in results]
        assert grey == [True, strength == 1.0, False]  # 20% at full strength
    luminance = image @ np.array([0.2989, 0.587, 0.114])
    np.testing.assert_allclose(augment_strongly(image, noise(grey=0.0), 1.0)[..., 0], luminance, atol=1)


def test_batches_are_augmented_the_same_after_a_resume():
    config = load_config("digits").override({"finetune.strong": "0.7", "data.crop_scale": "(1.0,1.0)"})
    split = open_source(config.data).train
    options = {"classes": 10, "crop_scale": (1.0, 1.0)}
    names = finetune_noise(config)
    whole = list(training_batches(split, config, 8, names, **options).take(3))
    resumed = next(iter(training_batches(split, config, 8, names, start_step=2, **options)))
    np.testing.assert_array_equal(whole[2][0]["image"], resumed[0]["image"])
    assert "strong_noise" not in resumed[0]
    plain = config.override({"finetune.strong": "0"})
    other = next(iter(training_batches(split, plain, 8, finetune_noise(plain), start_step=2, **options)))
    assert not np.array_equal(other[0]["image"], resumed[0]["image"])


@pytest.mark.parametrize("values", [{}, {"strong": 0.5}, {"mix": 0.5}, {"strong": 0.5, "mix": 0.5}])
def test_planned_steps_have_the_inputs_of_the_batches(values):
    config = load_config("digits").override({f"finetune.{name}": str(value) for name, value in values.items()})
    batches = training_batches(open_source(config.data).train, config, 8, finetune_noise(config), classes=10)
    inputs, _ = batches.element_spec
    planned, _ = batch_rows(config, "finetune")
    assert {name: tuple(spec.shape[1:]) for name, spec in inputs.items()} == {name: row.shape for name, row in planned.items()}


def test_works_in_a_graph(image):
    compiled = tf.function(lambda x, n: augment_strongly(x, n, 1.0))
    values = np.random.default_rng(1).random(len(STRONG)).astype("float32")
    np.testing.assert_array_equal(compiled(image, values), augment_strongly(image, values, 1.0))

"""Every shipped config loads by its name, and its models can be built."""

import importlib
from pathlib import Path

import keras
import numpy as np
import pytest

import pf_keras
from pf_keras.config import load_config
from pf_keras.models import build_classifier, build_pretrainer
from pf_keras.noise import pretrain_noise

CONFIGS = sorted(path.stem for path in (Path(pf_keras.__file__).parent / "configs").glob("[!_]*.py"))


def test_documented_configs_are_shipped():
    assert set(CONFIGS) >= {"digits", "cifar10", "imagenette", "imagenette64", "imagenet"}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_loads_and_its_models_build(name):
    config = load_config(name)
    with keras.StatelessScope(initialize_variables=False):  # the paper's model would take 600 MB
        assert build_pretrainer(config).backbone.transformer.count_params() > 0
        assert build_classifier(config, 10).count_params() > 0
    keras.backend.clear_session()


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name == "imagenet")) for name in CONFIGS])
def test_first_loss_is_that_of_equally_likely_levels(name):
    """Label smoothing does not change it: against equal probabilities every distribution of labels has the same loss."""
    config, images = load_config(name), 2
    keras.utils.set_random_seed(0)
    model = build_pretrainer(config)
    random, size = np.random.default_rng(0), config.model.image_size
    batch = {name: random.random((images, *shape), "float32") for name, shape in pretrain_noise(config).items()}
    batch["image"] = random.integers(0, 256, (images, size, size, 3)).astype("uint8")
    inputs = {name: keras.ops.convert_to_tensor(value) for name, value in batch.items()}
    loss = float(model.compute_loss(y_pred=model(inputs, training=True)))
    assert loss == pytest.approx(np.log(2**config.target.bits), rel=0.1)
    keras.backend.clear_session()


@pytest.mark.parametrize("name", CONFIGS)
def test_config_documents_its_command(name):
    command = importlib.import_module(f"pf_keras.configs.{name}").__doc__
    assert "--mode=pretrain" in command
    assert name == "digits" or f"--config={name} " in command


def test_imagenet_config_has_the_numbers_of_the_paper():
    config = load_config("imagenet")
    assert (config.model.patches, config.visible, config.masked) == (196, 78, 118)
    assert config.pretrain.steps == 300_000 and config.pretrain.batch == 128
    assert config.pretrain.learning_rate == 2e-4 and config.pretrain.weight_decay == 0.001

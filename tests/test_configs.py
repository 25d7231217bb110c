"""Every shipped config loads by its name, and its models can be built."""

import importlib
from pathlib import Path

import keras
import pytest

import pf_keras
from pf_keras.config import load_config
from pf_keras.models import build_classifier, build_pretrainer

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

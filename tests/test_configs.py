"""Every shipped config loads, and its models can be built."""

from pathlib import Path

import keras
import pytest

from pf_keras.config import load_config
from pf_keras.models import build_classifier, build_pretrainer

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
CONFIGS = sorted(p for p in EXPERIMENTS.glob("*.py") if "config = Config(" in p.read_text())


def test_the_configs_of_the_readme_are_among_them():
    assert {p.stem for p in CONFIGS} >= {"digits", "cifar10", "imagenette", "imagenet"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_it_loads_and_builds_and_says_how_it_is_run(path):
    config = load_config(path)
    with keras.StatelessScope(initialize_variables=False):  # the paper's size would take 600 MB
        assert build_pretrainer(config).backbone.transformer.count_params() > 0
        assert build_classifier(config, 10).count_params() > 0
    keras.backend.clear_session()
    assert "--mode=pretrain" in path.read_text().split('"""')[1]


def test_the_paper_in_numbers():
    config = load_config(EXPERIMENTS / "imagenet.py")
    assert (config.model.patches, config.visible, config.masked) == (196, 78, 118)
    assert config.pretrain.steps == 300_000 and config.pretrain.batch == 128
    assert config.pretrain.learning_rate == 2e-4 and config.pretrain.weight_decay == 0.001

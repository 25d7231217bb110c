"""The parts of Keras that this package uses although Keras may change them in any minor version."""

import keras
import numpy as np
import pytest

OF_BACKEND = {"tensorflow": ["_maybe_symbolic_build"], "jax": ["_make_function", "_update_metrics_variables"]}


def require(thing, *names):
    for name in names:
        advice = "find its replacement before pyproject.toml allows this version"
        assert hasattr(thing, name), f"Keras {keras.__version__} has no {type(thing).__name__}.{name}: {advice}"


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.AdamW(use_ema=True), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def test_model_and_optimizer_have_what_the_training_uses(model):
    require(model, "_loss_tracker", "_symbolic_build", *OF_BACKEND[keras.backend.backend()])
    require(model.optimizer, "_model_variables_moving_average")


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX has no distribution strategy")
def test_fit_builds_the_model_from_an_iterator_with_its_dataset(model):
    iterators = []
    model._maybe_symbolic_build = lambda iterator: iterators.append(iterator)
    model.fit(np.zeros((4, 2)), np.zeros((4, 1)), verbose=0)
    assert len(iterators) == 1, f"fit of Keras {keras.__version__} does not call _maybe_symbolic_build"
    require(iterators[0], "_distributed_dataset")

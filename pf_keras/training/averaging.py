"""The running average of a model's weights (`ema`), which the optimizer keeps beside them."""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np
from keras import ops


def has_average(model: keras.Model) -> bool:
    """Whether the optimizer of the model keeps an average of its weights."""
    return getattr(getattr(model, "optimizer", None), "ema", 0.0) > 0


@contextlib.contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Give the model its averaged weights while the body runs, and its own weights afterwards, bit for bit.

    Trained weights have an average. The statistics of batch norm have none, because they are running averages already.

    Args:
        model: a compiled model. Without an average nothing changes, nor before the first step.
    """
    if not has_average(model) or not int(ops.convert_to_numpy(model.optimizer._iterations)):
        yield
        return
    variables = model.optimizer._trainable_variables
    own = [np.array(ops.convert_to_numpy(variable)) for variable in variables]
    try:
        for variable, average in zip(variables, model.optimizer._model_variables_moving_average, strict=True):
            variable.assign(ops.copy(average))  # under JAX `predict` takes the memory of the variables for its outputs
        yield
    finally:
        for variable, value in zip(variables, own, strict=True):
            variable.assign(value)

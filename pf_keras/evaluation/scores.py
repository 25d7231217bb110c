"""Scores of a classifier on validation images. Every image counts once, whatever the batch size."""

from functools import partial

import keras
import numpy as np

from pf_keras.config import Config
from pf_keras.data.pipeline import evaluation_batches
from pf_keras.data.records import Split
from pf_keras.training.devices import Devices


def predict_logits(model: keras.Model, split: Split, config: Config, devices: Devices) -> np.ndarray:
    """The outputs of a model for the centre crops of a split: the logits of a classifier, the features of an `Embedder`.

    Args:
        model: a compiled model.
        split: the images.
        config: how they are cropped, and `run.eval_batch`.
        devices: that the model was built on.

    Returns:
        float32 `(n, classes)` or `(n, D)`, in the order of the split.
    """
    batches = devices.distribute(partial(evaluation_batches, split, config, config.run.eval_batch))
    if model.steps_per_execution > 1:  # after a training, Keras would trace as many batches into one graph
        model.steps_per_execution, model.predict_function = 1, None
    return np.asarray(model.predict(batches, verbose=0))[: split.size]  # the last batch is padded


def top_k(logits, labels, k: int) -> float:
    """The fraction of examples whose label is among the k highest logits. Of equal logits the lower class comes first.

    Args:
        logits: float `(n, classes)`.
        labels: int `(n,)`.
        k: how many classes count as an answer.
    """
    order = np.argsort(-np.asarray(logits), axis=1, kind="stable")[:, :k]
    return float((order == np.asarray(labels)[:, None]).any(axis=1).mean())

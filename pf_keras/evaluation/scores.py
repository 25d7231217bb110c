"""Scores of a classifier on validation images. Every image counts once, whatever the batch size."""

from functools import partial

import keras
import numpy as np

from pf_keras.config import Config
from pf_keras.data.pipeline import evaluation_batches
from pf_keras.data.records import Split
from pf_keras.training.devices import Devices


class TopOne:
    """Scores a classifier in training: a function that measures its top-1 accuracy on a split.

    Args:
        name: what the score is called.
        model: the classifier.
        split: the images.
        config: of the run.
        devices: that the model was built on.
    """

    def __init__(self, name: str, model: keras.Model, split: Split, config: Config, devices: Devices):
        self.name, self.labels = name, split.labels
        with devices.scope():
            inference = Inference(model)
            devices.compile(inference)
        self.predict = Predictor(inference, split, config, devices)

    def __call__(self) -> dict[str, float]:
        return {self.name: top_k(self.predict(), self.labels, 1)}


class Inference(keras.Model):
    """A model in inference mode. It has a `predict` of its own, so that the functions of a training in progress stay."""

    def __init__(self, model: keras.Model):
        super().__init__(autocast=False)
        self.inner, self.built = model, True

    def call(self, inputs):
        return self.inner(inputs, training=False)


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
    return Predictor(model, split, config, devices)()


class Predictor:
    """Predicts the same split as often as it is called. Its arguments and what it returns are those of `predict_logits`."""

    def __init__(self, model: keras.Model, split: Split, config: Config, devices: Devices):
        self.model, self.size = model, split.size
        self.batches = devices.distribute(partial(evaluation_batches, split, config, config.run.eval_batch))
        if model.steps_per_execution > 1:  # after a training, Keras would trace as many batches into one graph
            model.steps_per_execution, model.predict_function = 1, None

    def __call__(self) -> np.ndarray:
        return np.asarray(self.model.predict(self.batches, verbose=0))[: self.size]  # the last batch is padded


def top_k(logits, labels, k: int) -> float:
    """The fraction of examples whose label is among the k highest logits. Of equal logits the lower class comes first.

    Args:
        logits: float `(n, classes)`.
        labels: int `(n,)`.
        k: how many classes count as an answer.
    """
    order = np.argsort(-np.asarray(logits), axis=1, kind="stable")[:, :k]
    return float((order == np.asarray(labels)[:, None]).any(axis=1).mean())

"""Scores on validation images. Every image counts once, whatever the batch size."""

from functools import partial

import keras
import numpy as np

from pf_keras.config import Config
from pf_keras.data.pipeline import evaluation_batches
from pf_keras.data.records import Split
from pf_keras.models import PretrainScores
from pf_keras.noise import Shapes
from pf_keras.training.devices import Devices


def predict_logits(model: keras.Model, split: Split, config: Config, devices: Devices) -> np.ndarray:
    """The logits of a classifier for the centre crops of a split.

    Args:
        model: a compiled classifier.
        split: the images.
        config: how they are cropped, and `run.eval_batch`.
        devices: that the model was built on.

    Returns:
        float32 `(n, classes)`, in the order of the split.
    """
    batches = devices.distribute(partial(evaluation_batches, split, config, config.run.eval_batch))
    # After a training with several steps per execution, Keras would trace as many batches into one graph.
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


def score_pretrainer(
    model: keras.Model, split: Split, config: Config, noise: Shapes, devices: Devices
) -> dict[str, float | None]:
    """Score a pre-trainer on the centre crops of a split, without augmentation and label smoothing.

    Args:
        model: a `Pretrainer`.
        split: the images.
        config: the model's config.
        noise: the shapes of the model's noise.
        devices: that the model was built on.

    Returns:
        `loss`, the cross-entropy in nats per target pixel and channel. `marginal_entropy`, the loss of a predictor that knows
        only how often each level occurs in these targets. `loss_ratio`, the first divided by the second, or None where all
        targets have one level.
    """
    batches = devices.distribute(partial(evaluation_batches, split, config, config.run.eval_batch, noise))
    with devices.scope():
        scores = PretrainScores(model)
        scores.compile(jit_compile=devices.jit_compile)
    outputs = scores.predict(batches, verbose=0)
    loss = float(np.mean(outputs["cross_entropy"][: split.size], dtype="float64"))  # the last batch is padded
    counts = np.sum(outputs["level_counts"][: split.size], axis=0, dtype="float64")
    fractions = counts / counts.sum(axis=1, keepdims=True)  # (channels, 2**bits)
    entropy = float(-(fractions * np.log(np.where(fractions > 0, fractions, 1))).sum(axis=1).mean())
    return {"loss": loss, "marginal_entropy": entropy, "loss_ratio": loss / entropy if entropy else None}

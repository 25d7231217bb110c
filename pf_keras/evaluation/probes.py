"""Probes of frozen features by scikit-learn: a linear classifier and nearest neighbours.

The same probes of raw pixels and of the untrained network show how much of a score is due to the pre-training.
"""

import sys
from collections.abc import Sequence

import keras
import numpy as np
from etils import epath

from pf_keras.config import Config
from pf_keras.data.labels import class_names, labelled_subset, require_classes, require_labels
from pf_keras.data.pipeline import evaluation_batches
from pf_keras.data.records import Split
from pf_keras.data.sources import Source
from pf_keras.evaluation.scores import predict_logits
from pf_keras.models import Embedder, build_backbone
from pf_keras.training.checkpoint import Checkpoint
from pf_keras.training.devices import Devices
from pf_keras.training.weights import load_backbone
from pf_keras.training.workdir import Workdir

NEIGHBOURS = 20
PIXELS = 32  # raw pixels are compared at this size, so that the linear probe does not take too long


def probe(
    workdir: Workdir, config: Config, devices: Devices, source: Source, fractions: Sequence[float], folder: epath.Path
) -> dict[str, float]:
    """Probe the features of a pre-training for each fraction of the labels, and write `probes.csv`.

    Args:
        workdir: of a pre-training.
        config: its config, possibly with other data.
        devices: that the features are computed on.
        source: labelled images. The probes are fitted on its training split and scored on its validation split.
        fractions: of the training labels.
        folder: where `probes.csv` goes.

    Returns:
        The `steps` of the pre-training, the number of validation `images`, and the top-1 accuracy of each probe as
        `{pretrained|untrained|pixels}_{linear|knn}_{fraction}`.

    Raises:
        UserError: an image has no label, or there are fewer than two classes.
    """
    devices.check_batch("run.eval_batch", config.run.eval_batch)
    require_labels(source.validation)
    require_classes(class_names(source))
    subsets = {fraction: labelled_subset(source.train, fraction) for fraction in fractions}
    for subset in subsets.values():
        require_classes(set(subset.labels.tolist()))
    pretrained, checkpoint = embedder(config, devices, str(workdir.path))
    untrained, _ = embedder(config, devices)
    extractors = {"pretrained": pretrained, "untrained": untrained, "pixels": None}
    result = {"steps": checkpoint.step, "images": source.validation.size}
    rows = [["features", "label_fraction", "labels", "linear", "knn"]]
    for kind, model in extractors.items():
        validation = features(model, source.validation, config, devices)
        for fraction, subset in subsets.items():
            train = features(model, subset, config, devices)
            linear, knn = fit_probes(train, subset.labels, validation, source.validation.labels)
            print(f"{kind}, {subset.size} labels: linear {linear:.4f}, kNN {knn:.4f}", file=sys.stderr)
            rows.append([kind, fraction, subset.size, f"{linear:.4f}", f"{knn:.4f}"])
            result |= {f"{kind}_linear_{fraction:g}": linear, f"{kind}_knn_{fraction:g}": knn}
    workdir.write_csv(folder / "probes.csv", rows)
    return result


def embedder(config: Config, devices: Devices, init: str = "") -> tuple[keras.Model, Checkpoint | None]:
    """A compiled `Embedder`, and the checkpoint that its weights came from.

    Args:
        config: of the model.
        devices: to build it on.
        init: the workdir of a pre-training. Empty for an untrained network, which has no checkpoint.
    """
    keras.utils.set_random_seed(config.run.seed)
    with devices.scope():
        model = Embedder(build_backbone(config.model))
        model.build()
        checkpoint = load_backbone(model, init, config) if init else None
        devices.compile(model)
    return model, checkpoint


def features(model: keras.Model | None, split: Split, config: Config, devices: Devices) -> np.ndarray:
    """The features of the centre crops of a split, in its order.

    Args:
        model: a compiled `Embedder`, or None for the pixels themselves.
        split: the images.
        config: how they are cropped.
        devices: that the model was built on.

    Returns:
        float32 `(n, D)`. Pixels are in [0, 1].
    """
    if model is not None:
        return predict_logits(model, split, config, devices)
    import tensorflow as tf

    batches = evaluation_batches(split, config, config.run.eval_batch)
    small = batches.map(lambda x: tf.image.resize(tf.cast(x["image"], tf.float32), (PIXELS, PIXELS), antialias=True))
    pixels = np.concatenate([batch.numpy() for batch in small])[: split.size]
    return pixels.reshape(split.size, -1) / 255.0


def fit_probes(train, labels, validation, truth) -> tuple[float, float]:
    """Fit both probes on training features and score them on validation features.

    Args:
        train: float `(n, D)`.
        labels: int `(n,)`, of `train`.
        validation: float `(m, D)`.
        truth: int `(m,)`, the labels of `validation`.

    Returns:
        The top-1 accuracy of logistic regression on standardised features, and of the nearest neighbours by cosine distance.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train, labels)
    # With few labels, 20 neighbours would be examples of all classes whatever the features.
    votes = min(NEIGHBOURS, len(labels) // len(np.unique(labels)))
    neighbours = KNeighborsClassifier(votes, metric="cosine").fit(train, labels)
    return float(linear.score(validation, truth)), float(neighbours.score(validation, truth))

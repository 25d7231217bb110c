"""Probes of frozen features: what a linear model and the nearest neighbours make of them, by scikit-learn.

The same probes on raw pixels and on the untrained network say how much of the score is the pre-training's.
"""

import csv
import io
import sys
from functools import partial

import keras
import numpy as np

from pf_keras.data.labels import class_names, labelled_subset, require_classes, require_labels
from pf_keras.data.pipeline import evaluation_batches
from pf_keras.models import Embedder, build_backbone
from pf_keras.training.transfer import load_backbone

NEIGHBOURS = 20
PIXELS = 32  # raw pixels are compared at this size, so that the linear probe stays tractable


def probe(workdir, config, devices, source, fractions, folder):
    """Score the frozen features of a pre-training workdir for each fraction of the labels.

    Writes `probes.csv` into `folder`; returns a flat dict of `{features}_{probe}_{fraction}` top-1
    accuracies, with the `steps` of pre-training that they are of.
    """
    devices.check_batch(config.run.eval_batch)
    require_labels(source.validation)
    require_classes(class_names(source))
    subsets = {fraction: labelled_subset(source.train, fraction) for fraction in fractions}
    for subset in subsets.values():
        require_classes(set(subset.labels.tolist()))
    pretrained, checkpoint = embedder(config, devices, str(workdir.path))
    untrained, _ = embedder(config, devices)
    extractors = {"pretrained": pretrained, "untrained": untrained, "pixels": None}
    result = {"steps": checkpoint.step, "images": source.validation.size}
    rows = io.StringIO()
    table = csv.writer(rows, lineterminator="\n")
    table.writerow(["features", "label_fraction", "labels", "linear", "knn"])
    for kind, model in extractors.items():
        validation = features(model, source.validation, config, devices)
        for fraction, subset in subsets.items():
            known = features(model, subset, config, devices)
            linear, knn = fit_probes(known, subset.labels, validation, source.validation.labels)
            print(f"{kind}, {subset.size} labels: linear {linear:.4f}, kNN {knn:.4f}", file=sys.stderr)
            table.writerow([kind, fraction, subset.size, f"{linear:.4f}", f"{knn:.4f}"])
            result |= {f"{kind}_linear_{fraction:g}": linear, f"{kind}_knn_{fraction:g}": knn}
    workdir.write_text(folder / "probes.csv", rows.getvalue())
    return result


def embedder(config, devices, init=None):
    """The model of pooled features and the checkpoint that it is of: of a pre-training workdir, or untrained and None."""
    keras.utils.set_random_seed(config.run.seed)
    with devices.scope():
        model = Embedder(build_backbone(config.model))
        model.build()
        checkpoint = load_backbone(model, init, config) if init else None
        model.compile(jit_compile=devices.jit_compile)
    return model, checkpoint


def features(model, split, config, devices):
    """float32 (n, D): the pooled features of a split's centre crops, or their pixels where `model` is None."""
    import tensorflow as tf


    batches = partial(evaluation_batches, split, config, config.run.eval_batch)
    if model is not None:
        return np.asarray(model.predict(devices.spread(batches), verbose=0))[: split.size]
    batches = batches()
    small = batches.map(lambda x: tf.image.resize(tf.cast(x["image"], tf.float32), (PIXELS, PIXELS), antialias=True))
    pixels = np.concatenate([batch.numpy() for batch in small])[: split.size]
    return pixels.reshape(split.size, -1) / 255.0


def fit_probes(train, labels, validation, truth):
    """Top-1 of logistic regression on standardised features, and of the nearest neighbours by cosine distance.

    No more neighbours vote than a class has labels, on average: of few labels all would, whatever the features.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train, labels)
    votes = min(NEIGHBOURS, len(labels) // len(np.unique(labels)))
    neighbours = KNeighborsClassifier(votes, metric="cosine").fit(train, labels)
    return float(linear.score(validation, truth)), float(neighbours.score(validation, truth))

"""Probes of frozen features by scikit-learn: a linear classifier and nearest neighbours.

The same probes of raw pixels and of the untrained network show how much of a score is due to the pre-training. While a
pre-training runs, `Probes` show how its features get better.
"""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from etils import epath

from pf_keras.config import Config
from pf_keras.data.labels import class_names, labelled_subset, require_classes, require_labels
from pf_keras.data.pipeline import evaluation_batches
from pf_keras.data.records import Records, Split
from pf_keras.data.selection import draw_per_class
from pf_keras.data.sources import Source
from pf_keras.errors import UserError
from pf_keras.evaluation.scores import Predictor, predict_logits
from pf_keras.models import Embedder, build_backbone
from pf_keras.training.checkpoint import Checkpoint
from pf_keras.training.devices import Devices
from pf_keras.training.weights import load_backbone
from pf_keras.training.workdir import Workdir

NEIGHBOURS = 20
PIXELS = 32  # raw pixels are compared at this size, so that the linear probe does not take too long
ITERATIONS = 1000  # of fitting a linear probe, at most
QUICK_ITERATIONS, QUICK_C = 100, 1.0  # while a pre-training waits, and of each trial in `choose_c`
CHOICES_OF_C = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # the smaller, the stronger the regularisation
FOLDS = 3


def probe(
    workdir: Workdir,
    init: str,
    config: Config,
    devices: Devices,
    source: Source,
    fractions: Sequence[float],
    folder: epath.Path,
) -> dict[str, float]:
    """Probe the features of a pre-training for each fraction of the labels, and write `probes.csv`.

    Args:
        workdir: that the table goes to.
        init: the workdir of a pre-training, or a preset.
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
    pretrained, checkpoint = embedder(config, devices, init)
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
    workdir.remove(folder / "result.json")  # of an earlier evaluation
    workdir.write_csv(folder / "probes.csv", rows)
    return result


def embedder(config: Config, devices: Devices, init: str = "") -> tuple[keras.Model, Checkpoint | None]:
    """A compiled `Embedder`, and the checkpoint that its weights came from.

    Args:
        config: of the model.
        devices: to build it on.
        init: the workdir of a pre-training, or a preset. Empty for an untrained network, which has no checkpoint.
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


def fit_probes(
    train, labels, validation, truth, iterations: int = ITERATIONS, c: float | None = None
) -> tuple[float, float]:
    """Fit both probes on training features and score them on validation features.

    Args:
        train: float `(n, D)`.
        labels: int `(n,)`, of `train`.
        validation: float `(m, D)`.
        truth: int `(m,)`, the labels of `validation`.
        iterations: of fitting the linear probe, at most.
        c: regularisation of the linear probe, scikit-learn's C. By default `choose_c` chooses it.

    Returns:
        The top-1 accuracy of logistic regression on standardised features, and of the nearest neighbours by cosine distance.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    # With several threads, small products take several times as long on a busy machine.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of iterations is meant as a limit
        c = c or choose_c(train, labels)
        linear = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=iterations)).fit(train, labels)
    # With few labels, 20 neighbours would be examples of all classes whatever the features.
    votes = min(NEIGHBOURS, len(labels) // len(np.unique(labels)))
    neighbours = KNeighborsClassifier(votes, metric="cosine").fit(train, labels)
    return float(linear.score(validation, truth)), float(neighbours.score(validation, truth))


def choose_c(features, labels) -> float:
    """Choose the regularisation of a linear probe by cross-validation inside the labels that the probe is fitted on.

    It goes from strong to weak and stops after two values without a higher accuracy, because the fits that follow would take
    most of the time.

    Args:
        features: float `(n, D)`.
        labels: int `(n,)`.

    Returns:
        One of `CHOICES_OF_C`, of equally good ones the smallest. `QUICK_C` where a class has a single label.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.preprocessing import StandardScaler

    fewest = int(np.unique(labels, return_counts=True)[1].min())
    if fewest < 2:
        return QUICK_C
    folds, best, best_right = [], QUICK_C, -1.0
    for fit, check in StratifiedKFold(min(FOLDS, fewest), shuffle=True, random_state=0).split(features, labels):
        scaler = StandardScaler().fit(features[fit])
        parts = scaler.transform(features[fit]), labels[fit], scaler.transform(features[check]), labels[check]
        folds.append((LogisticRegression(max_iter=QUICK_ITERATIONS, warm_start=True), *parts))
    for tried, c in enumerate(CHOICES_OF_C):
        right = sum(model.set_params(C=c).fit(x, y).score(held, truth) for model, x, y, held, truth in folds)
        if right > best_right:
            best, best_right, best_place = c, right, tried
        elif tried >= best_place + 2:
            break
    return best


@dataclass(frozen=True)
class Labelled:
    """The labelled images of a split.

    Args:
        split: the images.
        rows: int `(n,)`, the positions of the labelled ones in the split.
        labels: int `(n,)`, theirs. Their numbers mean nothing but which images are of one class.
    """

    split: Split
    rows: np.ndarray
    labels: np.ndarray

    def take(self, places: Sequence[int]) -> "Labelled":
        """Some of these images."""
        return Labelled(self.split, self.rows[places], self.labels[places])


def probe_images(source: Source, count: int, validation: Split | None = None) -> tuple[Labelled, Labelled]:
    """The labelled images that a pre-training is probed on. Says so where some or all validation images have no label.

    Args:
        source: of the pre-training, opened with labels.
        count: how many training and how many validation images there are, at most. Of `Records`, that many are looked at,
            because only a pass over the data would tell which of them have labels.
        validation: a part of the validation split to take them from, by default all of it.

    Returns:
        The images to fit the probes on, and those to score them on. Without labels in the validation split both are parts of
        the training images.

    Raises:
        UserError: the training images have no labels, or labels of one class only.
    """
    train, scored = labelled_sample(source.train, count), labelled_sample(validation or source.validation, count)
    if not train.labels.size:
        why = source.train.unlabelled or "the training images have no labels"
        raise UserError(f"pretrain.probe_every needs labels, but {why}. Use labelled images, or pretrain.probe_every=0.")
    if not scored.labels.size:
        held = draw_per_class([str(row) for row in train.rows], train.labels, lambda size: size // 2)
        scored, train = train.take(held), train.take(np.setdiff1d(np.arange(train.rows.size), held))
        print("probes: no validation image has a label, so half of the training images score them", file=sys.stderr)
    classes = len(set(train.labels.tolist()))
    if classes < 2 or not scored.labels.size:
        raise UserError(
            f"pretrain.probe_every needs two classes with two labelled images each, but the {train.labels.size} images of "
            f"the sample are of {classes}. Raise pretrain.probe_images, or set pretrain.probe_every=0."
        )
    return train, scored


def labelled_sample(split: Split, count: int) -> Labelled:
    """At most `count` labelled images from all over a split. Of `Records`, those among the first `count`."""
    if isinstance(split, Records):
        split = split.sample(count)
        labels = split.stored_labels  # the label of the first class, which may take a pass over all data, does not matter
    else:
        known = np.flatnonzero(split.labels >= 0)
        split = (split if known.size == split.size else split.subset(known)).sample(count)
        labels = split.labels
    rows = np.flatnonzero(labels >= 0)
    return Labelled(split, rows, labels[rows])


class Probes:
    """Probes of the features of a backbone in training: a function that measures `knn_top1` and `linear_top1`.

    The linear probe has a tenth of the iterations that `probe` gives it and a fixed C, so that the training does not wait long.

    Args:
        backbone: of the model in training.
        train: the images that the probes are fitted on.
        validation: the images that they are scored on.
        config: of the run.
        devices: that the model was built on.
    """

    def __init__(self, backbone: keras.Model, train: Labelled, validation: Labelled, config: Config, devices: Devices):
        self.train, self.validation = train, validation
        with devices.scope():
            model = Embedder(backbone)
            model.build()
            devices.compile(model)
        self.fitted = self.scored = Predictor(model, train.split, config, devices)
        if validation.split is not train.split:
            self.scored = Predictor(model, validation.split, config, devices)
        sizes = f"fitted on {train.labels.size} labelled images and scored on {validation.labels.size}"
        print(f"probes: {sizes}; the training does not see the labels", file=sys.stderr)

    def __call__(self) -> dict[str, float]:
        fitted = self.fitted()
        scored = fitted if self.scored is self.fitted else self.scored()
        linear, knn = fit_probes(
            fitted[self.train.rows],
            self.train.labels,
            scored[self.validation.rows],
            self.validation.labels,
            QUICK_ITERATIONS,
            QUICK_C,
        )
        return {"knn_top1": knn, "linear_top1": linear}

"""The probes of frozen features, against NumPy, and the images that a pre-training is probed on."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny import tiny_config, tiny_pretrainer

from pf_keras.config import DataConfig
from pf_keras.data.images import Images
from pf_keras.data.sources import Source, open_source
from pf_keras.errors import UserError
from pf_keras.evaluation.probes import (
    CHOICES_OF_C,
    NEIGHBOURS,
    QUICK_C,
    QUICK_ITERATIONS,
    Probes,
    choose_c,
    embedder,
    features,
    fit_probes,
    labelled_sample,
    probe_images,
)
from pf_keras.models import Embedder
from pf_keras.training.devices import open_devices
from pf_keras.training.identity import find_run
from pf_keras.training.workdir import Workdir
from tests.tasks.test_first_label import write_shard


def examples(count, rng):
    """Vectors (count, 8) of three classes, of very different lengths, and their classes."""
    labels = rng.integers(0, 3, count)
    vectors = np.eye(8)[labels] + 0.6 * rng.standard_normal((count, 8))
    return vectors * np.exp(2 * rng.standard_normal((count, 1))), labels


def test_nearest_neighbours_have_the_smallest_angle():
    rng = np.random.default_rng(0)
    (train, labels), (validation, truth) = examples(200, rng), examples(100, rng)
    unit, asked = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, validation))
    nearest = np.argsort(-asked @ unit.T, axis=1)[:, :NEIGHBOURS]
    voted = np.array([np.bincount(classes).argmax() for classes in labels[nearest]])
    assert fit_probes(train, labels, validation, truth)[1] == (voted == truth).mean()


def test_with_few_labels_no_more_neighbours_vote_than_a_class_has():
    rng = np.random.default_rng(1)
    train, (validation, truth) = np.eye(8)[:3], examples(50, rng)
    nearest = validation[:, :3].argmax(axis=1)  # of three unit vectors
    assert fit_probes(train, np.array([0, 1, 2]), validation, truth)[1] == (truth == nearest).mean()


def test_linear_probe_standardises_features():
    rng = np.random.default_rng(2)
    (train, labels), (validation, truth) = examples(200, rng), examples(100, rng)
    scale = 10.0 ** np.arange(-4, 4)
    train, validation = train * scale + 5, validation * scale + 5
    mean, sd = train.mean(0), train.std(0)
    model = LogisticRegression(C=0.01, max_iter=1000).fit((train - mean) / sd, labels)
    assert fit_probes(train, labels, validation, truth, c=0.01)[0] == model.score((validation - mean) / sd, truth)


@pytest.mark.parametrize("noise", [1.0, 2.0])
def test_regularisation_is_chosen_by_cross_validation_inside_the_labels(noise):
    """Against scikit-learn's search, which tries all values. Many features of pure noise need a strong regularisation."""
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, 150)
    train = np.concatenate([np.eye(3)[labels] + noise * rng.standard_normal((150, 3)), rng.standard_normal((150, 100))], axis=1)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=100))
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(model, {"logisticregression__C": CHOICES_OF_C}, cv=folds, refit=False).fit(train, labels)
    scores = dict(zip(CHOICES_OF_C, search.cv_results_["mean_test_score"], strict=True))
    best = max(scores.values())
    assert scores[choose_c(train, labels)] == pytest.approx(best) and best > scores[1.0]


def test_a_single_label_of_a_class_leaves_nothing_to_choose_by():
    assert choose_c(np.eye(4), np.array([0, 0, 0, 1])) == QUICK_C


def test_features_do_not_depend_on_the_batch_size(pretrained):
    config = find_run(Workdir(pretrained.workdir)).config
    split = open_source(config.data).validation.subset(range(23))
    devices = open_devices()
    model, _ = embedder(config, devices, str(pretrained.workdir))
    found = [features(model, split, replace(config, run=replace(config.run, eval_batch=n)), devices) for n in (5, 23, 64)]
    assert found[0].shape == (23, 16)
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other, atol=1e-5)


def test_few_iterations_are_no_warning_and_a_worse_fit():
    rng = np.random.default_rng(3)
    (train, labels), (validation, truth) = examples(300, rng), examples(300, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        short, long = (fit_probes(train, labels, validation, truth, count, c=1.0) for count in (1, 1000))
    assert short[1] == long[1] and short[0] < long[0]


def images(labels):
    """A split of images that nobody reads, with these labels."""
    return Images([f"{i}.png" for i in range(len(labels))], labels, [b""] * len(labels), sizes=[0] * len(labels))


def test_sample_is_of_labelled_images_from_all_over_the_split():
    split = images([0, -1, 0, -1, 1, -1, 1, -1])
    sample = labelled_sample(split, 3)
    assert sample.split.names == ["0.png", "4.png", "6.png"] and sample.labels.tolist() == [0, 1, 1]
    assert labelled_sample(split, 100).split.names == ["0.png", "2.png", "4.png", "6.png"]
    assert labelled_sample(images([1, 0]), 100).rows.tolist() == [0, 1]


def test_sample_of_records_reads_the_labels_of_the_first_ones_only(tmp_path, capsys):
    write_shard(tmp_path / "data", "train", [1, -2, 2, 1, 2, 1, 2], first=1)  # the second is stored as -1
    write_shard(tmp_path / "data", "validation", [2, 1], first=1)
    source = open_source(DataConfig(source=f"tfrecord:{tmp_path / 'data'}"))
    sample = labelled_sample(source.train, 4)
    assert sample.rows.tolist() == [0, 2, 3] and sample.labels.tolist() == [2, 3, 2]
    err = capsys.readouterr().err
    assert "reading the labels of 4 records" in err and "labels seem to begin" not in err


def test_validation_images_without_labels_are_replaced_by_half_of_the_sample(capsys):
    train, scored = probe_images(Source(images([0, 0, 0, 0, 1, 1, -1]), images([-1, -1])), 100)
    assert "no validation image has a label, so half of the training images score them" in capsys.readouterr().err
    assert train.split is scored.split and sorted(train.labels) == [0, 0, 1] == sorted(scored.labels)
    assert sorted([*train.rows, *scored.rows]) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        ([-1, -1], [0, 1], "pretrain.probe_every needs labels, but the training images have no labels. Use labelled images"),
        ([0, 0, -1], [0, 0], "the 2 images of the sample are of 1. Raise pretrain.probe_images, or set pretrain.probe_every"),
        ([0, 1], [-1], "needs two classes with two labelled images each, but the 2 images of the sample are of 2"),
    ],
)
def test_data_that_cannot_be_probed_are_an_error(train, validation, message):
    with pytest.raises(UserError) as error:
        probe_images(Source(images(train), images(validation)), 100)
    assert message in str(error.value)


def test_probes_of_a_training_are_those_of_its_features_and_follow_the_weights():
    config, devices, source = tiny_config(), open_devices("float32"), open_source(DataConfig())
    model = tiny_pretrainer(config)
    train, validation = probe_images(replace(source, train=source.train.sample(200)), 100)
    probes = Probes(model.backbone, train, validation, config, devices)

    def expected():
        apart = Embedder(model.backbone)
        devices.compile(apart)
        fitted, scored = (features(apart, part.split, config, devices) for part in (train, validation))
        linear, knn = fit_probes(fitted, train.labels, scored, validation.labels, QUICK_ITERATIONS, QUICK_C)
        return {"knn_top1": knn, "linear_top1": linear}

    before = [np.array(weight) for weight in model.weights]
    first = probes()
    assert train.labels.size == validation.labels.size == 100 and first == expected()
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(np.array(weight), value)
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape))
    assert probes() == expected() != first

"""The probes of frozen features, against NumPy."""

from dataclasses import replace

import numpy as np
from sklearn.linear_model import LogisticRegression

from pf_keras.data.sources import open_source
from pf_keras.evaluation.probes import NEIGHBOURS, embedder, features, fit_probes
from pf_keras.training.devices import open_devices
from pf_keras.training.identity import find_run
from pf_keras.training.workdir import Workdir


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
    model = LogisticRegression(max_iter=1000).fit((train - mean) / sd, labels)
    assert fit_probes(train, labels, validation, truth)[0] == model.score((validation - mean) / sd, truth)


def test_features_do_not_depend_on_the_batch_size(pretrained):
    config = find_run(Workdir(pretrained.workdir)).config
    split = open_source(config.data).validation.subset(range(23))
    devices = open_devices()
    model, _ = embedder(config, devices, str(pretrained.workdir))
    found = [features(model, split, replace(config, run=replace(config.run, eval_batch=n)), devices) for n in (5, 23, 64)]
    assert found[0].shape == (23, 16)
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other, atol=1e-5)

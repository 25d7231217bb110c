"""Neighbours and near duplicates by features."""

import numpy as np
import pytest

from pf_keras.evaluation import neighbours
from pf_keras.evaluation.neighbours import directions, near_duplicates, nearest, spread


@pytest.fixture
def features():
    """200 features in which one direction varies much and means nothing. Rows 150 to 199 copy rows 0 to 49, with noise."""
    rng = np.random.default_rng(0)
    found = rng.normal(size=(200, 24)).astype("float32") + 5
    found[150:] = found[:50] + rng.normal(size=(50, 24)) * 0.02
    found[:, 0] += 30 * rng.normal(size=200)
    return found


def test_directions_have_length_1_and_vary_alike(features):
    unit = directions(features)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)
    deviation = unit.std(axis=0)
    assert deviation.max() < 2 * deviation.min()  # of the features it is 30 times as large


def test_copies_are_neighbours_by_whitened_features_and_not_by_plain_ones(features):
    unit, plain = directions(features), features / np.linalg.norm(features, axis=1, keepdims=True)
    assert (nearest(plain, np.arange(50), 1)[0][:, 0] == np.arange(150, 200)).mean() < 0.3
    found, similar = nearest(unit, np.arange(50), 3)
    assert (found[:, 0] == np.arange(150, 200)).mean() > 0.9
    assert (np.diff(similar, axis=1) <= 0).all() and found.shape == similar.shape == (50, 3)
    assert (found != np.arange(50)[:, None]).all()


def test_near_duplicates_name_each_image_once_with_the_most_similar_earlier_one(monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK", 3)
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(10, 40))
    unit[7], unit[9] = unit[2], unit[2] + 0.02 * rng.normal(size=40)
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype("float32")
    pairs = near_duplicates(unit, 0.95)
    assert [(row, other) for row, other, _ in pairs] in ([(7, 2), (9, 2)], [(7, 2), (9, 7)])
    assert pairs[0][2] == pytest.approx(1) and 0.95 <= pairs[1][2] < pairs[0][2]


def test_equal_features_are_near_duplicates():
    """Rounding must not be blown up to differences."""
    same = np.full((6, 8), 3, "float32") + np.random.default_rng(0).normal(size=(6, 8)).astype("float32") * 1e-7
    assert len(near_duplicates(directions(same), 0.9)) == 5
    assert directions(same[:1]).shape == (1, 8)


def test_few_images_have_fewer_neighbours():
    unit = directions(np.random.default_rng(0).normal(size=(3, 8)).astype("float32"))
    found, _ = nearest(unit, np.arange(3), 7)
    assert sorted(found[0].tolist()) == [1, 2]


def test_spread_covers_both_ends():
    assert spread(3, 5).tolist() == [0, 1, 2] and spread(101, 3).tolist() == [0, 50, 100] and spread(0, 3).size == 0

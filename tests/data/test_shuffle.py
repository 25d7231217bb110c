"""The orders of epochs: every one is a permutation, and all are equally likely."""

import numpy as np
import pytest
import tensorflow as tf

from pf_keras.data.shuffle import permutation

EPOCHS, SIZE = 2000, 97


@pytest.fixture(scope="module")
def orders():
    """int `(EPOCHS, SIZE)`."""
    epochs = tf.data.Dataset.range(EPOCHS).map(lambda epoch: permutation(SIZE, 1, epoch))
    return np.array(list(epochs.as_numpy_iterator()))


def test_each_epoch_has_every_number_once(orders):
    assert (np.sort(orders, axis=1) == np.arange(SIZE)).all()
    assert len({tuple(order) for order in orders.tolist()}) == EPOCHS


def test_every_number_is_at_every_place_equally_often(orders):
    """The statistic has a chi-square distribution of 96² degrees of freedom, with a standard deviation of 136."""
    counts = np.array([np.bincount(orders[:, place], minlength=SIZE) for place in range(SIZE)])
    expected = EPOCHS / SIZE
    statistic = (np.square(counts - expected) / expected).sum()
    assert abs(statistic - (SIZE - 1) ** 2) < 5 * (2 * (SIZE - 1) ** 2) ** 0.5
    assert counts.min() > 0


def test_pairs_meet_in_a_batch_as_often_as_chance(orders):
    """With `index_shuffle` the variance of the counts was 6.8 times that of independent draws."""
    batches = orders[:, :96].reshape(-1, 16)
    member = np.zeros((len(batches), SIZE), "float32")
    np.put_along_axis(member, batches, 1, axis=1)
    meetings = (member.T @ member)[np.triu_indices(SIZE, 1)]
    probability = 6 * 16 * 15 / (97 * 96)
    variance = EPOCHS * probability * (1 - probability)
    assert 0.85 < meetings.var() / variance < 1.15  # 4,656 pairs: the variance is known to 2%, apart from their dependence


def test_seeds_have_orders_of_their_own():
    first, other = (permutation(50, seed, tf.constant(0, tf.int64)).numpy().tolist() for seed in (0, 1))
    assert first != other
    # A run may resume with another version of TensorFlow, which must give the same order.
    assert first[:6] == [30, 18, 28, 7, 1, 4]

"""Which images are alike, by their features.

Similarity is the cosine of whitened features, in which every direction varies as much as any other. In plain features a few
directions, such as brightness, hide the rest. With 9,469 photographs and a short pre-training, 41% of the five nearest
neighbours were of the same class by whitened features, 38% by standardised ones and 34% by plain ones.
"""

import warnings

import numpy as np

# The similarity of near duplicates. Copies in another size or JPEG quality have 0.998, brighter copies and slightly smaller
# crops about 0.91. Of 9,469 different photographs, pairs had up to 0.92 by a pre-training, and up to 0.98 by a classifier,
# which forgets what distinguishes the images of a class.
NEAR, NEAR_BY_CLASSIFIER = 0.93, 0.985
COMPARED = 100_000  # images that are compared with each other, at most
FITTED = 10_000  # images that the whitening is found from, at most
CHUNK = 256  # rows of similarities in memory at a time
EQUAL = 1e-5  # of the size of a feature: smaller differences are rounding


def directions(features: np.ndarray) -> np.ndarray:
    """Whitened features of length 1.

    With few images their covariance is not well known. It is drawn towards a multiple of the identity then (Ledoit and Wolf),
    and the features are whitened less.

    Args:
        features: float32 `(n, D)`.

    Returns:
        float32 `(n, D)`. The product of two rows is their similarity.
    """
    from sklearn.covariance import ledoit_wolf

    sample = features[spread(len(features), FITTED)].astype("float64")
    mean = sample.mean(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on a single image
        variances, basis = np.linalg.eigh(ledoit_wolf(sample)[0])
    scale = np.sqrt(np.maximum(variances, EQUAL**2 * np.square(sample).mean() + 1e-30))
    whitening, found = (basis / scale).astype("float32"), np.empty(features.shape, "float32")
    for start in range(0, len(features), CHUNK):
        part = (features[start : start + CHUNK] - mean).astype("float32") @ whitening
        length = np.linalg.norm(part, axis=1, keepdims=True)
        # What equals the mean has no direction. All of it gets the same one, because it is alike.
        found[start : start + CHUNK] = np.where(length < 0.1, features.shape[1] ** -0.5, part / np.maximum(length, 0.1))
    return found


def nearest(unit: np.ndarray, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest neighbours of some images among all others.

    Args:
        unit: float32 `(n, D)`, of `directions`.
        queries: int `(Q,)`, rows of `unit`.
        count: how many neighbours. Fewer where there are fewer images.

    Returns:
        int64 and float32 `(Q, count)`: the rows of the neighbours and their similarities, the most similar first.
    """
    similar = unit[queries] @ unit.T
    similar[np.arange(len(queries)), queries] = -np.inf
    order = np.argsort(-similar, axis=1, kind="stable")[:, : min(count, len(unit) - 1)]
    return order, np.take_along_axis(similar, order, axis=1)


def near_duplicates(unit: np.ndarray, least: float) -> list[tuple[int, int, float]]:
    """The images that look like an earlier one.

    Args:
        unit: float32 `(n, D)`, of `directions`.
        least: the similarity from which on two images are near duplicates.

    Returns:
        `(row, other row, similarity)` of each image that has near duplicates before it, with the most similar of them. The most
        similar pairs come first.
    """
    found = []
    for start in range(0, len(unit), CHUNK):
        part = unit[start : start + CHUNK]
        similar = part @ unit[: start + len(part)].T
        similar[:, start:][np.triu_indices(len(part))] = -np.inf  # a row is compared with the rows before it
        best = similar.argmax(axis=1)
        value = similar[np.arange(len(part)), best]
        found += [(start + int(row), int(best[row]), float(value[row])) for row in np.flatnonzero(value >= least)]
    return sorted(found, key=lambda pair: (-pair[2], pair[0]))


def spread(size: int, count: int) -> np.ndarray:
    """At most `count` of the numbers below `size`, evenly spread."""
    return np.arange(size) if size <= count else np.linspace(0, size - 1, count).round().astype(int)

"""Features of images: the model that computes them, the files that hold them, and their layout on a map."""

import contextlib
import importlib.util
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
from etils import epath
from keras import ops

from pf_keras.errors import writing
from pf_keras.evaluation.neighbours import EQUAL
from pf_keras.filesystem import is_remote
from pf_keras.models import Classifier, Embedder
from pf_keras.processes import cores

POINTS = 1500  # images on a map, at most
ITERATIONS = 500  # of t-SNE, which takes ten seconds for them
REDUCED = 50  # dimensions that t-SNE and UMAP begin from
CLUSTERS = 10
PARQUET_ROWS = 8192  # of a row group, which is what is in memory at a time


class HeadInput(keras.Model):
    """The vector that enters a classifier's head.

    Args:
        classifier: a built `Classifier`.

    Input:
        Images, uint8 `(B, S, S, 3)`.

    Output:
        float32 `(B, D)`.
    """

    def __init__(self, classifier: Classifier, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.classifier = classifier
        self.built = True

    def call(self, images):
        return ops.cast(self.classifier.embed(images), "float32")


def feature_model(model: keras.Model) -> keras.Model:
    """The model of the features: of a classifier what enters its head, of a pre-trainer the mean of its context."""
    if isinstance(model, Classifier):
        return HeadInput(model)
    embedder = Embedder(model.backbone)
    embedder.build()
    return embedder


def write_features(folder: epath.Path, paths: Sequence[str], labels: np.ndarray, classes: Sequence[str], vectors) -> list[str]:
    """Write `features.npz` and `features.parquet`.

    The first has the arrays `path`, `label` (int64, -1 for none), `classes` and `vector` (float32 `(n, D)`). The second has the
    columns `path`, `label` (text, or null) and `vector`.

    Args:
        folder: where the files go.
        paths: of the n images.
        labels: int64 `(n,)`, -1 for none.
        classes: the names of the labels.
        vectors: float32 `(n, D)`.

    Returns:
        The paths of the files.
    """
    import pyarrow as pa
    import pyarrow.parquet

    npz, parquet = folder / "features.npz", folder / "features.parquet"
    with _whole_file(npz) as name, open(name, "wb") as file:
        np.savez(file, path=np.array(paths, str), label=labels, classes=np.array(classes, str), vector=vectors)
    kind = pa.list_(pa.float32(), vectors.shape[1])
    schema = pa.schema([("path", pa.string()), ("label", pa.string()), ("vector", kind)])
    with _whole_file(parquet) as name, pa.parquet.ParquetWriter(name, schema) as file:
        for start in range(0, len(paths), PARQUET_ROWS):
            part = slice(start, start + PARQUET_ROWS)
            names = [class_name(label, classes) or None for label in labels[part].tolist()]
            flat = pa.array(np.ascontiguousarray(vectors[part]).reshape(-1))
            columns = [pa.array(paths[part]), pa.array(names, pa.string()), pa.FixedSizeListArray.from_arrays(flat, type=kind)]
            file.write_batch(pa.record_batch(columns, schema))
    return [str(npz), str(parquet)]


def class_name(label: int, classes: Sequence[str]) -> str:
    """The name of a label: its number where there are no names, and an empty string for -1."""
    if label < 0:
        return ""
    return classes[label] if label < len(classes) else str(label)


@contextlib.contextmanager
def _whole_file(path: epath.Path) -> Iterator[str]:
    """A local name to write to. Afterwards the file has its own name, whole or not at all."""
    with writing(path.parent):
        if is_remote(os.fspath(path)):
            with tempfile.TemporaryDirectory() as folder:
                local = Path(folder) / path.name
                yield os.fspath(local)
                epath.Path(local).copy(path, overwrite=True)
            return
        temporary = path.with_name(path.name + ".writing")
        yield os.fspath(temporary)
        temporary.replace(path)


def lay_out(points: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Lay features out in two dimensions.

    Args:
        points: float32 `(n, D)`, of `standardised`, at most `POINTS` of them.
        seed: of t-SNE and UMAP.

    Returns:
        `{method: float (n, 2)}` for `PCA`, `t-SNE` and, where umap-learn is installed, `UMAP`. Empty where there are too few
        images, or all are alike.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    count = len(points)
    if count < 3 or min(points.shape) < 2 or np.ptp(points, axis=0).max() < 1e-3:
        return {}
    reduced = PCA(min(REDUCED, *points.shape), random_state=seed).fit_transform(points)
    options = {"perplexity": min(30.0, (count - 1) / 3), "init": "pca", "max_iter": ITERATIONS, "n_jobs": cores()}
    found = {"PCA": reduced[:, :2], "t-SNE": TSNE(random_state=seed, **options).fit_transform(reduced)}
    if importlib.util.find_spec("umap") and count > REDUCED:
        found["UMAP"] = _umap(reduced, seed)
    return found


def _umap(points: np.ndarray, seed: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that a seed makes it use one core
        import umap

        return umap.UMAP(random_state=seed).fit_transform(points)


def standardised(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Some features with mean 0 and standard deviation 1 in each dimension: float32 `(len(rows), D)`.

    Args:
        features: float32 `(n, D)`.
        rows: int, which of them.
    """
    chosen = features[rows].astype("float64")
    deviation = np.maximum(chosen.std(axis=0), EQUAL * np.sqrt(np.square(chosen).mean()) + 1e-30)
    return ((chosen - chosen.mean(axis=0)) / deviation).astype("float32")


def clusters(points: np.ndarray, seed: int) -> np.ndarray:
    """Groups of similar images by k-means, the largest first: int `(n,)`.

    Args:
        points: float32 `(n, D)`, of `standardised`.
        seed: of k-means.
    """
    from sklearn.cluster import KMeans

    distinct = len(np.unique(points, axis=0))
    count = max(1, min(CLUSTERS, len(points) // 5, distinct))
    groups = KMeans(count, n_init=4, random_state=seed).fit_predict(points)
    order = np.argsort(-np.bincount(groups, minlength=count), kind="stable")
    return np.argsort(order)[groups]

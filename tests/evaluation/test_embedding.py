"""Features in files and on a map."""

import numpy as np
import pyarrow.parquet as parquet
import pytest
from etils import epath

from pf_keras.evaluation import embedding
from pf_keras.evaluation.embedding import class_name, clusters, lay_out, standardised, write_features


@pytest.mark.parametrize("remote", [False, True])
def test_files_hold_paths_labels_and_vectors(tmp_path, monkeypatch, remote):
    monkeypatch.setattr(embedding, "PARQUET_ROWS", 2)
    monkeypatch.setattr(embedding, "is_remote", lambda path: remote)
    paths, labels = ["a.jpg", "猫\n.png", "c.jpg", "d.jpg", "e.jpg"], np.array([1, -1, 0, 1, 7])
    vectors = np.arange(15, dtype="float32").reshape(5, 3)
    files = write_features(epath.Path(tmp_path), paths, labels, ("cat", "dog"), vectors)
    assert [file.rpartition("/")[2] for file in files] == ["features.npz", "features.parquet"]
    with np.load(tmp_path / "features.npz") as found:
        assert found["path"].tolist() == paths and found["label"].tolist() == labels.tolist()
        assert found["classes"].tolist() == ["cat", "dog"]
        np.testing.assert_array_equal(found["vector"], vectors)
        assert found["vector"].dtype == np.float32
    table = parquet.read_table(tmp_path / "features.parquet").to_pydict()
    assert table["path"] == paths and table["label"] == ["dog", None, "cat", "dog", "7"]
    assert table["vector"] == vectors.tolist()
    assert not list(tmp_path.glob("*.writing"))


def test_name_of_a_label_is_its_number_without_names():
    assert [class_name(*pair) for pair in ((-1, ("a",)), (0, ("a",)), (3, ("a",)), (2, ()))] == ["", "a", "3", "2"]


def test_map_separates_distinct_groups():
    rng = np.random.default_rng(0)
    centres = 20 * rng.normal(size=(3, 8))
    features = np.concatenate([centre + rng.normal(size=(20, 8)) for centre in centres]).astype("float32")
    points = standardised(features, np.arange(60))
    np.testing.assert_allclose(points.std(axis=0), 1, atol=1e-3)
    maps = lay_out(points, seed=0)
    assert {"PCA", "t-SNE"} <= set(maps) <= {"PCA", "t-SNE", "UMAP"}
    for place in maps.values():
        assert place.shape == (60, 2) and np.isfinite(place).all()
        inner = [np.linalg.norm(place[g * 20 : g * 20 + 20] - place[g * 20 : g * 20 + 20].mean(0), axis=1) for g in range(3)]
        between = np.linalg.norm(place[:20].mean(0) - place[20:40].mean(0))
        assert between > 2 * np.median(inner)
    groups = clusters(points, seed=0)
    assert all(len(set(groups[g * 20 : g * 20 + 20]) & set(groups[(g + 1) * 20 : (g + 2) * 20])) == 0 for g in range(2))
    assert (np.diff(np.bincount(groups)) <= 0).all()


@pytest.mark.parametrize("shape", [(1, 8), (2, 8), (5, 1)])
def test_few_images_have_no_map(shape):
    assert lay_out(np.random.default_rng(0).normal(size=shape).astype("float32"), 0) == {}


def test_images_that_are_all_alike_have_no_map():
    points = standardised(np.full((9, 4), 2, "float32"), np.arange(9))
    assert lay_out(points, 0) == {} and clusters(points, 0).tolist() == [0] * 9


def test_three_images_have_a_map():
    maps = lay_out(np.random.default_rng(0).normal(size=(3, 8)).astype("float32"), 0)
    assert maps["t-SNE"].shape == (3, 2)

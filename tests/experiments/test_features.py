"""What frozen features contain: the statistics, and the tables for a workdir and a file of features."""

import numpy as np
import pytest
from scipy.linalg import lstsq

from experiments import features
from pf_keras.data.sources import open_source
from pf_keras.evaluation.probes import fit_probes
from pf_keras.training.identity import find_run
from pf_keras.training.workdir import Workdir


def test_statistics_of_an_image_with_one_bright_quadrant():
    image = np.zeros((1, 8, 8, 3))
    image[:, :4, :4] = [90, 30, 10]
    found = features.statistics(image)
    grey = 0.299 * 90 + 0.587 * 30 + 0.114 * 10
    np.testing.assert_allclose(found["mean of grey"], [[grey / 4]])
    np.testing.assert_allclose(found["quadrants of grey"], [[grey * 3 / 4, -grey / 4, -grey / 4, -grey / 4]])
    np.testing.assert_allclose(found["deviation of grey"], [[grey * np.sqrt(3) / 4]])
    np.testing.assert_allclose(found["mean of chroma"], [[60 / 4, -20 / 4]])
    np.testing.assert_allclose(found["deviation of chroma"], [[60 * np.sqrt(3) / 4, 20 * np.sqrt(3) / 4]])


def test_r2_is_measured_on_images_outside_the_fit():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2000, 6))
    values = vectors @ rng.standard_normal((6, 2)) + rng.standard_normal((2000, 2))
    design = np.c_[vectors, np.ones(2000)]
    left = values[1::2] - design[1::2] @ lstsq(design[::2], values[::2])[0]
    truth = (1 - (left**2).sum(0) / ((values[1::2] - values[1::2].mean(0)) ** 2).sum(0)).mean()
    assert features.r2(vectors, values) == pytest.approx(truth, abs=0.01)
    assert features.r2(vectors, rng.standard_normal((2000, 1))) < 0.05
    assert np.isnan(features.r2(vectors, np.full((2000, 2), 0.3)))  # such as the chroma of grey images
    # On its own examples, a fit would explain half of pure noise.
    assert features.r2(rng.standard_normal((200, 100)), rng.standard_normal((200, 1))) < 0


def test_the_tables_for_a_workdir_and_a_file_of_features(pretrained, tmp_path, capsys):
    config = find_run(Workdir(pretrained.workdir)).config
    source = open_source(config.data)
    rng, splits = np.random.default_rng(0), (source.train, source.validation)
    train, test = (np.eye(10)[split.labels] + rng.standard_normal((split.size, 10)) for split in splits)
    np.savez(tmp_path / "labels.npz", train_names=source.train.names, train_features=train,
             test_names=source.validation.names, test_features=test)  # fmt: skip
    (tmp_path / "labels.txt").write_text("\n".join(source.train.names[:200]) + "\n")

    features.main([f"--data={config.data.source}", f"--runs={pretrained.workdir},{tmp_path / 'labels.npz'}",
                   f"--labels={tmp_path / 'labels.txt'}"])  # fmt: skip
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line]
    assert [len(row) for row in rows] == [6, 1, 6, 6, 2, 1, 2, 2] and rows[4][1] == "200 labels"
    assert float(rows[2][1]) > 0.9 > 0.1 > float(rows[3][1])  # noisy labels do not contain how bright an image is
    linear, knn = fit_probes(train[:200], source.train.labels[:200], test, source.validation.labels)
    assert rows[7][1] == f"{linear:.1%}, {knn:.1%}"


def test_an_image_without_features_is_named(pretrained, tmp_path):
    np.savez(tmp_path / "few.npz", test_names=["a"], test_features=np.zeros((1, 3)))
    source = open_source(find_run(Workdir(pretrained.workdir)).config.data)
    with pytest.raises(features.UserError, match=f"few.npz has no features of {source.validation.names[0]}"):
        features.reader(str(tmp_path / "few.npz"), "digits")(source.validation, "test")

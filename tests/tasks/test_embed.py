"""`embed` writes the features of any images, and draws what they make alike."""

import csv
import json
import shutil

import keras
import numpy as np
import pyarrow.parquet as parquet
import pytest
from commands import command, refused, succeed
from PIL import Image

from pf_keras.data.pipeline import evaluation_batches
from pf_keras.data.sources import open_source
from pf_keras.models import Embedder
from pf_keras.training.identity import earlier_run
from pf_keras.training.weights import load
from tests.data import images_made as made


def picture(seed):
    """An image that looks like no other."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3)).astype("uint8")
    return Image.fromarray(noise).resize((60, 60), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """60 images without labels, two of which are there twice, and every kind of corrupt image."""
    root = tmp_path_factory.mktemp("album")
    for number in range(60):
        picture(number).save(root / f"{number:02d}.png")
    picture(3).resize((90, 90), Image.Resampling.BICUBIC).save(root / "large <b> $x$.png")
    shutil.copy(root / "07.png", root / "again.png")
    made.add_corrupt(root)
    return root


@pytest.fixture
def run(pretrained, tmp_path):
    shutil.copytree(pretrained.workdir, tmp_path / "run", ignore=shutil.ignore_patterns("export", "evaluate"))
    return tmp_path / "run"


def read_csv(file):
    with file.open(newline="") as content:
        return list(csv.DictReader(content))


@pytest.mark.long
def test_features_are_those_of_the_embedder_in_the_order_of_the_split(run):
    result = succeed("--mode=embed", f"--workdir={run}")
    _, identity = earlier_run(run, "pretrain")
    split = open_source(identity.config.data).validation
    embedder = Embedder(load(run).backbone)
    images = np.concatenate([x["image"] for x in evaluation_batches(split, identity.config, 60).as_numpy_iterator()])
    expected = embedder.predict(images, verbose=0)
    with np.load(run / "embed" / "features.npz") as found:
        np.testing.assert_allclose(found["vector"], expected[: split.size], atol=1e-5)
        assert found["label"].tolist() == split.labels.tolist() and found["path"].tolist() == split.names
        assert found["classes"].tolist() == [str(number) for number in range(10)]
    table = parquet.read_table(run / "embed" / "features.parquet").to_pydict()
    assert table["path"] == split.names and table["label"] == [str(label) for label in split.labels]
    assert (result["images"], result["unreadable"], result["width"], result["steps"]) == (360, 0, 16, 20)
    assert result["coloured_by"] == "label" and result["on_map"] == 360
    assert json.loads((run / "embed" / "result.json").read_text()) == result


@pytest.mark.long
def test_copies_are_found_among_images_without_labels(run, album):
    done = command("--mode=embed", f"--workdir={run}", f"--data=folder:{album}")
    assert done.code == 0, done.err
    folder, count = run / "embed", len(made.CORRUPT)
    assert (done.result["images"], done.result["unreadable"]) == (62, count)
    assert f"{count} of {62 + count} images cannot be read" in done.err
    assert {row["path"].rpartition("/")[2] for row in read_csv(folder / "unreadable.csv")} == set(made.CORRUPT)
    pairs = [(row["path"], row["looks_like"]) for row in read_csv(folder / "duplicates.csv")]
    found = [tuple(path.rpartition("/")[2] for path in pair) for pair in pairs]
    assert {"again.png", "07.png"} == set(found[0])  # the same bytes
    assert {"large <b> $x$.png", "03.png"} in [set(pair) for pair in found]
    points = read_csv(folder / "map.csv")
    assert len(points) == 62 and {row["cluster"].split()[0] for row in points} == {"cluster"}
    assert all(np.isfinite(float(row[name])) for row in points for name in ("PCA_x", "PCA_y", "t-SNE_x", "t-SNE_y"))
    names = [path.rpartition("/")[2] for path in done.result["figures"]]
    assert names == ["neighbours.png", "duplicates.png", "map.png", "attention.png"]
    assert all(Image.open(path).width > 300 for path in done.result["figures"])


@pytest.mark.long
def test_fine_tuned_run_gives_what_enters_its_head(finetuned, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finetuned.workdir, run, ignore=shutil.ignore_patterns("export", "evaluate"))
    result = succeed("--mode=embed", f"--workdir={run}")
    assert result["features"] == "what enters the head"
    _, identity = earlier_run(run, "finetune")
    split = open_source(identity.config.data).validation.sample(360)
    images = next(evaluation_batches(split, identity.config, 360).as_numpy_iterator())["image"]
    expected = keras.ops.convert_to_numpy(load(run).embed(images))
    with np.load(run / "embed" / "features.npz") as found:
        np.testing.assert_allclose(found["vector"], expected, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images_are_enough(run, tmp_path, count):
    (tmp_path / "few").mkdir()
    for number in range(count):
        picture(number).save(tmp_path / "few" / f"{number}.png")
    result = succeed("--mode=embed", f"--workdir={run}", f"--data=folder:{tmp_path / 'few'}")
    assert result["images"] == count and (run / "embed" / "attention.png").exists()
    assert (run / "embed" / "neighbours.png").exists() == (count > 1)
    report = (run / "report.html").read_text()
    assert "embed/attention.png" in report and "The rest is missing" not in report
    assert (result["on_map"], (run / "embed" / "map.png").exists()) == ((3, True) if count == 3 else (0, False))


def test_bad_input_is_one_line(run, tmp_path):
    assert "/no/such/run" in refused("--mode=embed", "--workdir=/no/such/run")
    assert "reads an earlier run" in refused("--mode=embed")
    assert "/no/such/data" in refused("--mode=embed", f"--workdir={run}", "--data=folder:/no/such/data")
    assert "no preset and no workdir nothing" in refused("--mode=embed", f"--workdir={run}", "--init=nothing")
    assert "another model" in refused("--mode=embed", f"--workdir={run}", "--config.model.width=32")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "page.jpg").write_bytes(made.HTML)
    line = refused("--mode=embed", f"--workdir={run}", f"--data=folder:{tmp_path / 'empty'}")
    assert "Not the only image in" in line and "HTML" in line


def test_features_that_are_not_finite_are_refused(run, monkeypatch):
    from pf_keras.tasks import embed

    monkeypatch.setattr(embed, "each_batch", lambda *_: iter([(np.arange(2), np.zeros(2, int), np.full((2, 16), np.nan))]))
    assert "are not finite" in refused("--mode=embed", f"--workdir={run}")

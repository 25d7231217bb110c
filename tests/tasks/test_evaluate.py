"""Evaluation of classifiers and of frozen features, on the run's own data, on moved data and on other data."""

import csv
import json
import shutil

import numpy as np
import pytest
from commands import TINY, command, refused, succeed
from PIL import Image, ImageOps

from tests.data import images_made as made


def test_evaluation_agrees_with_the_run_and_counts_by_class(finetuned):
    result = succeed("--mode=evaluate", f"--workdir={finetuned.workdir}")
    assert result["top1"] == finetuned.result["top1"] and result["images"] == 360
    assert result["data"] == "digits" and result["changed"] == []
    rows = list(csv.DictReader((finetuned.workdir / "evaluate" / "classes.csv").open()))
    assert [row["class"] for row in rows] == [str(i) for i in range(10)]
    assert sum(int(row["images"]) for row in rows) == 360
    assert sum(int(row["correct"]) for row in rows) == round(result["top1"] * 360)
    assert (finetuned.workdir / "evaluate" / "confusion.png").exists()
    assert json.loads((finetuned.workdir / "result.json").read_text()) == finetuned.result


def test_probes_compare_with_pixels_and_an_untrained_network(pretrained):
    result = succeed("--mode=evaluate", f"--workdir={pretrained.workdir}", "--label_fraction=0.05,0.2")
    assert result["steps"] == 20
    for kind in ("pretrained", "untrained", "pixels"):
        for probe in ("linear", "knn"):
            assert 0 <= result[f"{kind}_{probe}_0.05"] <= 1 and f"{kind}_{probe}_0.2" in result
    assert result["pixels_linear_0.2"] > 0.8  # scikit-learn's own score on these digits is above 0.9


def test_bad_input_is_one_line(finetuned):
    assert "/no/such/run" in refused("--mode=evaluate", "--workdir=/no/such/run")
    line = refused("--mode=evaluate", f"--workdir={finetuned.workdir}", "--label_fraction=0.5")
    assert "--label_fraction" in line and "Leave it out" in line


def test_probing_data_of_one_class_is_refused(pretrained, tmp_path):
    (tmp_path / "album").mkdir()
    for number in range(4):
        Image.new("RGB", (20, 20), (20 * number,) * 3).save(tmp_path / "album" / f"{number}.png")
    assert "two or more" in refused("--mode=evaluate", f"--workdir={pretrained.workdir}", f"--data=folder:{tmp_path}")


def test_data_with_a_class_that_the_head_does_not_know_are_refused(finetuned, tmp_path):
    for split in ("train", "val"):
        for name in ("0", "cat"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (20, 20)).save(tmp_path / split / name / "a.png")
    line = refused("--mode=evaluate", f"--workdir={finetuned.workdir}", f"--data=folder:{tmp_path}")
    assert "class cat" in line and "10 classes (0, 1, 2, 3, 4, ...)" in line


def test_other_data_are_checked_for_corrupt_images(finetuned, tmp_path):
    data = (f"--data=folder:{made.photos_with_two_bad(tmp_path)}", "--config.data.eval_crop=1.0")
    line = refused("--mode=evaluate", f"--workdir={finetuned.workdir}", *data, "--config.data.max_bad_fraction=0.01")
    assert "2 of 30 images are corrupt" in line


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """60 photographs of three classes without a validation split, and inverted copies of them with the same names."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(60):
        photo = Image.fromarray(made.pixels(seed=number))
        for name, image in (("own", photo), ("inverted", ImageOps.invert(photo))):
            folder = root / name / f"class{number % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{number}.jpg")
    return root


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """A fine-tuning on the photographs: its workdir and its result."""
    workdir = tmp_path_factory.mktemp("trained")
    result = succeed("--mode=finetune", f"--workdir={workdir}", "--init=scratch", f"--data=folder:{photos / 'own'}", *TINY,
                     "--config.target.size=2", "--config.augment.jitter_size=0", "--config.finetune.epochs=4",
                     "--config.finetune.batch=8", "--config.finetune.learning_rate=0.01", "--config.run.eval_batch=8")
    assert result["images"] == 3  # a twentieth of each class is held out
    return workdir, result


def test_other_data_with_the_same_names_are_scored_in_full(trained, photos):
    workdir, _ = trained
    other = f"folder:{photos / 'inverted'}"
    scored = succeed("--mode=evaluate", f"--workdir={workdir}", f"--data={other}")
    assert scored["images"] == 60 and scored["data"] == other and scored["changed"] == []
    assert json.loads((workdir / "evaluate" / "result.json").read_text()) == scored
    rows = list(csv.DictReader((workdir / "evaluate" / "classes.csv").open()))
    assert [int(row["images"]) for row in rows] == [20, 20, 20]
    succeed("--mode=export", f"--workdir={workdir}")
    assert "| evaluate on other data: top1 |" in (workdir / "export" / "model_card.md").read_text()
    succeed("--mode=evaluate", f"--workdir={workdir}")  # the run's own data again
    succeed("--mode=export", f"--workdir={workdir}")
    assert "| evaluate: top1 |" in (workdir / "export" / "model_card.md").read_text()


def test_other_data_given_as_the_moved_data_of_the_run_are_refused(trained, photos):
    workdir, result = trained
    scored = succeed("--mode=evaluate", f"--workdir={workdir}")
    other = f"--config.data.source=folder:{photos / 'inverted'}"
    for mode in (("--mode=evaluate",), ("--mode=finetune", "--init=scratch")):
        line = refused(*mode, f"--workdir={workdir}", other)
        assert "does not hold the data of the run" in line and "with other names, sizes or content" in line
    assert json.loads((workdir / "result.json").read_text()) == result
    assert json.loads((workdir / "evaluate" / "result.json").read_text()) == scored


def test_moved_data_give_the_same_scores(trained, photos, tmp_path):
    workdir, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(trained[0], workdir)
    shutil.copytree(photos / "own", moved)
    source = f"--config.data.source=folder:{moved}"
    scored = succeed("--mode=evaluate", f"--workdir={workdir}", source)
    assert (scored["top1"], scored["images"]) == (trained[1]["top1"], 3) and scored["data"] == f"folder:{photos / 'own'}"
    resumed = succeed("--mode=finetune", f"--workdir={workdir}", "--init=scratch", source)
    assert resumed["top1"] == trained[1]["top1"]
    assert succeed("--mode=evaluate", f"--workdir={workdir}")["data"] == f"folder:{moved}"  # resuming recorded the place


def test_own_source_given_again_as_data_scores_the_validation_split(trained, photos):
    workdir, result = trained
    scored = succeed("--mode=evaluate", f"--workdir={workdir}", f"--data=folder:{photos / 'own'}")
    assert (scored["images"], scored["top1"]) == (3, result["top1"])


def test_probes_of_other_data_are_fitted_on_their_training_split(pretrained, photos):
    data = (f"--data=folder:{photos / 'own'}", "--config.run.eval_batch=8")
    assert succeed("--mode=evaluate", f"--workdir={pretrained.workdir}", *data)["images"] == 3


def test_standard_error_says_which_data_are_scored(finetuned, tmp_path):
    for number in range(12):
        place = tmp_path / str(number % 10)
        place.mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (20 * number,) * 3).save(place / f"{number}.png")
    done = command("--mode=evaluate", f"--workdir={finetuned.workdir}", f"--data=folder:{tmp_path}")
    assert done.code == 0, done.err
    assert done.result["images"] == 12 and f"data: folder:{tmp_path}, all of" in done.err, done.err


def test_labels_are_matched_to_the_head_by_the_names_of_the_classes():
    from pf_keras.errors import UserError
    from pf_keras.tasks.evaluate import labels_of_head

    head = ("cat", "dog", "owl")
    assert labels_of_head(np.array([0, 1, 0]), ("dog", "owl"), head).tolist() == [1, 2, 1]
    assert labels_of_head(np.array([0, 2]), (), head).tolist() == [0, 2]
    assert labels_of_head(np.array([1, 0]), ("x", "y"), ("a", "a")).tolist() == [1, 0]  # by number: names are not distinct
    for labels, names in (([3], ()), ([0, 1], ("cat", "cow")), ([0] * 4, ("cat", "dog", "owl", "owl"))):
        with pytest.raises(UserError, match="3 classes"):
            labels_of_head(np.array(labels), names, head)

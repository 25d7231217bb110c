import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import TINY, command, refused, succeed
from PIL import Image

from pf_keras.training.identity import find_run
from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.workdir import Workdir
from tests.data import images_made as made
from tests.data.test_range16 import x_rays
from tests.tasks.test_first_label import write_shard


def test_workdir_has_config_metrics_figures_and_result(pretrained):
    workdir = pretrained.workdir
    assert json.loads((workdir / "result.json").read_text()) == pretrained.result
    run = find_run(Workdir(workdir))
    assert run.mode == "pretrain" and run.config.model.width == 16
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20]
    assert set(lines[0]) >= {"loss", "learning_rate", "gradient_norm", "images_per_second"}
    for name in ("reconstruction.png", "loss.png"):
        assert Image.open(workdir / "figures" / name).width > 300
    assert list((workdir / "tensorboard").iterdir())


def test_result_has_consistent_scores(pretrained):
    result = pretrained.result
    assert set(result) >= {"steps", "loss", "marginal_entropy", "loss_ratio", "parameters", "images_per_second"}
    assert result["steps"] == 20
    assert result["loss_ratio"] == pytest.approx(result["loss"] / result["marginal_entropy"])
    assert 0 < result["marginal_entropy"] < np.log(4)


def test_finished_run_started_again_trains_no_further_and_has_the_same_result(pretrained):
    flags = ("--config.pretrain.steps=20", "--config.pretrain.batch=32", "--config.run.log_every=10")
    again = command("--mode=pretrain", f"--workdir={pretrained.workdir}", *TINY, *flags)
    assert again.code == 0, again.err
    assert "resuming from" in again.err and "step 10/20" not in again.err
    assert again.result == pretrained.result


def test_unlabelled_images_can_be_pretrained_on(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype="uint8")).save(folder / f"{i}.png")
    result = succeed("--mode=pretrain", f"--workdir={tmp_path / 'run'}", f"--data=folder:{folder}", *TINY,
                     "--config.pretrain.steps=2", "--config.pretrain.batch=8", "--config.run.eval_batch=8")
    assert result["validation_images"] == 2


SHORT = ("--config.pretrain.steps=2", "--config.pretrain.batch=8", "--config.run.eval_batch=8")


def test_classes_that_do_not_agree_and_strays_can_be_pretrained_on(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("train/ant", "train/bee/2019", "train", "val/wasp", "val"):
        (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype="uint8")).save(tmp_path / "photos" / name / f"{i}.png")
    done = command("--mode=pretrain", f"--workdir={tmp_path / 'run'}", f"--data=folder:{tmp_path / 'photos'}", *TINY, *SHORT)
    assert done.code == 0 and done.result["validation_images"] == 8, done.err
    assert "classes: none, 12 images without labels" in done.err and "learned nothing" not in done.err


def test_run_on_blank_images_says_that_it_learned_nothing(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "scans" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("L", (30, 20), 255).save(tmp_path / "scans" / name / f"{i}.png")
    done = command("--mode=pretrain", f"--workdir={tmp_path / 'run'}", f"--data=folder:{tmp_path / 'scans'}", *TINY, *SHORT)
    assert done.code == 0 and done.result["loss_ratio"] is None, done.err
    assert "classes: a (4), b (4)\n" in done.err
    *_, last, report = done.err.splitlines()
    assert last.startswith("WARNING: this run learned nothing. The targets of all 2 validation images have a single"), last
    assert report == f"report: {tmp_path / 'run' / 'report.html'}"


def weights_of(workdir, step):
    """Everything that a checkpoint holds, by its place in the file."""
    found = {}
    with h5py.File(Path(workdir) / "checkpoints" / f"step-{step:08d}" / "model.weights.h5") as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return found


def test_probes_are_logged_drawn_and_leave_the_training_as_it_is(pretrained, tmp_path):
    done = command("--mode=pretrain", f"--workdir={tmp_path}", *TINY, "--config.pretrain.steps=20",
                   "--config.pretrain.batch=32", "--config.run.log_every=10", "--config.pretrain.probe_every=10",
                   "--config.pretrain.probe_images=150")  # fmt: skip
    assert done.code == 0, done.err
    assert "probes: fitted on 150 labelled images and scored on 150; the training does not see the labels" in done.err
    assert "  knn_top1 0." in done.err and "  linear_top1 0." in done.err
    lines = MetricsLog(Workdir(tmp_path)).lines()
    assert [line["step"] for line in lines if 0.1 < line["knn_top1"] < 1 and 0.1 < line["linear_top1"] < 1] == [10, 20]
    last = {"probe_step": 20, "probe_labels": 150, "probe_images": 150}
    last |= {name: lines[-1][name] for name in ("knn_top1", "linear_top1")}
    assert {name: done.result.pop(name) for name in last} == last
    assert f"right for {last['knn_top1']:.1%} (kNN) and {last['linear_top1']:.1%} (linear) at step 20" in (
        (tmp_path / "report.html").read_text()
    )
    assert {k: v for k, v in done.result.items() if k != "images_per_second"} == {
        k: v for k, v in pretrained.result.items() if k != "images_per_second"
    }
    left, right = weights_of(tmp_path, 20), weights_of(pretrained.workdir, 20)
    assert left.keys() == right.keys() and len(left) > 100
    for name, values in left.items():
        np.testing.assert_array_equal(values, right[name], err_msg=name)


def test_probes_without_labels_or_at_other_steps_than_the_log_are_one_line(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(40):
        Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / "photos" / f"{i}.png")
    flags = ("--mode=pretrain", f"--workdir={tmp_path / 'run'}", f"--data=folder:{tmp_path / 'photos'}", *TINY, *SHORT)
    line = refused(*flags, "--config.pretrain.probe_every=50")
    assert "pretrain.probe_every needs labels, but" in line and "is not in a class folder" in line, line
    assert not (tmp_path / "run" / "config.json").exists()
    line = refused(*flags, "--config.pretrain.probe_every=30")
    assert "pretrain.probe_every is 30, which is not a multiple of run.log_every=50. Change one of the two." in line


@pytest.mark.long
def test_records_are_probed_and_probes_can_be_turned_on_when_a_run_resumes(tmp_path):
    write_shard(tmp_path / "data", "train", [0, 1, 2] * 20, first=1)
    write_shard(tmp_path / "data", "validation", [0, 1, 2] * 4, first=1)
    flags = ("--mode=pretrain", f"--data=tfrecord:{tmp_path / 'data'}", *TINY, "--config.pretrain.steps=8",
             "--config.pretrain.batch=8", "--config.run.log_every=4", "--config.run.checkpoint_every=4",
             "--config.run.eval_batch=8")  # fmt: skip
    for name, probing in (("without", ()), ("with", ("--config.pretrain.probe_every=4", "--config.pretrain.probe_images=30"))):
        done = command(*flags, *probing, f"--workdir={tmp_path / name}")
        assert done.code == 0, done.err
    assert "probes: fitted on 30 labelled images and scored on 12" in done.err
    left, right = weights_of(tmp_path / "with", 8), weights_of(tmp_path / "without", 8)
    for name, values in left.items():
        np.testing.assert_array_equal(values, right[name], err_msg=name)
    shutil.rmtree(tmp_path / "without" / "checkpoints" / "step-00000008")
    done = command(*flags, *probing, f"--workdir={tmp_path / 'without'}")
    assert done.code == 0, done.err
    lines = [MetricsLog(Workdir(tmp_path / name)).lines()[-1] for name in ("with", "without")]
    assert lines[0]["knn_top1"] == lines[1]["knn_top1"] > 0.5


def test_warm_up_longer_than_the_training_is_a_warning(tmp_path):
    done = command("--mode=pretrain", f"--workdir={tmp_path}", *TINY, "--config.pretrain.steps=2", "--config.pretrain.batch=8",
                   "--config.pretrain.warmup_steps=2")
    assert done.code == 0 and "pretrain.warmup_steps=2 covers all 2 steps" in done.err, done.err


def test_range_of_16_bit_images_is_found_once_and_belongs_to_the_run(tmp_path):
    low, high = x_rays(tmp_path / "scans" / "train" / "a")
    x_rays(tmp_path / "scans" / "val" / "a", count=4)
    flags = ("--mode=pretrain", f"--workdir={tmp_path / 'run'}", f"--data=folder:{tmp_path / 'scans'}", *TINY, *SHORT,
             "--config.data.range16=data")
    done = command(*flags)
    assert done.code == 0 and "found in 12 images" in done.err, done.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["data"]["range16"] == f"{low}-{high}" and done.result["loss_ratio"] > 0.5
    again = command(*flags)
    assert again.code == 0 and "found in" not in again.err and again.result == done.result, again.err


def test_corrupt_validation_image_is_found_before_the_training(tmp_path):
    photos = made.photos(tmp_path / "photos")
    (photos / "val" / "class0" / "page.jpg").write_bytes(b"<!DOCTYPE html><html>")
    line = refused("--mode=pretrain", f"--workdir={tmp_path / 'run'}", f"--data=folder:{photos}", *TINY, *SHORT)
    assert "class0/page.jpg cannot be read: it is an HTML page" in line and "the validation split of folder:" in line
    assert not (tmp_path / "run" / "metrics.jsonl").exists() and not list((tmp_path / "run").glob("checkpoints/*"))

"""A run leaves out corrupt images, and so does every later mode."""

import json

import pytest
from commands import TINY, command, refused

from tests.data import images_made as made


def run(*flags):
    done = command(*flags)
    assert done.code == 0, done.err
    assert "looking for it" not in done.err  # no mode met a corrupt image
    return done.result


@pytest.mark.long
def test_later_modes_leave_out_what_the_run_left_out(tmp_path):
    photos = made.photos_with_two_bad(tmp_path / "photos")
    workdir = {name: f"--workdir={tmp_path / name}" for name in ("pretrain", "sweep", "sweep/final/scratch/seed-0")}
    data = (f"--data=folder:{photos}", "--config.data.max_bad_fraction=0.1", "--config.run.eval_batch=8")
    few = ("--config.pretrain.steps=2", "--config.pretrain.batch=8", "--config.target.size=2", "--config.augment.jitter_size=0")
    assert run("--mode=pretrain", workdir["pretrain"], *TINY, *data, *few)["bad_images"] == 2
    names = [json.loads(line)["name"] for line in (tmp_path / "pretrain" / "bad.jsonl").read_text().splitlines()]
    assert names == ["class1/page.jpg", "class0/cut.jpg"]
    run("--mode=reconstruct", workdir["pretrain"])
    probed = run("--mode=evaluate", workdir["pretrain"])
    assert (probed["images"], probed["bad_images"]) == (8, 2)

    grid = ("--config.finetune.epochs=1", "--config.sweep.batches=(4,)", "--config.sweep.learning_rates=(1e-3,)", "--seeds=0")
    swept = run("--mode=sweep", "--init=scratch", workdir["sweep"], *TINY, *data, *few, *grid)
    assert (swept["labels"], swept["bad_images"]) == (20, 2)
    for file in ("sweep/bad.jsonl", "sweep/final/scratch/seed-0/bad.jsonl"):
        assert (tmp_path / file).read_text() == (tmp_path / "pretrain" / "bad.jsonl").read_text()

    scored = run("--mode=evaluate", workdir["sweep/final/scratch/seed-0"])
    assert (scored["images"], scored["bad_images"], scored["top1"]) == (8, 2, swept["scratch_top1_mean"])

    line = refused("--mode=evaluate", workdir["pretrain"], "--config.data.max_bad_fraction=0")
    assert "2 of 30 images are corrupt, more than data.max_bad_fraction=0.0 allows" in line

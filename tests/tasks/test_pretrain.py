import json

import numpy as np
import pytest
from commands import TINY, command
from PIL import Image

from pf_keras.config import Config
from pf_keras.tasks import reconstruct
from pf_keras.training.checkpoint import Checkpoint


def test_it_leaves_the_whole_run_in_its_workdir(pretrained):
    workdir = pretrained.workdir
    assert json.loads((workdir / "result.json").read_text()) == pretrained.result
    known = json.loads((workdir / "config.json").read_text())
    assert known["mode"] == "pretrain" and Config.from_dict(known["config"]).model.width == 16
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20]
    assert set(lines[0]) >= {"loss", "learning_rate", "gradient_norm", "images_per_second"}
    for name in ("reconstruction.png", "loss.png"):
        assert Image.open(workdir / "figures" / name).width > 300
    assert list((workdir / "tensorboard").iterdir())


def test_the_result_has_the_figures_and_they_fit_together(pretrained):
    result = pretrained.result
    assert set(result) >= {"steps", "loss", "marginal_entropy", "loss_ratio", "parameters", "images_per_second"}
    assert result["steps"] == 20
    assert result["loss_ratio"] == pytest.approx(result["loss"] / result["marginal_entropy"])
    assert 0 < result["marginal_entropy"] < np.log(4)


def test_the_marginal_entropy_is_that_of_the_held_out_targets(pretrained):
    """Counted anew in NumPy: the masked patches' grey levels of every held-out digit."""
    from pf_keras.data.pipeline import evaluation_batches
    from pf_keras.data.sources import open_source
    from pf_keras.noise import pretrain_noise
    from pf_keras.training.workdir import Workdir

    config = Workdir(pretrained.workdir).config()
    source = open_source(config.data)
    counts = np.zeros(4)
    seen = 0
    for batch in evaluation_batches(source.validation, config, 64, pretrain_noise(config)):
        for image, noise in zip(batch["image"].numpy(), batch["mask_noise"].numpy(), strict=True):
            seen += 1
            if seen > source.validation.size:
                break
            # 16 patches in 4 blocks of 4: the first 10 places of the blocks in the order of their noise
            rank = np.argsort(np.argsort(noise))
            order = sorted(range(16), key=lambda i: (rank[i // 4 // 2 * 2 + i % 4 // 2], i // 4 % 2, i % 2))
            for place in order[:10]:
                top, left = place // 4 * 4 + 1, place % 4 * 4 + 1
                pixels = image[top : top + 2, left : left + 2, 0]  # digits are grey
                counts += np.bincount(pixels.ravel() // 64, minlength=4)
    shares = counts / counts.sum()
    entropy = -sum(p * np.log(p) for p in shares if p)
    assert entropy == pytest.approx(pretrained.result["marginal_entropy"], rel=1e-6)


def test_started_again_it_trains_no_more_and_answers_the_same(pretrained):
    flags = ("--config.pretrain.steps=20", "--config.pretrain.batch=32", "--config.run.log_every=10")
    again = command("--mode=pretrain", f"--workdir={pretrained.workdir}", *TINY, *flags)
    assert again.code == 0, again.err
    assert "going on from" in again.err and "step 10/20" not in again.err
    assert again.result == pretrained.result


def test_unlabelled_images_serve_pretraining(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype="uint8")).save(folder / f"{i}.png")
    done = command("--mode=pretrain", f"--workdir={tmp_path / 'run'}", f"--data=folder:{folder}", *TINY,
                   "--config.pretrain.steps=2", "--config.pretrain.batch=8", "--config.run.eval_batch=8")
    assert done.code == 0, done.err
    assert done.result["validation_images"] == 2


def test_reconstruct_draws_a_checkpoint_on_other_data(pretrained, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (40, 40), (80 * i, 0, 0)).save(folder / f"{i}.jpg")
    figure = pretrained.workdir / "figures" / "reconstruction.png"
    before = figure.read_bytes()
    done = command("--mode=reconstruct", f"--workdir={pretrained.workdir}", f"--data=folder:{folder}", "--checkpoint=20")
    assert done.code == 0, done.err
    assert done.result["step"] == 20 and figure.read_bytes() != before


def test_pictures_show_images_from_all_over_the_validation_split(pretrained, tmp_path, monkeypatch):
    """In a folder sorted by class the first images are of one class."""
    for number in range(6):
        for i in range(8):
            path = tmp_path / "photos" / ("val" if i < 4 else "train") / f"class{number}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (40 * number, 0, 0)).save(path)
    shown = []
    draw_panels = reconstruct.draw_reconstruction
    monkeypatch.setattr(reconstruct, "draw_reconstruction", lambda *a: shown.append(a[0][0]) or draw_panels(*a))
    data = f"--data=folder:{tmp_path / 'photos'}"
    assert command("--mode=reconstruct", f"--workdir={pretrained.workdir}", data).code == 0
    done = command("--mode=pretrain", f"--workdir={tmp_path / 'run'}", data, *TINY, "--config.pretrain.steps=2",
                   "--config.pretrain.batch=8", "--config.run.eval_batch=8", "--config.target.size=2")  # fmt: skip
    assert done.code == 0, done.err
    for images in shown:
        assert sorted(np.round(255 * images[:, 0, 0, 0])) == [40 * number for number in range(6)]
    assert len(shown) == 2


def test_reconstruct_names_the_checkpoint_that_was_read(pretrained, monkeypatch):
    """A run in progress may have removed the one that was the newest when it was asked for."""
    found = reconstruct.require_checkpoint(pretrained.workdir / "checkpoints")
    removed = Checkpoint(found.path.with_name("step-00000005"), 5, found.state)
    monkeypatch.setattr(reconstruct, "require_checkpoint", lambda *_: removed)
    done = command("--mode=reconstruct", f"--workdir={pretrained.workdir}")
    assert done.code == 0 and done.result["step"] == 20, done.err


def test_reconstruct_of_a_step_that_is_not_there(pretrained):
    done = command("--mode=reconstruct", f"--workdir={pretrained.workdir}", "--checkpoint=7")
    assert done.code == 2 and done.err.count("\n") == 1 and "step-00000020" in done.err

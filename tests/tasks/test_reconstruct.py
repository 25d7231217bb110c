import numpy as np
from commands import TINY, command, refused, succeed
from PIL import Image

from pf_keras.evaluation import reconstruction
from pf_keras.training import weights
from pf_keras.training.checkpoint import Checkpoint


def test_other_images_are_all_candidates_for_the_picture(pretrained, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (40, 40), (80 * i, 0, 0)).save(folder / f"{i}.jpg")
    figure = pretrained.workdir / "figures" / "reconstruction.png"
    before = figure.read_bytes()
    source = f"folder:{folder}"
    result = succeed("--mode=reconstruct", f"--workdir={pretrained.workdir}", f"--data={source}", "--checkpoint=20")
    assert result["step"] == 20 and result["data"] == source and figure.read_bytes() != before


def test_pictures_show_images_from_all_over_the_validation_split(pretrained, tmp_path, monkeypatch):
    """In a folder sorted by class, the first images are of one class."""
    for number in range(6):
        for i in range(8):
            path = tmp_path / "photos" / ("val" if i < 4 else "train") / f"class{number}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (40 * number, 0, 0)).save(path)
    shown = []
    draw_panels = reconstruction.draw_reconstruction
    monkeypatch.setattr(reconstruction, "draw_reconstruction", lambda *a: shown.append(a[0][0]) or draw_panels(*a))
    data = f"--data=folder:{tmp_path / 'photos'}"
    succeed("--mode=reconstruct", f"--workdir={pretrained.workdir}", data)
    succeed("--mode=pretrain", f"--workdir={tmp_path / 'run'}", data, *TINY, "--config.pretrain.steps=2",
            "--config.pretrain.batch=8", "--config.run.eval_batch=8", "--config.target.size=2")  # fmt: skip
    for images in shown:
        assert sorted(np.round(255 * images[:, 0, 0, 0])) == [40 * number for number in range(6)]
    assert len(shown) == 2


def test_result_names_the_checkpoint_that_was_read(pretrained, monkeypatch):
    """A run in progress may remove the checkpoint that was the newest a moment ago."""
    found = weights.require_checkpoint(pretrained.workdir / "checkpoints")
    removed = Checkpoint(found.path.with_name("step-00000005"), 5, found.state)
    monkeypatch.setattr(weights, "require_checkpoint", lambda *_: removed)
    done = command("--mode=reconstruct", f"--workdir={pretrained.workdir}")
    assert done.code == 0 and done.result["step"] == 20, done.err


def test_missing_step_is_refused_with_the_steps_there_are(pretrained):
    assert "step-00000020" in refused("--mode=reconstruct", f"--workdir={pretrained.workdir}", "--checkpoint=7")

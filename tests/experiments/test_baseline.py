"""The baseline trains on labels alone, chooses on held-out ones, and resumes."""

import json

import numpy as np
import pytest

from experiments import baseline

FLAGS = ["--config=digits", "--data=digits", "--label_fraction=0.1", "--epochs=1", "--learning_rates=0.1", "--crops=0.7",
         "--strengths=0,0.3", "--batch=32", "--seeds=0,1"]  # fmt: skip


def test_the_resnet_has_the_published_size():
    model = baseline.resnet(32, 10)
    assert model.count_params() == pytest.approx(0.27e6, rel=0.03)  # ResNet-20 of He et al., 2016
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), "uint8")
    assert model(images).shape == (2, 10) and baseline.resnet(64, 3)(np.zeros((1, 64, 64, 3), "uint8")).shape == (1, 3)


@pytest.mark.long
def test_a_grid_its_winner_and_a_second_run_that_trains_nothing(tmp_path, capsys, monkeypatch):
    baseline.main([*FLAGS, f"--workdir={tmp_path}"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == json.loads((tmp_path / "result.json").read_text())
    scores = {file.parent.name: json.loads(file.read_text()) for file in tmp_path.glob("*/*/score.json")}
    assert set(scores) == {"1-epochs-lr0.1-crop0.7", "1-epochs-lr0.1-crop0.7-strong0.3", "seed-0", "seed-1"}
    grid = {name: score["top1"] for name, score in scores.items() if name.startswith("1-")}
    chosen = "1-epochs-lr0.1-crop0.7-strong0.3" if result["strong"] else "1-epochs-lr0.1-crop0.7"
    assert result["held_out_top1"] == max(grid.values()) == grid[chosen]
    final = [scores["seed-0"]["top1"], scores["seed-1"]["top1"]]
    assert result["top1_mean"] == pytest.approx(np.mean(final)) and result["top1_sd"] == pytest.approx(np.std(final, ddof=1))
    assert result["labels"] == 143 and result["images"] == 360
    assert scores["1-epochs-lr0.1-crop0.7-strong0.3"]["what"]["labels"] < 143 == scores["seed-0"]["what"]["labels"]

    monkeypatch.setattr("keras.Model.fit", None)
    baseline.main([*FLAGS, f"--workdir={tmp_path}"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    with pytest.raises(baseline.UserError, match="is of another training. Choose another --workdir."):
        baseline.main([*FLAGS, "--label_fraction=0.2", f"--workdir={tmp_path}"])


def test_a_batch_above_the_number_of_labels_is_an_error(tmp_path):
    with pytest.raises(baseline.UserError, match="There are 113 labelled images, but --batch=500. Make it smaller."):
        baseline.main([*FLAGS, "--batch=500", f"--workdir={tmp_path}"])

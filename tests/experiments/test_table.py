"""The table of few-label results: its figures, and the whole chain of commands on digits."""

import subprocess
import sys

import pytest

from experiments.table import main, table
from tests.commands import TINY


def test_the_table_says_what_the_commands_found():
    sweeps = {
        "0.01": {"labels": 500, "seeds": 3, "scratch_top1_mean": 0.265, "scratch_top1_sd": 0.01,
                 "pretrained_top1_mean": 0.442, "pretrained_top1_sd": 0.0049},
        "0.20": {"labels": 10000, "seeds": 3, "scratch_top1_mean": 0.7, "scratch_top1_sd": 0.0,
                 "pretrained_top1_mean": 0.6, "pretrained_top1_sd": 0.02},
    }  # fmt: skip
    probes = {"images": 2000, "pretrained_linear_0.01": 0.3, "pretrained_knn_0.01": 0.25,
              "pretrained_linear_0.2": 0.5, "pretrained_knn_0.2": 0.4}  # fmt: skip
    lines = table(["0.01", "0.20"], sweeps, probes, {"labels": 50000, "steps": 7, "top1": 0.9})
    assert lines[2] == "| 1% (500) | 26.5% ± 1.0% | 44.2% ± 0.5% | +17.7 | 30.0% | 25.0% |"
    assert lines[3] == "| 20% (10000) | 70.0% ± 0.0% | 60.0% ± 2.0% | -10.0 | 50.0% | 40.0% |"
    assert "2000 validation images" in lines[5] and "3 seeds" in lines[5]
    assert lines[-1] == "All 50000 labels from scratch, 7 steps: 90.0%"


def test_shares_without_epochs_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--config=x", "--data=digits", "--runs=y", "--epochs=3"])
    assert "as many --epochs as --fractions, received 1 for 3" in capsys.readouterr().err


def test_a_seed_is_no_short_form_of_seeds(monkeypatch):
    said = []
    monkeypatch.setattr("experiments.table.commands", lambda *lines: said.extend(lines) or sys.exit())
    with pytest.raises(SystemExit):
        main(["--config=x", "--data=digits", "--runs=y", "--seed=5"])
    assert "--seed=5" in said[0]


@pytest.mark.slow
def test_the_whole_chain_goes_on_where_it_was_stopped(tmp_path):
    line = [
        sys.executable, "-m", "experiments.table", "--config=experiments/digits.py", "--data=digits", f"--runs={tmp_path}",
        "--fractions=0.05,0.2", "--epochs=4,2", "--ceiling_epochs=1", "--seeds=0,1", "--at_once=2", *TINY,
        "--config.pretrain.steps=10", "--config.run.log_every=2", "--config.sweep.batches=(16,)",
        "--config.sweep.learning_rates=(1e-3,)",
    ]  # fmt: skip
    first = subprocess.run(line, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    text = (tmp_path / "table.md").read_text()
    assert text.count("±") == 5 and "All 1437 labels" in text
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "table.md").unlink()
    again = subprocess.run(line, capture_output=True, text=True)
    assert "--mode=evaluate" in first.stdout and "--mode=evaluate" not in again.stdout
    assert again.returncode == 0 and (tmp_path / "table.md").read_text() == text

"""The table of few-label results: its figures, its commands, and the whole chain on the digits."""

import subprocess
import sys

import pytest

from experiments.table import main, table
from tests.commands import TINY


def test_the_table_has_the_results_of_the_commands():
    sweeps = {
        "0.01": {"labels": 500, "seeds": 3, "scratch_top1_mean": 0.265, "scratch_top1_sd": 0.01,
                 "pretrained_top1_mean": 0.442, "pretrained_top1_sd": 0.0049,
                 "scratch_diverged": 0, "pretrained_diverged": 0},
        "0.20": {"labels": 10000, "seeds": 3, "scratch_top1_mean": 0.7, "scratch_top1_sd": 0.0,
                 "pretrained_top1_mean": 0.6, "pretrained_top1_sd": 0.02,
                 "scratch_diverged": 0, "pretrained_diverged": 1},
    }  # fmt: skip
    probes = {"images": 2000, "pretrained_linear_0.01": 0.3, "pretrained_knn_0.01": 0.25,
              "pretrained_linear_0.2": 0.5, "pretrained_knn_0.2": 0.4}  # fmt: skip
    lines = table(["0.01", "0.20"], sweeps, probes, {"labels": 50000, "steps": 7, "top1": 0.9})
    assert lines[2] == "| 1% (500) | 26.5% ± 1.0% | 44.2% ± 0.5% | +17.7 | 30.0% | 25.0% |"
    assert lines[3] == "| 20% (10000) | 70.0% ± 0.0% | 60.0% ± 2.0% | -10.0 | 50.0% | 40.0% |"
    assert "2000 validation images" in lines[5] and "3 seeds" in lines[5]
    assert "20% of the labels, pre-trained: 1 of the seeds diverged and count as 0." in lines
    assert lines[-1] == "All 50000 labels from scratch, 7 steps: 90.0%"


def test_fractions_without_epochs_are_an_error(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--config=x", "--data=digits", "--runs=y", "--epochs=3"])
    assert "--epochs has 1 values for 3 --fractions." in capsys.readouterr().err


def test_seed_is_not_an_abbreviation_of_seeds(monkeypatch):
    ran = []
    monkeypatch.setattr("experiments.table.command", lambda *flags: ran.append(flags) or sys.exit())
    with pytest.raises(SystemExit):
        main(["--config=x", "--data=digits", "--runs=y", "--seed=5"])
    assert "--seed=5" in ran[0]


def test_the_commands_of_the_table(monkeypatch, tmp_path):
    ran, reported = [], []
    swept = {"labels": 5, "seeds": 1, "scratch_batch": 16, "scratch_learning_rate": 2e-4, "pretrained_batch": 99,
             "pretrained_learning_rate": 9.0, **{f"{start}_top1_{name}": 0.5 for start in ("scratch", "pretrained")
                                                for name in ("mean", "sd")},
             "scratch_diverged": 0, "pretrained_diverged": 0}  # fmt: skip

    def command(*flags):
        ran.append(flags)
        probed = {f"pretrained_{probe}_{fraction}": 0.3 for probe in ("linear", "knn") for fraction in (0.01, 0.2)}
        return {"--mode=pretrain": {"steps": 7}, "--mode=sweep": swept, "--mode=evaluate": {"images": 3, **probed},
                "--mode=finetune": {"labels": 9, "steps": 8, "top1": 0.6}}[flags[0]]  # fmt: skip

    monkeypatch.setattr("experiments.table.command", command)
    monkeypatch.setattr("experiments.commands.command", command)
    monkeypatch.setattr("experiments.table.draw_curves", lambda *_: None)
    monkeypatch.setattr("experiments.table.write_report", reported.append)
    passed_on = ("--config=c", "--data=d", "--config.run.seed=4")
    main([*passed_on, f"--runs={tmp_path}", "--fractions=0.01,0.2", "--epochs=60,5", "--ceiling_epochs=3", "--seeds=2"])
    init = f"--init={tmp_path}/pretrain"
    assert sorted(ran) == sorted([
        ("--mode=pretrain", *passed_on, f"--workdir={tmp_path}/pretrain"),
        *(("--mode=sweep", f"--config.finetune.epochs={epochs}", *passed_on, init, f"--label_fraction={fraction}",
           "--seeds=2", f"--workdir={tmp_path}/sweep-{fraction}") for fraction, epochs in (("0.01", 60), ("0.2", 5))),
        ("--mode=evaluate", f"--workdir={tmp_path}/pretrain", "--label_fraction=0.01,0.2"),
        ("--mode=finetune", "--config.finetune.epochs=3", *passed_on, "--init=scratch", f"--workdir={tmp_path}/all-labels",
         "--config.finetune.batch=16", "--config.finetune.learning_rate=0.0002"),
    ])  # fmt: skip
    assert "| 20% (5) | 50.0% ± 50.0% | 50.0% ± 50.0% | +0.0 | 30.0% | 30.0% |" in (tmp_path / "table.md").read_text()
    assert reported == [tmp_path]


@pytest.mark.slow
def test_the_whole_chain_resumes(tmp_path):
    line = [
        sys.executable, "-m", "experiments.table", "--config=digits", "--data=digits", f"--runs={tmp_path}",
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

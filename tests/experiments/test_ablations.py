"""The ablations: the flags of the commands, the table, and the whole chain on the digits."""

import subprocess
import sys

import pytest

from experiments import ablations
from pf_keras.config import load_config
from pf_keras.tpu.flops import pretrain_flops
from pf_keras.training.identity import RunIdentity, start_run
from pf_keras.training.workdir import Workdir
from tests.commands import TINY

CHANGES = {
    "as it is": {},
    "masks in blocks": {"mask.block": 2},
    "60% masked": {"mask.ratio": 0.6},
    "40% masked": {"mask.ratio": 0.4},
    "1-bit target": {"target.bits": 1},
    "4-bit target": {"target.bits": 4},
    "8-bit target": {"target.bits": 8},
    "whole patch as target": {"target.size": 4},
    "grey target": {"target.channels": 1},
    "subsampled target": {"target.crop": "subsample"},
    "augmentation and jitter on": {"augment.enabled": True, "augment.jitter_size": 3},
    "augmentation without jitter": {"augment.enabled": True, "augment.jitter_size": 0},
    "additive positions": {"model.decode_position": "additive"},
    "group norm": {"model.norm": "group"},
    "stem cifar": {"model.stem": "cifar"},
    "pre-norm": {"model.norm_order": "pre_norm"},
}


def test_every_row_changes_only_the_fields_it_names():
    base = load_config("cifar10")
    assert list(ablations.CHANGES) == list(CHANGES)
    for name, flags in ablations.CHANGES.items():
        changed = base.override(dict(flag.removeprefix("--config.").split("=") for flag in flags))
        assert (changed == base) == (name == "as it is"), name
        expected = base.to_dict()
        for field, value in CHANGES[name].items():
            section, key = field.split(".")
            expected[section][key] = value
        assert changed.to_dict() == expected, name


def test_a_row_has_the_results_of_its_commands(monkeypatch, tmp_path):
    ran, scores = [], iter([0.5, 0.6])
    config = load_config("cifar10").override({"mask.ratio": "0.6"})

    def command(*flags):
        ran.append(flags)
        mode = flags[0].removeprefix("--mode=")
        if mode == "finetune":
            return {"top1": next(scores)}
        if mode == "pretrain":
            start_run(Workdir(flags[-1].removeprefix("--workdir=")), RunIdentity("pretrain", config))
        results = {"pretrain": {"steps": 7, "loss_ratio": 0.71, "images_per_second": 266.4},
                   "evaluate": {"pretrained_linear_0.01": 0.34, "pretrained_knn_0.01": 0.22,
                                "untrained_linear_0.01": 0.31}}  # fmt: skip
        return results[mode]

    monkeypatch.setattr(ablations, "command", command)
    monkeypatch.setattr("experiments.commands.command", command)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    ablations.main(["--config=cifar10", "--data=d", f"--runs={tmp_path}", "--only=60% masked",
                    "--config.pretrain.steps=7"])  # fmt: skip
    flops = pretrain_flops(config)
    assert (tmp_path / "ablations.md").read_text().splitlines()[2:] == [
        f"| 60% masked | {flops / 1e6:.0f} | 266 | 0.710 | 55.0% ± 7.1% | 34.0% | 22.0% | 31.0% |"
    ]
    for flags in (ran[0], *ran[2:]):  # commands that start a run get the change and the unknown flags
        assert {"--config.mask.ratio=0.6", "--config.pretrain.steps=7", "--data=d"} <= set(flags)
    assert f"--init={tmp_path}/60-masked/pretrain" in ran[2]
    assert [set(flags) & {"--seed=0", "--seed=1", "--label_fraction=0.01"} for flags in ran[2:]] == [
        {f"--seed={seed}", "--label_fraction=0.01"} for seed in (0, 1)
    ]


def test_an_unknown_row_is_an_error(capsys):
    with pytest.raises(SystemExit) as stopped:
        ablations.main(["--config=c", "--data=d", "--runs=r", "--only=60% masked,none such"])
    assert stopped.value.code == 2
    assert "--only names rows that do not exist: none such." in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_chain_resumes(tmp_path):
    line = [
        sys.executable, "-m", "experiments.ablations", "--config=digits", "--data=digits",
        f"--runs={tmp_path}", "--only=as it is,4-bit target", "--label_fraction=0.1", "--config.finetune.epochs=2",
        *TINY, "--config.pretrain.steps=10", "--config.run.log_every=2",
    ]  # fmt: skip
    first = subprocess.run(line, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    rows = (tmp_path / "ablations.md").read_text().splitlines()
    assert len(rows) == 4 and "4-bit target" in rows[3] and rows[3].count("%") == 5
    again = subprocess.run(line, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "--mode=evaluate" in first.stdout and "--mode=evaluate" not in again.stdout
    assert (tmp_path / "ablations.md").read_text().splitlines() == rows

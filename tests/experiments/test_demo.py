"""A small `make demo`: its commands, its table, and the files it names."""

import re

import pytest

from experiments import demo
from tests.commands import TINY

QUICK = (*TINY, "--config.pretrain.steps=6", "--config.pretrain.batch=32", "--config.run.log_every=2",
         "--config.pretrain.probe_every=2", "--config.finetune.epochs=1", "--config.finetune.batch=32")  # fmt: skip


@pytest.mark.long
def test_the_demo_prints_a_table_and_names_its_files(tmp_path, monkeypatch, capfd):
    run = demo.command

    def quickly(mode, *flags, **options):
        return run(mode, *flags, *(QUICK if mode in ("--mode=pretrain", "--mode=finetune") else ()), **options)

    for name, value in (("RUNS", tmp_path), ("FRACTIONS", (0.1,)), ("command", quickly)):
        monkeypatch.setattr(demo, name, value)
    demo.main()
    printed = capfd.readouterr().out
    headings = re.findall(r"^# (\w+)", printed, re.MULTILINE)
    assert headings == ["Pre", "Train", "Ask", "Export", "Classify", "Does"]
    assert re.search(r"^\| 10% \(143\) \| \d+\.\d% \| \d+\.\d% \|$", printed, re.MULTILINE)
    assert re.search(r"a-validation-digit\.png: \d \(\d+\.\d%\)$", printed, re.MULTILINE)
    (exported,) = re.findall(r"^exported: +(.*)$", printed, re.MULTILINE)
    reports = re.findall(r"^  (.*/report\.html): ", printed, re.MULTILINE)
    assert len(reports) == 3
    for path in (*exported.split(", "), *reports, tmp_path / "pretrain" / "figures" / "reconstruction.png"):
        assert (tmp_path / path).exists(), path

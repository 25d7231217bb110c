"""`make demo` in small: its commands, its table and what it says it has written."""

import re

import pytest

from experiments import demo
from tests.commands import TINY

QUICK = (*TINY, "--config.pretrain.steps=6", "--config.pretrain.batch=32", "--config.run.log_every=2",
         "--config.finetune.epochs=1", "--config.finetune.batch=32")  # fmt: skip


@pytest.mark.long
def test_the_demo_tells_its_whole_story(tmp_path, monkeypatch, capfd):
    run = demo.commands

    def quickly(*lines):
        return run(*((*line, *(QUICK if line[0] != "--mode=export" else ())) for line in lines))

    for name, value in (("RUNS", tmp_path), ("FRACTIONS", (0.1,)), ("commands", quickly)):
        monkeypatch.setattr(demo, name, value)
    demo.main()
    said = capfd.readouterr().out
    assert re.search(r"^\| 10% \(143\) \| \d+\.\d% \| \d+\.\d% \|$", said, re.MULTILINE)
    assert re.search(r"a-validation-digit\.png: \d \(\d+\.\d%\)$", said, re.MULTILINE)
    (exported,) = re.findall(r"^exported: +(.*)$", said, re.MULTILINE)
    for path in (*exported.split(", "), tmp_path / "pretrain" / "figures" / "reconstruction.png"):
        assert (tmp_path / path).exists(), path

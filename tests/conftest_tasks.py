"""Small runs of the real commands on digits, shared by the tests of a session."""

import contextlib
import io
import json
from types import SimpleNamespace

import pytest
from absl.testing import flagsaver

import main

TINY = (
    "--config.model.image_size=16",
    "--config.model.grid=4",
    "--config.model.width=16",
    "--config.model.depth=1",
    "--config.model.heads=2",
    "--config.model.stem_width=8",
    "--config.model.stacks=(1,)",
    "--config.model.stack_widths=(4,)",
    "--config.model.decoder_width=8",
    "--config.run.eval_batch=64",
)


def command(*flags):
    """Run main.py's `main` as the shell would: `code`, `result` (the last line as JSON), `out` and `err`."""
    out, err = io.StringIO(), io.StringIO()
    with flagsaver.flagsaver(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main.main(["main.py", *flags])
    lines = out.getvalue().splitlines()
    result = json.loads(lines[-1]) if code == 0 and lines else None
    return SimpleNamespace(code=code, result=result, out=out.getvalue(), err=err.getvalue())


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """The workdir of a pre-training of 20 steps, and what the command answered."""
    workdir = tmp_path_factory.mktemp("pretrained")
    done = command("--mode=pretrain", f"--workdir={workdir}", *TINY, "--config.pretrain.steps=20",
                   "--config.pretrain.batch=32", "--config.run.log_every=10")
    assert done.code == 0, done.err
    return SimpleNamespace(workdir=workdir, **vars(done))


@pytest.fixture(scope="session")
def finetuned(tmp_path_factory, pretrained):
    """The workdir of a fine-tuning with a tenth of the labels, and what the command answered."""
    workdir = tmp_path_factory.mktemp("finetuned")
    done = command("--mode=finetune", f"--workdir={workdir}", f"--init={pretrained.workdir}", "--label_fraction=0.1",
                   "--config.finetune.epochs=6", "--config.finetune.batch=16")
    assert done.code == 0, done.err
    return SimpleNamespace(workdir=workdir, **vars(done))

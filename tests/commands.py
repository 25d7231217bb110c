"""Runs commands in this process. `TINY` has the flags of a model so small that a run takes seconds."""

import contextlib
import io
import json
from types import SimpleNamespace

import absl.logging  # noqa: F401 - defines its flags here, because flagsaver forgets flags that are defined within it
from absl.testing import flagsaver

from pf_keras import cli

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
    """Run `pf-keras` as the shell would. Returns its `code`, `result` (the last line as JSON), `out` and `err`."""
    out, err = io.StringIO(), io.StringIO()
    with flagsaver.flagsaver(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(["pf-keras", *flags])
    lines = out.getvalue().splitlines()
    result = json.loads(lines[-1]) if code == 0 and lines else None
    return SimpleNamespace(code=code, result=result, out=out.getvalue(), err=err.getvalue())


def succeed(*flags):
    """The result of a command that must succeed."""
    done = command(*flags)
    assert done.code == 0, done.err
    return done.result


def refused(*flags, code=2):
    """The message of a command that must be refused with one line."""
    done = command(*flags)
    errors = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert done.code == code and len(errors) == 1 and "Traceback" not in done.err, done.err
    return errors[0]

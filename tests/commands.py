"""Running main.py's commands in this process, and the flags of a model so small that a run takes seconds."""

import contextlib
import io
import json
from types import SimpleNamespace

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

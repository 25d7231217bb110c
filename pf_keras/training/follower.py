"""The work directory of a process that trains with others but does not write the run's files."""

import atexit
import shutil
import tempfile

from pf_keras.training.checkpoint import latest_checkpoint
from pf_keras.training.workdir import Workdir


def follower_workdir(path: str) -> Workdir:
    """A temporary `Workdir`, removed at exit, with a copy of the run's identity, data record and newest checkpoint.

    They are copied before the first step, which all processes do together, so that all start from the same checkpoint.

    Args:
        path: the workdir of the run.
    """
    run, scratch = Workdir(path), Workdir(tempfile.mkdtemp(prefix="follower-"))
    atexit.register(shutil.rmtree, scratch.path, ignore_errors=True)
    for file in (run.config_file, run.data_file, run.corrupt_file):
        if file.exists():
            file.copy(scratch.path / file.name)
    if newest := latest_checkpoint(run.checkpoints):
        copy = scratch.folder("checkpoints") / newest.path.name
        copy.mkdir()
        for file in newest.path.iterdir():
            file.copy(copy / file.name)
    return scratch

"""What a process that trains with others, but does not write the run's files, has for a work directory."""

import atexit
import shutil
import tempfile

from etils import epath

from pf_keras.training.checkpoint import latest_checkpoint
from pf_keras.training.workdir import Workdir


def follower_workdir(path):
    """A scratch `Workdir`, gone at exit, that starts from what the run at `path` keeps of itself and its newest checkpoint.

    It is copied before the first step, which no process does alone, so that all start from the same checkpoint.
    """
    run, scratch = Workdir(path), Workdir(tempfile.mkdtemp(prefix="follower-"))
    atexit.register(shutil.rmtree, scratch.path, ignore_errors=True)
    for file in (run.config_file, run.data_file, run.bad_file):
        if file.exists():
            file.copy(scratch.path / file.name)
    newest = latest_checkpoint(run.checkpoints)
    if newest:
        _copy_folder(newest.path, scratch.checkpoints / newest.path.name)
    return scratch


def _copy_folder(source, target):
    epath.Path(target).mkdir(parents=True)
    for file in source.iterdir():
        file.copy(target / file.name)

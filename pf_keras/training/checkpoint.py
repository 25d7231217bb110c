"""Checkpoints that are whole or absent: written aside, checksummed, renamed."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field

from etils import epath

from pf_keras.errors import UserError

WEIGHTS = "model.weights.h5"
STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk. `state` holds what is no variable of the model; `step` is the number of steps done."""

    path: epath.Path
    step: int
    state: dict = field(default_factory=dict)

    def load_into(self, model):
        """Set the model's variables, and its optimizer's if it is compiled.

        Raises UserError naming the checkpoint where the model has other shapes.
        """
        with tempfile.TemporaryDirectory() as folder:
            local = self.path / WEIGHTS
            if not os.path.exists(os.fspath(local)):  # Keras reads local files only
                local = epath.Path(folder) / WEIGHTS
                (self.path / WEIGHTS).copy(local)
            try:
                model.load_weights(os.fspath(local))
            except ValueError as error:
                reason = " ".join(str(error).split())
                raise UserError(f"expected {self.path} to fit the model, received: {reason}") from error


def save_checkpoint(directory, step, model, state=None, keep=3):
    """Write the model's and optimizer's variables as `directory/step-NNNNNNNN`, and remove all but the newest `keep`.

    A checkpoint of the same step is replaced. Raises UserError where the disk is full; what was there stays.
    """
    directory = epath.Path(directory)
    name = f"step-{step:08d}"
    aside = directory / f".{name}.writing"
    try:
        if aside.exists():
            aside.rmtree()
        aside.mkdir(parents=True)
        with tempfile.TemporaryDirectory() as folder:
            remote = not os.path.isdir(os.fspath(aside))
            local = os.path.join(folder if remote else os.fspath(aside), WEIGHTS)
            model.save_weights(local)
            digest, size = _digest(local), os.path.getsize(local)
            if remote:
                epath.Path(local).copy(aside / WEIGHTS)
            else:
                _flush(local)
        (aside / STATE).write_text(json.dumps({"step": step, "sha256": digest, "bytes": size, **(state or {})}, indent=2))
        if (directory / name).exists():
            (directory / name).rmtree()
        aside.rename(directory / name)
    except OSError as error:
        shutil.rmtree(os.fspath(aside), ignore_errors=True)
        raise UserError(
            f"expected room to save a checkpoint in {directory}, received {error.strerror or error}: "
            "free space there and start again; earlier checkpoints are whole"
        ) from error
    for old in _folders(directory)[:-keep]:
        old.rmtree()


def latest_checkpoint(directory):
    """The newest whole `Checkpoint`, or None where there is none. Damaged newer ones are named on standard error."""
    for path in reversed(_folders(epath.Path(directory))):
        fault = _fault(path)
        if not fault:
            return _read(path)
        print(f"checkpoint {path} is damaged ({fault}): using the one before it", file=sys.stderr)
    return None


def require_checkpoint(directory, step=""):
    """The newest whole checkpoint, or that of a step. Raises UserError where there is none."""
    directory = epath.Path(directory)
    if step:
        names = [path.name for path in _folders(directory)]
        name = f"step-{int(step):08d}" if step.isdigit() else step
        if name not in names:
            raise UserError(f"expected a checkpoint of {directory} ({', '.join(names) or 'none there'}), received {step}")
        fault = _fault(directory / name)
        if fault:
            raise UserError(f"expected {directory / name} to be whole, received a damaged one: {fault}")
        return _read(directory / name)
    found = latest_checkpoint(directory)
    if found is None:
        raise UserError(f"expected a checkpoint in {directory}, received none that is whole: train longer first")
    return found


def _read(path):
    state = json.loads((path / STATE).read_text())
    return Checkpoint(path, state["step"], state)


def _folders(directory):
    if not directory.exists():
        return []
    return sorted((p for p in directory.iterdir() if p.name.startswith("step-")), key=lambda p: p.name)


def _fault(path):
    """What is wrong with a checkpoint, or an empty string."""
    try:
        state = json.loads((path / STATE).read_text())
    except (OSError, ValueError) as error:
        return f"{STATE}: {error}"
    if not (path / WEIGHTS).exists():
        return f"no {WEIGHTS}"
    size = (path / WEIGHTS).stat().length
    if size != state["bytes"]:
        return f"{WEIGHTS} has {size} bytes, not {state['bytes']}"
    return "" if _digest(path / WEIGHTS) == state["sha256"] else f"{WEIGHTS} has another checksum"


def _digest(path):
    with epath.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path):
    """Bring a local file to the disk, so that a checkpoint named whole is whole after a power cut."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())

"""Checkpoints that are whole or absent: written aside, checksummed, renamed.

Where a rename is no single act (`gs://` copies), the checksum tells a whole checkpoint from the rest.
"""

import hashlib
import io
import json
import os
import sys
from dataclasses import dataclass, field

import numpy as np
from etils import epath

from pf_keras.errors import UserError, reading, writing
from tfrecords.filesystem import is_remote

WEIGHTS = "model.weights.h5"
STATE = "state.json"
DIGEST = "state_sha256"
FIRST_KEYS = {"step", "bytes", "sha256", "seeds", "window"}  # all that a state held that has no digest yet


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk. `state` holds what is no variable of the model; `step` is the number of steps done.

    asked: it was asked for by its step, so that no other will do.
    """

    path: epath.Path
    step: int
    state: dict = field(default_factory=dict)
    asked: bool = False

    def load_into(self, model):
        """Set the model's variables, and its optimizer's if it is compiled; returns the checkpoint that was read.

        That is a newer one where a run in progress has removed this one meanwhile.
        Raises UserError naming the checkpoint where the model has other shapes.
        """
        try:
            model.load_weights(_Memory((self.path / WEIGHTS).read_bytes()))
            seeds = _seeds(model)
            if len(seeds) == len(self.state["seeds"]):  # else dropout is on or off that was not: no run that goes on
                for variable, value in zip(seeds, self.state["seeds"], strict=True):
                    variable.assign(np.asarray(value, variable.dtype))
            return self
        except FileNotFoundError as error:
            newer = None if self.asked else latest_checkpoint(self.path.parent)
            if newer is None or newer.path == self.path:
                raise UserError(f"expected {self.path} to be read, received: it was removed meanwhile") from error
            print(f"{self.path} was removed meanwhile: reading {newer.path}", file=sys.stderr)
            return newer.load_into(model)
        except ValueError as error:
            reason = " ".join(str(error).split()).partition(" List of objects")[0]  # which names every layer
            raise UserError(
                f"expected {self.path} to fit the model, received: {reason}: use the sizes of the run's config"
            ) from error


def save_checkpoint(directory, step, model, state=None, keep=3):
    """Write the model's and optimizer's variables as `directory/step-NNNNNNNN`, and remove all but the newest `keep`.

    What is there of this step or a later one was found damaged before, and goes too.
    Raises UserError where the disk is full; what was there stays.
    """
    directory = epath.Path(directory)
    final = directory / f"step-{step:08d}"
    aside = directory / f".{final.name}.writing"
    weights = _Memory()
    model.save_weights(weights)
    seeds = [np.asarray(variable).tolist() for variable in _seeds(model)]
    state = {"step": step, "bytes": len(weights), "sha256": _digest(weights), "seeds": seeds, **(state or {})}
    state[DIGEST] = _digest_of_state(state)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        _remove(*(p for p in directory.iterdir() if p.name.startswith(".step-")))  # left by a run that was killed
        try:
            aside.mkdir()
            _write(aside / WEIGHTS, weights.getbuffer())
            _write(aside / STATE, json.dumps(state, indent=2).encode())
        except OSError:
            _remove(aside)  # what could be written only takes room
            raise
        _remove(final)
        aside.rename(final)
    folders = _folders(directory)
    done = folders.index(final) + 1
    _remove(*folders[: max(0, done - keep)], *folders[done:])


def latest_checkpoint(directory):
    """The newest whole `Checkpoint`, or None where there is none. Damaged newer ones are named on standard error."""
    directory = epath.Path(directory)
    with reading(directory):
        folders = _folders(directory)
        for path in reversed(folders):
            state, fault = _examine(path)
            if not fault:
                return Checkpoint(path, state["step"], state)
            if path.exists():
                print(f"checkpoint {path} is damaged ({fault}): using the one before it", file=sys.stderr)
        # A run in progress may have removed all that were listed; then there are others now.
        return latest_checkpoint(directory) if _folders(directory) != folders else None


def require_checkpoint(directory, step=""):
    """The newest whole checkpoint, or that of a step. Raises UserError where there is none."""
    directory = epath.Path(directory)
    if step:
        names = [path.name for path in _folders(directory)]
        name = f"step-{int(step):08d}" if step.isdecimal() else step
        if name not in names:
            raise UserError(f"expected a checkpoint of {directory} ({', '.join(names) or 'none there'}), received {step}")
        state, fault = _examine(directory / name)
        if fault:
            raise UserError(f"expected {directory / name} to be whole, received a damaged one: {fault}")
        return Checkpoint(directory / name, state["step"], state, asked=True)
    found = latest_checkpoint(directory)
    if found is None:
        raise UserError(f"expected a checkpoint in {directory}, received none that is whole: train longer first")
    return found


def _seeds(model):
    """The variables that say which numbers dropout draws next: Keras leaves them out of the weights that it saves."""
    others = {id(variable) for variable in (*model.weights, *model.metrics_variables)}
    return [variable for variable in model.variables if id(variable) not in others]


def _folders(directory):
    if not directory.exists():
        return []
    return sorted((p for p in directory.iterdir() if p.name.startswith("step-")), key=lambda p: p.name)


def _examine(path):
    """The state of a checkpoint and what is wrong with it, or an empty string. What is read is read once."""
    try:
        state = json.loads((path / STATE).read_text())
        digest = state.pop(DIGEST, None)
        if digest != _digest_of_state(state) and (digest or not FIRST_KEYS >= set(state)):
            return {}, f"{STATE} has another checksum"
        size, digest = state["bytes"], state["sha256"]
        received = (path / WEIGHTS).stat().length
        if received != size:
            return state, f"{WEIGHTS} has {received} bytes, not {size}"
        with (path / WEIGHTS).open("rb") as file:
            whole = _digest(file) == digest
    except OSError as error:
        return {}, error.strerror or str(error)
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}, f"{STATE} is cut short or altered"
    return state, "" if whole else f"{WEIGHTS} has another checksum"


def _remove(*paths):
    """Remove folders of `directory`, hidden first, so that a reader meets whole checkpoints only."""
    for path in paths:
        if not path.exists():
            continue
        if _is_local(path) and not path.name.startswith("."):
            path = path.rename(path.with_name(f".{path.name}.removing"))
        path.rmtree()


def _is_local(path):
    return not is_remote(os.fspath(path))


def _write(path, content):
    with path.open("wb") as file:
        file.write(content if _is_local(path) else bytes(content))  # TensorFlow's files take nothing but bytes
        if _is_local(path):  # named whole, it is whole after a power cut too
            file.flush()
            os.fsync(file.fileno())


def _digest(file):
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(2**20):  # hashlib's own way asks for more of a file than TensorFlow's have
        digest.update(block)
    return digest.hexdigest()


def _digest_of_state(state):
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


class _Memory(io.BytesIO):
    """Weights in memory, which Keras takes for a file of the right name.

    A write that fails inside HDF5, as on a full disk, crashes the process when it ends: so HDF5 sees no disk.
    """

    def __str__(self):
        return WEIGHTS

    def __len__(self):
        return self.getbuffer().nbytes

"""Checkpoints that are whole or absent: written to a temporary name, with checksums, then renamed.

Where a rename is not atomic (`gs://` copies), the checksum tells a whole checkpoint from a partial one.
"""

import contextlib
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import keras
import numpy as np
from etils import epath

from pf_keras.errors import UserError, patiently, reading, writing
from pf_keras.filesystem import is_remote
from pf_keras.training.averaging import averaged_weights, has_average

WEIGHTS = "model.weights.h5"
AVERAGED = "averaged.weights.h5"  # of a run with an average of its weights, without the optimizer
STATE = "state.json"
DIGEST = "state_sha256"
FIRST_KEYS = {"step", "bytes", "sha256", "seeds", "window"}  # of the first checkpoints, whose state has no digest


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Args:
        path: its folder.
        step: the number of steps done.
        state: what is saved beside the variables of the model.
        requested: whether this step was asked for, so that a newer checkpoint cannot replace it.
    """

    path: epath.Path
    step: int
    state: dict = field(default_factory=dict)
    requested: bool = False

    def load_into(self, model: keras.Model, resume: bool = False) -> "Checkpoint":
        """Set the variables of the model: to their average where the run kept one (`ema`).

        Args:
            model: has the variables of the run's model.
            resume: load the weights of the last step instead, and the optimizer's variables if the model is compiled.

        Returns:
            The checkpoint that was read: a newer one where a run in progress has removed this one meanwhile.

        Raises:
            UserError: the model has other shapes than the checkpoint.
        """
        try:
            if AVERAGED in self.state and not resume:
                with _without_optimizer(model):
                    model.load_weights(InMemory(_read(self.path / AVERAGED)))
            else:
                model.load_weights(InMemory(_read(self.path / WEIGHTS)))
            seeds = _seeds(model)
            if len(seeds) == len(self.state["seeds"]):  # not where dropout was turned on or off, as for an evaluation
                for variable, value in zip(seeds, self.state["seeds"], strict=True):
                    variable.assign(np.asarray(value, variable.dtype))
            return self
        except FileNotFoundError as error:
            newer = None if self.requested else latest_checkpoint(self.path.parent)
            if newer is None or newer.path == self.path:
                raise UserError(f"{self.path} was removed while it was read. Run the command again.") from error
            print(f"{self.path} was removed by a run in progress: reading {newer.path}", file=sys.stderr)
            return newer.load_into(model, resume)
        except ValueError as error:
            reason = " ".join(str(error).split()).partition(" List of objects")[0]  # the list names every layer
            raise UserError(f"{self.path} does not fit the model: {reason} Use the config of the run.") from error


def save_checkpoint(
    directory: str | os.PathLike, step: int, model: keras.Model, state: dict | None = None, keep: int = 3
) -> None:
    """Write the variables of the model and its optimizer as `directory/step-NNNNNNNN`, and remove all but the newest `keep`.

    A checkpoint of this step or a later one is removed too: it was found damaged when the run resumed.

    Args:
        directory: of the run's checkpoints.
        step: the number of steps done.
        model: a compiled model.
        state: more to save, as JSON.
        keep: how many checkpoints stay.

    Raises:
        UserError: the disk is full, or the storage fails for two minutes. Earlier checkpoints stay.
    """
    directory = epath.Path(directory)
    final = directory / f"step-{step:08d}"
    temporary = directory / f".{final.name}.writing"
    files = {WEIGHTS: InMemory()}
    model.save_weights(files[WEIGHTS])
    if has_average(model):
        files[AVERAGED] = InMemory()
        with averaged_weights(model), _without_optimizer(model):
            model.save_weights(files[AVERAGED])
    seeds = [np.asarray(variable).tolist() for variable in _seeds(model)]
    digests = {name: {"bytes": len(content), "sha256": _digest(content)} for name, content in files.items()}
    state = {"step": step, **digests.pop(WEIGHTS), **digests, "seeds": seeds, **(state or {})}
    state[DIGEST] = _digest_of_state(state)

    def store() -> None:
        directory.mkdir(parents=True, exist_ok=True)
        _remove(*(p for p in directory.iterdir() if p.name.startswith(".step-")))  # a killed run or an earlier try left them
        try:
            temporary.mkdir()
            for name, content in files.items():
                _write(temporary / name, content.getbuffer())
            _write(temporary / STATE, json.dumps(state, indent=2).encode())
        except OSError:
            with contextlib.suppress(OSError):
                _remove(temporary)  # a partial checkpoint only takes room
            raise
        _remove(final)
        temporary.rename(final)

    def tidy() -> None:
        folders = _folders(directory)
        done = folders.index(final) + 1
        _remove(*folders[: max(0, done - keep)], *folders[done:])

    with writing(directory):
        patiently(store, directory)
        patiently(tidy, directory)


def latest_checkpoint(directory: str | os.PathLike) -> Checkpoint | None:
    """The newest whole checkpoint, or None. Warns of newer ones that are damaged."""
    directory = epath.Path(directory)
    with reading(directory):
        folders = patiently(lambda: _folders(directory), directory)
        for path in reversed(folders):
            state, fault = _examine(path)
            if not fault:
                return Checkpoint(path, state["step"], state)
            if path.exists():
                print(f"warning: the checkpoint {path} is damaged ({fault}): using the one before it", file=sys.stderr)
        # A run in progress may have removed all that were listed. Then there are new ones.
        return latest_checkpoint(directory) if _folders(directory) != folders else None


def require_checkpoint(directory: str | os.PathLike, step: str = "") -> Checkpoint:
    """The newest whole checkpoint, or the checkpoint of a step. Raises UserError if it does not exist."""
    directory = epath.Path(directory)
    if step:
        names = [path.name for path in _folders(directory)]
        name = f"step-{int(step):08d}" if step.isdecimal() else step
        if name not in names:
            raise UserError(f"There is no checkpoint {step} in {directory}. It has {', '.join(names) or 'no checkpoints'}.")
        state, fault = _examine(directory / name)
        if fault:
            raise UserError(f"The checkpoint {directory / name} is damaged: {fault}. Use another step.")
        return Checkpoint(directory / name, state["step"], state, requested=True)
    found = latest_checkpoint(directory)
    if found is None:
        raise UserError(f"{directory} has no checkpoint yet. Train until the first one is saved.")
    return found


def _seeds(model: keras.Model) -> list[keras.Variable]:
    """The state of dropout's random numbers, which Keras does not save with the weights.

    The seed of the model's own noise is left out: batches of a run bring their noise, and old checkpoints do not have it.
    """
    own = [model.noise_seed.state] if hasattr(model, "noise_seed") else []
    others = {id(variable) for variable in (*model.weights, *model.metrics_variables, *own)}
    return [variable for variable in model.variables if id(variable) not in others]


@contextlib.contextmanager
def _without_optimizer(model: keras.Model) -> Iterator[None]:
    """Keras saves and loads the optimizer of a compiled model with its weights."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        yield
        return
    try:
        model.optimizer = None
        yield
    finally:
        model.optimizer = optimizer


def _folders(directory: epath.Path) -> list[epath.Path]:
    if not directory.exists():
        return []
    return sorted((p for p in directory.iterdir() if p.name.startswith("step-")), key=lambda p: p.name)


def _examine(path: epath.Path) -> tuple[dict, str]:
    """The state of a checkpoint, and what is wrong with it or an empty string."""
    try:
        state = json.loads(_read(path / STATE))
        digest = state.pop(DIGEST, None)
        if digest != _digest_of_state(state) and (digest or not FIRST_KEYS >= set(state)):
            return {}, f"the checksum of {STATE} differs"
        for name, known in ((WEIGHTS, state), (AVERAGED, state.get(AVERAGED))):
            if known is None:
                continue
            size, digest = known["bytes"], known["sha256"]
            received = patiently((path / name).stat, path).length
            if received != size:
                return state, f"{name} has {received} bytes, not {size}"
            if patiently(lambda name=name: _digest_of(path / name), path) != digest:
                return state, f"the checksum of {name} differs"
    except OSError as error:
        return {}, error.strerror or str(error)
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}, f"{STATE} is cut short or altered"
    return state, ""


def _remove(*paths: epath.Path) -> None:
    """Remove checkpoints. They are renamed first, so that a reader meets whole checkpoints only."""
    for path in paths:
        if not path.exists():
            continue
        if _is_local(path) and not path.name.startswith("."):
            path = path.rename(path.with_name(f".{path.name}.removing"))
        path.rmtree()


def _is_local(path: epath.Path) -> bool:
    return not is_remote(os.fspath(path))


def _write(path: epath.Path, content: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(content if _is_local(path) else bytes(content))  # TensorFlow's files take bytes only
        if _is_local(path):  # so that a renamed checkpoint is whole after a power cut too
            file.flush()
            os.fsync(file.fileno())


def _read(path: epath.Path) -> bytes:
    return patiently(path.read_bytes, path)


def _digest_of(path: epath.Path) -> str:
    with path.open("rb") as file:
        return _digest(file)


def _digest(file) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(2**20):  # hashlib.file_digest does not take TensorFlow's files
        digest.update(block)
    return digest.hexdigest()


def _digest_of_state(state: dict) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


class InMemory(io.BytesIO):
    """Weights in memory, with the name that Keras expects of a file.

    HDF5 must not write to a disk: a write that fails inside it, as on a full disk, crashes the process when it exits.
    """

    def __str__(self) -> str:
        return WEIGHTS

    def __len__(self) -> int:
        return self.getbuffer().nbytes

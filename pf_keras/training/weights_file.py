"""Weights of a pre-trainer in a file, to begin a pre-training with.

The file is a `.weights.h5` of Keras, such as a checkpoint has, or a `.keras` file, which also knows its network.
"""

import io
import json
import os
import zipfile
from collections.abc import Mapping

import keras
from etils import epath

from pf_keras.config import Config
from pf_keras.errors import UserError, patiently, reading
from pf_keras.filesystem import is_remote
from pf_keras.models import build_pretrainer
from pf_keras.presets.places import HUB
from pf_keras.training.checkpoint import Checkpoint, InMemory, require_checkpoint
from pf_keras.training.identity import IN_DECODER, NOT_IN_WEIGHTS, earlier_run

SUFFIXES = (".weights.h5", ".keras")
ADVICE = "Use the config that the weights were trained with: --config=NAME|FILE."
DECODER_FIELDS = {  # arguments of `Pretrainer` that change its weights, and their names in a config
    "target_size": "target.size",
    "target_bits": "target.bits",
    "target_channels": "target.channels",
    "decoder_width": "model.decoder_width",
}


def is_weights_file(init: str) -> bool:
    """Whether `--init` names a file with weights, and not a workdir. Raises UserError for a file with another suffix."""
    if init.startswith(HUB):
        return False
    file = epath.Path(init).expanduser()
    if init.endswith(SUFFIXES):
        return not file.is_dir()
    if file.exists() and not file.is_dir():
        raise UserError(f"--init={init} is a file, but no .weights.h5 or .keras file. Name such a file, or a workdir.")
    return False


def run_of(init: str) -> epath.Path | None:
    """The workdir of the run whose checkpoint has the file `init`. None for a file elsewhere."""
    folder = epath.Path(init if is_remote(init) else os.path.abspath(os.path.expanduser(init))).parent
    workdir = folder.parent.parent
    inside = folder.name.startswith("step-") and folder.parent.name == "checkpoints"
    return workdir if inside and (workdir / "config.json").exists() else None


def load_weights_file(init: str, config: Config) -> tuple[keras.Model, int | None]:
    """A pre-trainer with the weights of a file.

    Args:
        init: the path of the file.
        config: of the pre-trainer.

    Returns:
        The model, and the step of the checkpoint that the file is in, or None.

    Raises:
        UserError: the file is missing or damaged, or it has the weights of another network.
    """
    checkpoint = _require_same_run(init, config)
    content, network = _read(init)
    model = build_pretrainer(config)
    if network is not None:
        _require_same_network(init, network, model)
    _require_same_shapes(init, _shapes(init, content), _own_shapes(model))
    model.load_weights(InMemory(content))
    return model, checkpoint.step if checkpoint else None


def _require_same_run(init: str, config: Config) -> Checkpoint | None:
    """The checkpoint of a run that a file is in, or None. UserError where it is damaged or the run has another model."""
    place = run_of(init)
    if place is None:
        return None
    workdir, run = earlier_run(place, "pretrain")
    run.require_same_pretrainer(place, config)
    return require_checkpoint(workdir.checkpoints, epath.Path(init).parent.name)


def _read(init: str) -> tuple[bytes, dict | None]:
    """The weights as HDF5, and Keras's description of their network where the file has one."""
    file = epath.Path(init).expanduser()
    with reading(init):
        if not file.exists():
            raise UserError(f"There is no file {init}. Check --init.")
        content = patiently(file.read_bytes, file)
    if init.endswith(".weights.h5"):
        return content, None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.read("model.weights.h5"), json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(f"{init} is not a .keras file, or it is damaged: {error}.") from error


def _require_same_network(init: str, network: dict, model: keras.Model) -> None:
    """Raises UserError, which names the fields, where a `.keras` file is not of a pre-trainer like `model`."""
    if network.get("class_name") != "Pretrainer":
        raise UserError(f"{init} is the file of a {network.get('class_name')}, but --init takes a pre-trainer's. Use another.")
    own, other = (_fields(config) for config in (json.loads(json.dumps(model.get_config())), network["config"]))
    changed = [f"{name}: {other[name]} -> {value}" for name, value in own.items() if name in other and other[name] != value]
    if changed:
        raise UserError(f"{init} has another model ({'; '.join(changed)}). {ADVICE}")


def _fields(config: Mapping) -> dict[str, object]:
    """The fields of a config, by their names there, from what Keras saved of a pre-trainer. Those that weights depend on."""
    backbone = {f"model.{name}": value for name, value in config["backbone"]["config"].items()}
    decoder = {field: config[name] for name, field in DECODER_FIELDS.items() if name in config}
    free = (set(NOT_IN_WEIGHTS) - set(IN_DECODER)) | {"model.name", "model.dtype", "model.trainable"}
    return {name: value for name, value in {**backbone, **decoder}.items() if name not in free}


def _shapes(init: str, content: bytes) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a file of weights, without an optimizer's."""
    import h5py

    found = {}

    def visit(name, entry):
        if isinstance(entry, h5py.Dataset) and not name.startswith("optimizer"):
            found[name] = entry.shape

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(f"{init} is not a file of weights, or it is damaged: {error}.") from error
    return found


def _own_shapes(model: keras.Model) -> dict[str, tuple[int, ...]]:
    file = InMemory()
    model.save_weights(file)
    return _shapes("", file.getvalue())


def _require_same_shapes(init: str, found: dict, wanted: dict) -> None:
    """Raises UserError where a file has other tensors than the model. Names the first of each kind."""

    def first(names, text):
        names = sorted(names)
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return [f"{text(names[0])}{more}"] if names else []

    def plain(name):
        return name.replace("layers/", "").replace("/vars", "")

    differences = [
        *first(wanted.keys() - found.keys(), lambda name: f"it has no {plain(name)}"),
        *first(found.keys() - wanted.keys(), lambda name: f"it also has {plain(name)}"),
        *first(
            (name for name in found.keys() & wanted.keys() if found[name] != wanted[name]),
            lambda name: f"{plain(name)} has the shape {found[name]}, not {wanted[name]}",
        ),
    ]
    if differences:
        raise UserError(f"{init} has the weights of another network: {'; '.join(differences)}. {ADVICE}")

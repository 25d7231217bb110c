"""The files of a preset: `config.json` says what the weights are and has their size and digest.

`config.json` is that of a workdir (see `RunIdentity`), so that a preset is read as a run is, with one set of weights in place
of checkpoints.
"""

import hashlib
import os

from etils import epath

from pf_keras.errors import UserError, patiently, reading
from pf_keras.training.identity import RunIdentity

CONFIG, WEIGHTS, CARD = FILES = ("config.json", "model.weights.h5", "README.md")
FORMAT = 1  # of config.json; a higher one is of a later version of this package


def is_preset(run: RunIdentity) -> bool:
    """Whether `config.json` is that of a preset, and not of a workdir."""
    return "preset" in run.facts


def require_known_format(place: object, run: RunIdentity) -> None:
    """Raises UserError where a preset has a format that this version does not know, or its config.json lacks something."""
    made = run.facts["preset"]
    if type(made) is not int or made < 1:
        raise UserError(f"{place} has a damaged {CONFIG}: preset is {made!r}. Get the preset again.")
    if made > FORMAT:
        raise UserError(f"{place} is a preset of format {made}, and this pf_keras knows format {FORMAT}. Update pf_keras.")
    wanted = {"step": int, "weights": dict, **({"classes": list} if run.mode == "finetune" else {})}
    for name, kind in wanted.items():
        if not isinstance(run.facts.get(name), kind):
            raise UserError(f"{place} has a damaged {CONFIG}: {name} is {run.facts.get(name)!r}. Get the preset again.")


def check_weights(folder: str | os.PathLike, run: RunIdentity) -> None:
    """Check the weights of a preset against the size and the digest in its `config.json`.

    Raises:
        UserError: they are missing, cut short or altered.
    """
    require_known_format(folder, run)
    file, wanted = epath.Path(folder) / WEIGHTS, run.facts["weights"]
    with reading(file):
        if not file.exists():
            raise UserError(f"{folder} has no {WEIGHTS}. Get the preset again.")
        content = patiently(file.read_bytes, file)
    if len(content) != wanted.get("bytes"):
        raise UserError(f"{file} has {len(content)} bytes, not {wanted.get('bytes')}: it is damaged or altered. Get it again.")
    if hashlib.sha256(content).hexdigest() != wanted.get("sha256"):
        raise UserError(f"{file} has another checksum than {CONFIG} says: it is damaged or altered. Get it again.")

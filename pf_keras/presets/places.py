"""From the name of a preset to its folder. Imports nothing slow, because the command line asks it about `--init`."""

import os
from pathlib import Path

from pf_keras.errors import UserError

HUB = "hf://"
_SHIPPED = Path(__file__).parent


def shipped() -> dict[str, Path]:
    """The folders of the presets that ship with the package, by name."""
    return {path.parent.name: path.parent for path in sorted(_SHIPPED.glob("*/config.json"))}


def is_name(place: str | os.PathLike) -> bool:
    """Whether a place is the name of a shipped preset. `./NAME` is the folder of that name."""
    return os.fspath(place) in shipped()


def find(place: str | os.PathLike) -> str:
    """The folder of a preset, or the path as it is.

    Args:
        place: the name of a shipped preset, `hf://USER/REPOSITORY` or `hf://USER/REPOSITORY@REVISION`, which is downloaded
            unless it is in the cache already, or any path.

    Raises:
        UserError: there is no such preset, or the download fails.
    """
    place = os.fspath(place)
    if place.startswith(HUB):
        from pf_keras.presets.hub import download

        return download(place)
    if is_name(place):
        return str(shipped()[place])
    if os.sep not in place and "." not in place and not os.path.exists(place):
        known = ", ".join(shipped()) or "none"
        raise UserError(f"There is no preset and no workdir {place}. The presets are: {known}. Or name a workdir or a folder.")
    return place

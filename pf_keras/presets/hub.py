"""Presets in repositories of the Hugging Face Hub, by `huggingface_hub` (the extra `hub`)."""

from pf_keras.errors import UserError
from pf_keras.presets.folder import FILES
from pf_keras.presets.places import HUB


def download(place: str) -> str:
    """The local folder of the preset in a repository. Only the files of a preset are downloaded.

    Args:
        place: `hf://USER/REPOSITORY`, with `@REVISION` for a branch, tag or commit.

    Raises:
        UserError: the place is no repository, `huggingface_hub` is missing, or the download fails.
    """
    repository, _, revision = place.removeprefix(HUB).partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UserError(f"{place} is not the name of a repository. Use {HUB}USER/REPOSITORY, perhaps with @REVISION.")
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise UserError(f'{place} needs huggingface_hub. Install it with: pip install "pf-keras[hub]"') from None
    try:
        return huggingface_hub.snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES))
    except LocalEntryNotFoundError as error:
        reason = "it is not in the cache, and the hub cannot be reached"
        raise UserError(f"{place} cannot be downloaded: {reason}. Check the name and the network.") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(f"{place} cannot be downloaded: {reason}. Check the name, the revision and the network.") from error

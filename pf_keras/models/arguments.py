"""Checks the arguments of the models by the rules of the config."""

from collections.abc import Callable
from typing import Any

from pf_keras.errors import UserError


def checked(section: Callable[..., Any], **fields: object) -> Any:
    """A section of the config, or a whole config, made of these fields. Raises ValueError where one is out of range."""
    try:
        return section(**fields)
    except UserError as error:
        raise ValueError(str(error)) from None

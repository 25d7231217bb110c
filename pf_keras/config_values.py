"""Converts the values of config fields, from JSON and from the command line, to the types of the fields."""

import ast
import difflib
import math
import types
import typing
from typing import Any

from pf_keras.errors import UserError

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def field_type(kind: type, name: str, shown: str) -> Any:
    """The type of a field of a dataclass. `shown` is what an error message calls it, such as `field model.width`.

    Raises:
        UserError: there is no such field. Suggests the nearest name.
    """
    hints = typing.get_type_hints(kind)
    if name not in hints:
        near = difflib.get_close_matches(name, hints, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(hints)}."
        raise UserError(f"The config has no {shown}. {hint}")
    return str if typing.get_origin(hints[name]) is typing.Literal else hints[name]


def convert(kind: type, section: str, name: str, value: Any) -> Any:
    """A value from JSON or a Python literal as the type of its field: lists become tuples, integers may become floats.

    Raises:
        UserError: there is no such field, or the value has another type.
    """
    shown = f"{section}.{name}"
    expected = field_type(kind, name, f"field {shown}")
    if not isinstance(expected, types.GenericAlias):
        return _convert_one(expected, shown, value)
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{shown} is {value!r}. Use a list, such as (1, 2).")
    return tuple(_convert_one(expected.__args__[0], shown, item) for item in value)


def _convert_one(expected: type, shown: str, value: Any) -> Any:
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:
        raise UserError(f"{shown} is {value!r}. Use {WORDS[expected]}.")
    if expected is float and not math.isfinite(value):
        raise UserError(f"{shown} is {value!r}. Use a finite number.")
    return value


def parse(kind: type, section: str, name: str, text: str) -> Any:
    """The text of `--config.SECTION.FIELD=TEXT` as a Python literal. Its type is checked by `convert`.

    Raises:
        UserError: there is no such field.
    """
    expected = field_type(kind, name, f"field {section}.{name}")
    if expected is str:
        return text
    if expected == tuple[str, ...] and not text.startswith(("(", "[")):
        return tuple(text.split(",")) if text else ()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return text

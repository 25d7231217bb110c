"""Values of config fields, from JSON and from the command line, as the types that the fields have."""

import ast
import difflib
import math
import types
import typing

from pf_keras.errors import UserError


def field_type(kind, name, what, shown):
    """The type of a dataclass field, or a UserError that suggests the nearest name."""
    hints = typing.get_type_hints(kind)
    if name not in hints:
        near = difflib.get_close_matches(name, hints, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(hints)}"
        raise UserError(f"expected a config {what}, received unknown {shown}: {hint}")
    return hints[name]


def convert(kind, section, name, value):
    """`value` (from JSON or a literal) as the type of the field, lists made tuples and ints made floats."""
    expected = field_type(kind, name, "field", f"{section}.{name}")
    if isinstance(expected, types.GenericAlias):
        (item, _) = expected.__args__
        if isinstance(value, (list, tuple)):
            return tuple(_check(item, section, name, v) for v in value)
        raise UserError(f"expected {section}.{name} as a list of {item.__name__}, received {value!r}")
    return _check(expected, section, name, value)


def _check(expected, section, name, value):
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:
        raise UserError(f"expected {section}.{name} as {expected.__name__}, received {value!r}")
    if expected is float and not math.isfinite(value):
        raise UserError(f"expected {section}.{name} as a finite number, received {value!r}")
    return value


def parse(kind, section, name, text):
    """The text of `--config.SECTION.FIELD=TEXT` as a literal; plain words are strings, true/false booleans."""
    if field_type(kind, name, "field", f"{section}.{name}") is str:
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return text

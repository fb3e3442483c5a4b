"""Settings as JSON tells them, back into the dataclasses that they were: entry by entry, nothing taken on trust."""

import json
import sys
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints


def read_json(text: str | bytes) -> Any:
    """What a JSON text, in UTF-8, says.

    Raises
    ------
    ValueError
        When it is no JSON, or nested beyond all sense.
    """
    try:
        return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON ({error})") from error


def from_json(kind: Any, value: Any, name: str) -> Any:
    """A `value` as JSON holds it, as the type `kind` that it was written from.

    That is a dataclass, whose entries may be missing where it has a default; a `Literal` of words, a tuple, a path, a
    number, `str`, `bool`; or one of these, or None. Numbers are finite, and whole ones fit into 64 bits.

    Raises
    ------
    ValueError
        When the value is of another type, or has entries that the dataclass lacks or refuses. `name` is what the
        message calls it.
    """
    origin, options = get_origin(kind), get_args(kind)
    if origin is UnionType:
        kind = NoneType if value is None else next(option for option in options if option is not NoneType)
        return from_json(kind, value, name)
    if is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        if odd := sorted(value.keys() - hints.keys()):
            raise ValueError(f"{name} has entries {_short(odd)}, which this version does not know; leave them out")
        needed = [field.name for field in fields(kind) if field.default is field.default_factory is MISSING]
        if lacking := [key for key in needed if key not in value]:
            raise ValueError(f"{name} lacks {', '.join(lacking)}; add what is missing")
        return kind(**{key: from_json(hints[key], entry, key) for key, entry in value.items()})
    if origin is tuple and isinstance(value, list):
        kinds = options[:1] * len(value) if options[-1] is Ellipsis else options
        if len(kinds) == len(value):
            return tuple(from_json(*pair, name) for pair in zip(kinds, value, strict=True))
    if kind is Path and isinstance(value, str):
        return Path(value)
    whole = type(value) is int and abs(value) < 2**63
    if (
        (kind in (str, bool, NoneType) and type(value) is kind)
        or (origin is Literal and isinstance(value, str) and value in options)
        or (kind is int and whole)
        or (kind is float and (whole or (type(value) is float and abs(value) <= sys.float_info.max)))
    ):
        return value
    wanted = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
    raise ValueError(f"{name} is {_short(value)}, and should be {wanted}; write it as that")


def _short(value: Any) -> str:
    """A value as an error shows it; Python refuses to write whole numbers of thousands of digits."""
    shown = "a number of astronomic size" if type(value) is int and abs(value) >= 2**63 else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."

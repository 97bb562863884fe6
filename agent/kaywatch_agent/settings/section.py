"""A table becomes a frozen dataclass; what is wrong is said with its key path."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar, cast

from kaywatch_agent.errors import ConfigError

__all__ = ["section"]

_Section = TypeVar("_Section")


def section(
    kind: type[_Section],
    values: Mapping[str, Any],
    path: str,
    others: Iterable[str] = (),
) -> _Section:
    """Return a dataclass filled from a table, its defaults for the rest.

    Args:
        kind: the dataclass; its fields are strings, numbers, booleans, `Literal`,
            `tuple[str, ...]`, `dict[str, str]`, other dataclasses or a tuple of them,
            or one of all that or None.
        values: the table.
        path: what its keys begin with in a complaint, such as `receiver.ops.`.
        others: keys that are known besides, for a complaint.

    Raises:
        ConfigError: naming the key, what it holds and what is allowed.
    """
    known = {spec.name: spec for spec in dataclasses.fields(cast("Any", kind))}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, {*known, *others}, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            names = ", ".join(sorted({*known, *others}))
            raise ConfigError(f"{path}{key}", f"unknown key{hint} (known: {names})")
    types_of = typing.get_type_hints(kind)
    given = {
        key: _value(types_of[key], value, f"{path}{key}")
        for key, value in values.items()
    }
    missing = [
        name
        for name, spec in known.items()
        if name not in given
        and spec.default is dataclasses.MISSING
        and spec.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{path}{missing[0]}", "is needed")
    try:
        return kind(**given)
    except ValueError as error:
        raise ConfigError(path.rstrip("."), str(error)) from None


def _value(kind: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ConfigError(path, f"expected a table [{path}], got {value!r}")
        return section(cast("type[Any]", kind), value, f"{path}.")
    choices = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        if value not in choices:
            allowed = ", ".join(map(repr, choices))
            raise ConfigError(path, f"{value!r} is not one of {allowed}")
        return value
    if origin is tuple:
        return _several(choices[0], value, path)
    if origin is dict:
        return _mapping(value, path)
    if isinstance(kind, types.UnionType):
        kind = next(choice for choice in choices if choice is not types.NoneType)
        return _value(kind, value, path)
    # bool is a subclass of int, and `series = true` is surely a mistake.
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not fits:
        raise ConfigError(path, f"expected {_WORDS[kind]}, got {value!r}")
    return value


def _several(kind: type[Any], value: Any, path: str) -> tuple[Any, ...]:
    if not dataclasses.is_dataclass(kind):
        return _strings(value, path)
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        raise ConfigError(path, f"expected tables [[{path}]], got {value!r}")
    return tuple(
        section(kind, one, f"{path}[{number}].") for number, one in enumerate(value)
    )


def _strings(value: Any, path: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ConfigError(path, f"expected a list of strings, got {value!r}")
    return tuple(value)


def _mapping(value: Any, path: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(
        isinstance(v, str) for v in value.values()
    ):
        raise ConfigError(path, f"expected a table of strings, got {value!r}")
    return dict(value)


_WORDS: Final[Mapping[Any, str]] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}

"""Reads TOML tables into typed values: the one place that converts and complains.

`section` finds all errors before it raises, each with the path of its key. Lists count
from 0: `rule[1].match[0]`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import difflib
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar, cast

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.units import parse_duration, parse_size

__all__ = ["Duration", "Problems", "Size", "Unit", "section"]

_Section = TypeVar("_Section")


@dataclasses.dataclass(frozen=True)
class Unit:
    """What a text of a section has to be: `parse` raises ValueError if it is not.

    Attributes:
        name: for the reference of the configuration.
        parse: takes the text; a number of TOML comes as its text.
    """

    name: str
    parse: Callable[[str], object]


Duration = Annotated[str, Unit("duration", parse_duration)]
Size = Annotated[str, Unit("size", parse_size)]


class Problems:
    """Errors that are found on the way, and raised together."""

    def __init__(self) -> None:
        self._found: list[ConfigError] = []

    def add(self, key: str, text: str) -> None:
        """Take an error."""
        self._found.append(ConfigError(key, text))

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Take the errors that are raised within the block, and go on behind it."""
        try:
            yield
        except ConfigError as error:
            self._found += [error, *error.others]

    def check(self) -> None:
        """Raise the first error, with the others, if there are any.

        Raises:
            ConfigError: see `ConfigError.others`.
        """
        if self._found:
            raise self.first

    @property
    def first(self) -> ConfigError:
        """The first error, with the others."""
        first, *others = self._found
        first.others = tuple(others)
        return first


def section(
    kind: type[_Section],
    values: object,
    path: str,
    others: Iterable[str] = (),
) -> _Section:
    """Return a dataclass filled from a table, its defaults for the rest.

    Args:
        kind: the dataclass; its fields are strings, numbers, booleans, `Literal`,
            `tuple[str, ...]`, `dict[str, str]`, other dataclasses or a tuple of them,
            a date and time, a `StrEnum`, an `Annotated` string with its `Unit`, or a
            union of these.
            A trailing underscore of a field is not part of its key: `for_`.
        values: the table.
        path: where it stands, such as `receiver.ops`; empty for the whole file.
        others: keys that are known besides, for a complaint.

    Raises:
        ConfigError: all that is wrong, each with its key.
    """
    if not isinstance(values, dict):
        raise ConfigError(path, f"expected a table [{path}], got {values!r}")
    specs = {
        spec.name.rstrip("_"): spec for spec in dataclasses.fields(cast("Any", kind))
    }
    hints = typing.get_type_hints(kind, include_extras=True)
    problems = Problems()
    given: dict[str, Any] = {}
    for key, value in values.items():
        with problems.caught():
            if key not in specs:
                raise _unknown(_join(path, key), key, {*specs, *others})
            name = specs[key].name
            given[name] = convert(hints[name], value, _join(path, key))
    for name, spec in specs.items():
        needed = spec.default is spec.default_factory is dataclasses.MISSING
        if needed and name not in values:
            problems.add(_join(path, name), "missing")
    problems.check()
    try:
        return kind(**given)
    except ValueError as error:
        raise ConfigError(path, str(error)) from None


def convert(kind: Any, value: Any, path: str) -> Any:
    """Return a value of TOML as a type has it; see `section` for the types.

    Raises:
        ConfigError: it is something else.
    """
    choices = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return section(cast("type[Any]", kind), value, path)
    if origin is Annotated:
        return _written(choices[1], value, path)
    if origin is typing.Literal:
        return _chosen(choices, value, path)
    if origin is tuple:
        return tuple(_items(choices[0], value, path))
    if origin is dict:
        return _strings(value, path)
    if origin in (types.UnionType, typing.Union):
        return _first_fitting(choices, value, path)
    return _scalar(kind, value, path)


# -- inside --------------------------------------------------------------------------


def _scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is Any:
        return value
    if issubclass(kind, StrEnum):
        return kind(_chosen([str(member) for member in kind], value, path))
    # bool is a subclass of int, and `series = true` is surely a mistake.
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not fits:
        raise ConfigError(path, f"expected {_WORDS[kind]}, got {value!r}")
    return value


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _unknown(path: str, key: str, known: Collection[str]) -> ConfigError:
    near = difflib.get_close_matches(key, known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return ConfigError(path, f"unknown key{hint} (known: {', '.join(sorted(known))})")


def _written(unit: Unit, value: Any, path: str) -> str:
    """Return the text of a unit; a plain number is one of its smallest."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(path, f"expected a {unit.name}, got {value!r}")
    try:
        unit.parse(str(value))
    except ValueError as error:
        raise ConfigError(path, str(error)) from None
    return str(value)


def _chosen(allowed: Collection[Any], value: Any, path: str) -> Any:
    if value not in allowed:
        names = ", ".join(map(repr, allowed))
        raise ConfigError(path, f"{value!r} is not one of {names}")
    return value


def _first_fitting(choices: Collection[Any], value: Any, path: str) -> Any:
    first, *others = (kind for kind in choices if kind is not types.NoneType)
    for kind in others:
        with contextlib.suppress(ConfigError):
            return convert(kind, value, path)
    return convert(first, value, path)


def _items(kind: Any, value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        what = 'a list such as ["a", "b"]'
        if dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict:
            what = f"a list of tables [[{path}]]"
        raise ConfigError(path, f"expected {what}, got {value!r}")
    problems, found = Problems(), []
    for number, one in enumerate(value):
        with problems.caught():
            found.append(convert(kind, one, f"{path}[{number}]"))
    problems.check()
    return found


def _strings(value: Any, path: str) -> dict[str, str]:
    if not isinstance(value, dict):
        text = 'expected a table such as { team = "search" }'
        raise ConfigError(path, f"{text}, got {value!r}")
    for name, one in value.items():
        if not isinstance(one, str | int) or isinstance(one, bool):
            raise ConfigError(f"{path}.{name}", f"expected a string, got {one!r}")
    return {name: str(one) for name, one in value.items()}


_WORDS: Final[Mapping[Any, str]] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dt.datetime: "a date and time such as 2026-12-01T22:00:00Z",
}

"""Reads TOML tables into dataclasses, and reports all errors of a table together.

Every error names the path of its key, such as `rule[1].match[0]`; lists count from 0.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar, cast
from urllib.parse import urlsplit

from kaywatch_agent.errors import ConfigError, InvalidValue
from kaywatch_agent.units import parse_duration, parse_size

__all__ = [
    "Duration",
    "ErrorCollector",
    "Size",
    "Unit",
    "check_link",
    "check_url",
    "section",
    "valid_section",
]

_Section = TypeVar("_Section")


@dataclasses.dataclass(frozen=True)
class Unit:
    """Annotates a text that has a unit, such as a duration.

    Attributes:
        name: shown in errors and in the configuration reference.
        parse: raises ValueError for invalid texts; TOML numbers are passed as text.
    """

    name: str
    parse: Callable[[str], object]


Duration = Annotated[str, Unit("duration", parse_duration)]
Size = Annotated[str, Unit("size", parse_size)]


def check_url(key: str, url: str) -> None:
    """Raise ConfigError unless a URL has the scheme http or https and a host."""
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_valid &= parts.port != 0  # an invalid port raises ValueError when it is read
    except ValueError:
        is_valid = False
    # A real Alertmanager rejects all alerts of a request with an invalid URL.
    if not is_valid or any(not c.isprintable() or c.isspace() for c in url):
        # Without the value: a URL may contain a secret.
        raise ConfigError(key, "expected a URL such as https://host/path (or http)")


def check_link(key: str, url: str) -> None:
    """Raise ConfigError for a URL that cannot be a link in messages.

    Unlike that of `check_url`, the error contains the URL.
    """
    try:
        check_url(key, url)
    except ConfigError:
        text = f'"{url}": expected a URL such as https://host/path (or http)'
        raise ConfigError(key, text) from None
    # A real Alertmanager rejects these as well.
    if re.search("%(?![0-9A-Fa-f]{2})", url):
        text = f'"{url}": expected two hexadecimal digits after %; write %25 for %'
        raise ConfigError(key, text)
    if urlsplit(url).password:
        text = "contains a password, which each message would show; remove it"
        raise ConfigError(key, text)


class ErrorCollector:
    """Collects errors, so that a user can fix all of them at once."""

    def __init__(self) -> None:
        self._errors: list[ConfigError] = []

    def add(self, key: str, text: str) -> None:
        """Add an error."""
        self._errors.append(ConfigError(key, text))

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """Add the errors raised within the block, and continue after it."""
        try:
            yield
        except ConfigError as error:
            self._errors += [error, *error.others]

    @property
    def keys(self) -> frozenset[str]:
        """The paths of the keys that have an error."""
        return frozenset(error.key for error in self._errors)

    def add_others(self, found: ErrorCollector) -> None:
        """Add the errors of keys that have none yet."""
        keys = self.keys
        self._errors += [error for error in found._errors if error.key not in keys]

    def raise_all(self) -> None:
        """Raise the collected errors, each once, if there are any.

        Raises:
            ConfigError: the first error; its `others` are the rest.
        """
        if self._errors:
            raise self.error()

    def error(self) -> ConfigError:
        """Return the first of the collected errors, of which there must be one."""
        # All tiers of a burn rate have the errors of their table.
        first, *others = {str(error): error for error in self._errors}.values()
        first.others = tuple(others)
        return first


def section(
    kind: type[_Section],
    values: object,
    path: str,
    others: Iterable[str] = (),
) -> _Section:
    """Return a dataclass with the values of a table, and its defaults otherwise.

    Args:
        kind: the dataclass; see `convert` for the types of its fields. A trailing
            underscore of a field is not part of its key: `for_`.
        values: the table.
        path: the table's path, such as `receiver.ops`; empty for the whole file.
        others: further known keys, to be suggested for unknown ones.

    Raises:
        ConfigError: all errors of the table.
    """
    if not isinstance(values, dict):
        raise ConfigError(path, f"expected a table [{path}], got {values!r}")
    try:
        return kind(**_convert_values(kind, values, path, others))
    except InvalidValue as error:
        raise ConfigError(f"{path}.{error.key}", str(error)) from None
    except ValueError as error:
        raise ConfigError(path, str(error)) from None


def valid_section(
    kind: type[_Section],
    values: object,
    path: str,
    problems: ErrorCollector,
    others: Iterable[str] = (),
) -> _Section | None:
    """Return a dataclass with the valid values of a table, to validate them further.

    Invalid keys have their defaults, also in the tables within the table.

    Args:
        kind: the dataclass.
        values: the table.
        path: the table's path.
        problems: gets the errors of the table.
        others: see `section`.

    Returns:
        None if a required key is missing or invalid.
    """
    errors = ErrorCollector()
    with errors.collect():
        return section(kind, values, path, others)
    problems.add_others(errors)
    if not isinstance(values, dict):
        return None
    hints = typing.get_type_hints(kind, include_extras=True)
    valid: dict[str, Any] = {}
    for spec in dataclasses.fields(cast("Any", kind)):
        key, hint = spec.name.rstrip("_"), hints[spec.name]
        if key not in values:
            continue
        if dataclasses.is_dataclass(hint):
            part = valid_section(
                cast("type[Any]", hint), values[key], _join(path, key), problems
            )
            valid |= {} if part is None else {spec.name: part}
            continue
        with contextlib.suppress(ConfigError):
            valid[spec.name] = convert(hint, values[key], _join(path, key))
    further = ErrorCollector()
    with further.collect(), contextlib.suppress(TypeError, ValueError):
        return kind(**valid)
    problems.add_others(further)
    return None


def _convert_values(
    kind: Any, values: dict[str, Any], path: str, others: Iterable[str]
) -> dict[str, Any]:
    """Return the converted values of a table, by field."""
    specs = {spec.name.rstrip("_"): spec for spec in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind, include_extras=True)
    errors = ErrorCollector()
    converted: dict[str, Any] = {}
    for key, value in values.items():
        with errors.collect():
            if key not in specs:
                raise _unknown(_join(path, key), key, {*specs, *others})
            name = specs[key].name
            converted[name] = convert(hints[name], value, _join(path, key))
    for key, spec in specs.items():
        required = spec.default is spec.default_factory is dataclasses.MISSING
        if required and key not in values:
            errors.add(_join(path, key), "missing")
    errors.raise_all()
    return converted


def convert(kind: Any, value: Any, path: str) -> Any:
    """Return a TOML value as a type.

    Args:
        kind: a string, number, boolean, date and time, `Literal`, `StrEnum`,
            `tuple[str, ...]`, `dict[str, str]`, dataclass, tuple of a dataclass, string
            `Annotated` with a `Unit`, or a union of these.
        value: the value.
        path: its path, for errors.

    Raises:
        ConfigError: the value does not fit the type.
    """
    choices = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return section(cast("type[Any]", kind), value, path)
    if origin is Annotated:
        return _with_unit(choices[1], value, path)
    if origin is typing.Literal:
        return _choice(choices, value, path)
    if origin is tuple:
        return tuple(_items(choices[0], value, path))
    if origin is dict:
        return _strings(value, path)
    if origin in (types.UnionType, typing.Union):
        return _union(choices, value, path)
    return _scalar(kind, value, path)


# -- inside --------------------------------------------------------------------------


def _scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is Any:
        return value
    if issubclass(kind, StrEnum):
        return kind(_choice([str(member) for member in kind], value, path))
    # bool is a subclass of int, but `series = true` is a mistake.
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not fits:
        raise ConfigError(path, f"expected {_TYPE_NAMES[kind]}, got {value!r}")
    # TOML allows inf, and nan, which makes every comparison false.
    if kind is float and not math.isfinite(value):
        raise ConfigError(path, f"expected a finite number, got {value!r}")
    return value


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _unknown(path: str, key: str, known: Collection[str]) -> ConfigError:
    near = difflib.get_close_matches(key, known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return ConfigError(path, f"unknown key{hint} (known: {', '.join(sorted(known))})")


def _with_unit(unit: Unit, value: Any, path: str) -> str:
    """Return the text of a value with a unit; plain numbers are allowed."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(path, f"expected a {unit.name}, got {value!r}")
    try:
        unit.parse(str(value))
    except ValueError as error:
        raise ConfigError(path, str(error)) from None
    return str(value)


def _choice(allowed: Collection[Any], value: Any, path: str) -> Any:
    if value not in allowed:
        names = ", ".join(map(repr, allowed))
        raise ConfigError(path, f"{value!r} is not one of {names}")
    return value


def _union(choices: Collection[Any], value: Any, path: str) -> Any:
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
    errors, items = ErrorCollector(), []
    for number, item in enumerate(value):
        with errors.collect():
            items.append(convert(kind, item, f"{path}[{number}]"))
    errors.raise_all()
    return items


def _strings(value: Any, path: str) -> dict[str, str]:
    if not isinstance(value, dict):
        text = 'expected a table such as { team = "search" }'
        raise ConfigError(path, f"{text}, got {value!r}")
    for name, text in value.items():
        if not isinstance(text, str | int) or isinstance(text, bool):
            raise ConfigError(f"{path}.{name}", f"expected a string, got {text!r}")
    return {name: str(text) for name, text in value.items()}


_TYPE_NAMES: Final[Mapping[Any, str]] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dt.datetime: "a date and time such as 2026-12-01T22:00:00Z",
}

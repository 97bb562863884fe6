"""Reads TOML tables into typed values: the one place that converts and complains.

A section that is a dataclass is read by `section`, another table key by key by `Table`.
Both find all that is wrong before they raise, each error with its key's path. Lists
count from 0: `rule[1].match[0]`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import difflib
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, TypeVar, cast

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.units import parse_duration, parse_size

__all__ = ["Duration", "Problems", "Size", "Table", "Unit", "section"]

T = TypeVar("T")
_Section = TypeVar("_Section")

_ABSENT: Any = object()


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
            a date and time, an `Annotated` string with its `Unit`, or a union of these.
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
    # bool is a subclass of int, and `series = true` is surely a mistake.
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not fits:
        raise ConfigError(path, f"expected {_WORDS[kind]}, got {value!r}")
    return value


class Table:
    """A table whose keys are taken one by one; what nobody takes is unknown."""

    def __init__(
        self,
        values: object,
        path: str,
        defaults: Mapping[str, Any] | None = None,
        known: Collection[str] = (),
    ) -> None:
        """Begin with a table.

        Args:
            values: as TOML gave it.
            path: where it stands, for errors.
            defaults: values for keys that it doesn't have.
            known: keys that it may have though nobody takes them.

        Raises:
            ConfigError: that is no table.
        """
        if not isinstance(values, dict):
            raise ConfigError(path, f"expected a table, got {values!r}")
        self.path = path
        self.problems = Problems()
        self._values: Mapping[str, Any] = values
        self._defaults = defaults or {}
        self._known = set(known)

    def __contains__(self, key: str) -> bool:
        self._known.add(key)
        return key in self._values

    def text(self, key: str, default: str = "") -> str:
        """Return a string."""
        return str(self._get(key, default, str))

    def flag(self, key: str, default: bool = False) -> bool:
        """Return true or false."""
        return bool(self._get(key, default, bool))

    def number(self, key: str, default: float = 0.0) -> float:
        """Return a number."""
        return float(self._get(key, default, float))

    def whole(self, key: str, default: int = 0, least: int = 0) -> int:
        """Return a whole number."""
        found = int(self._get(key, default, int))
        if found < least:
            raise self.error(key, f"{found}: at least {least}")
        return found

    def duration(self, key: str, default: str = "0") -> float:
        """Return the seconds of a duration."""
        return parse_duration(self._get(key, default, Duration))

    def choice(self, key: str, allowed: Collection[T], default: T) -> T:
        """Return one of several values."""
        path, value = _join(self.path, key), self.either(key, default)
        with self.problems.caught():
            _chosen(list(allowed), value, path)
            return cast("T", value)
        return default

    def texts(self, key: str, default: Iterable[str] = ()) -> tuple[str, ...]:
        """Return a list of strings."""
        return tuple(self._get(key, list(default), tuple[str, ...]))

    def parsed(self, key: str, make: Callable[[str], T]) -> tuple[T, ...]:
        """Return what `make` makes of each of a list of strings."""
        return tuple(
            self.checked(f"{key}[{number}]", make, text)
            for number, text in enumerate(self.texts(key))
        )

    def strings(self, key: str) -> dict[str, str]:
        """Return a table of strings; numbers become strings."""
        return dict(self._get(key, {}, dict[str, str]))

    def either(self, key: str, default: Any) -> Any:
        """Return whatever is there."""
        self._known.add(key)
        return self._values.get(key, self._defaults.get(key, default))

    def tables(self, key: str) -> list[Table]:
        """Return a list of tables."""
        path = _join(self.path, key)
        found = self.either(key, [])
        if not isinstance(found, list):
            raise ConfigError(path, f"expected tables: write [[{path}]]")
        return [Table(part, f"{path}[{n}]") for n, part in enumerate(found)]

    def checked(self, key: str, make: Callable[[str], T], text: str) -> T:
        """Return what `make` makes of a text; its ValueError names the key."""
        try:
            return make(text)
        except ValueError as error:
            raise self.error(key, str(error)) from None

    def done(self) -> None:
        """Refuse the keys that nobody asked for.

        Raises:
            ConfigError: each with the nearest known one; and all errors found before.
        """
        for key in self._values:
            if key not in self._known:
                with self.problems.caught():
                    raise _unknown(_join(self.path, key), key, self._known)
        self.problems.check()

    def error(self, key: str, message: str) -> ConfigError:
        """Return the errors found so far, with one about one of its keys."""
        self.problems.add(_join(self.path, key), message)
        return self.problems.first

    def _get(self, key: str, default: Any, kind: Any) -> Any:
        self._known.add(key)
        found = self._values.get(key, self._defaults.get(key, _ABSENT))
        if found is _ABSENT:
            return default
        # Wrong, the default stands in for it, so that the next error is found as well.
        with self.problems.caught():
            return convert(kind, found, _join(self.path, key))
        if key in self._values and key in self._defaults:
            with contextlib.suppress(ConfigError):
                return convert(kind, self._defaults[key], key)
        return default


# -- inside --------------------------------------------------------------------------


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
        tables = dataclasses.is_dataclass(kind)
        what = f"tables [[{path}]]" if tables else 'a list such as ["a", "b"]'
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

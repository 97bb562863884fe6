"""Reads one table of a TOML file: each key checked, each error with its path."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.units import parse_duration

__all__ = ["Table"]

T = TypeVar("T")

_ABSENT: Any = object()


class Table:
    """A table whose keys are taken out one by one; what is left over is unknown."""

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
        self._values: Mapping[str, Any] = values
        self._defaults = defaults or {}
        self._known = set(known)

    def __contains__(self, key: str) -> bool:
        self._known.add(key)
        return key in self._values

    def text(self, key: str, default: str = "") -> str:
        """Return a string."""
        return str(self._get(key, default, str, "a string"))

    def flag(self, key: str, default: bool = False) -> bool:
        """Return true or false."""
        return bool(self._get(key, default, bool, "true or false"))

    def number(self, key: str, default: float = 0.0) -> float:
        """Return a number."""
        return float(self._get(key, default, (int, float), "a number"))

    def whole(self, key: str, default: int = 0, least: int = 0) -> int:
        """Return a whole number."""
        found = int(self._get(key, default, int, "a whole number"))
        if found < least:
            raise self.error(key, f"{found}: at least {least}")
        return found

    def length(self, key: str, default: str = "0") -> float:
        """Return the seconds of a length of time."""
        found = self._get(key, default, str, 'a length of time such as "5m"')
        return self.checked(key, parse_duration, found)

    def choice(self, key: str, allowed: Collection[T], default: T) -> T:
        """Return one of several values."""
        found: T = self._get(key, default, object, "")
        if found not in allowed:
            names = ", ".join(map(repr, allowed))
            raise self.error(key, f"{found!r} is not one of {names}")
        return found

    def texts(self, key: str, default: Iterable[str] = ()) -> tuple[str, ...]:
        """Return a list of strings."""
        found = self._get(key, list(default), list, 'a list such as ["a", "b"]')
        for value in found:
            if not isinstance(value, str):
                raise self.error(key, f"expected strings, got {value!r}")
        return tuple(found)

    def strings(self, key: str) -> dict[str, str]:
        """Return a table of strings; numbers become strings."""
        found = self._get(key, {}, dict, 'a table such as { team = "search" }')
        for name, value in found.items():
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise self.error(f"{key}.{name}", f"expected a string, got {value!r}")
        return {name: str(value) for name, value in found.items()}

    def either(self, key: str, default: Any) -> Any:
        """Return whatever is there."""
        self._known.add(key)
        return self._values.get(key, self._defaults.get(key, default))

    def tables(self, key: str) -> list[Table]:
        """Return a list of tables."""
        found = self._get(key, [], list, "a list of tables")
        path = f"{self.path}.{key}" if self.path else key
        return [Table(part, f"{path}[{n}]") for n, part in enumerate(found, 1)]

    def checked(self, key: str, make: Callable[[str], T], text: str) -> T:
        """Return what `make` makes of a text; its ValueError names the key."""
        try:
            return make(text)
        except ValueError as error:
            raise self.error(key, str(error)) from None

    def done(self) -> None:
        """Refuse the keys that nobody asked for.

        Raises:
            ConfigError: for the first of them, with the nearest known one.
        """
        for key in self._values:
            if key not in self._known:
                near = difflib.get_close_matches(key, self._known, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                names = ", ".join(sorted(self._known))
                raise self.error(key, f"unknown key{hint} (known: {names})")

    def error(self, key: str, message: str) -> ConfigError:
        """Return an error about one of its keys."""
        return ConfigError(f"{self.path}.{key}" if self.path else key, message)

    def _get(self, key: str, default: Any, kind: Any, expected: str) -> Any:
        self._known.add(key)
        found = self._values.get(key, self._defaults.get(key, _ABSENT))
        if found is _ABSENT:
            return default
        # bool is a subclass of int, and `value = true` is surely a mistake.
        wrong = isinstance(found, bool) and kind is not bool and kind is not object
        if wrong or not isinstance(found, kind):
            raise self.error(key, f"expected {expected}, got {found!r}")
        return found

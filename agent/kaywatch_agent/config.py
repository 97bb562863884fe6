"""One TOML file becomes frozen sections; every key has a default.

Each section's type lives next to its consumer; this module only reads the file, and
says which key is wrong and what it should be.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kaywatch_agent.aggregate.registry import Limits
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.ingest.unix import UnixConfig
from kaywatch_agent.logs import LogConfig
from kaywatch_agent.store.writer import StoreConfig
from kaywatch_agent.web.server import HttpConfig

__all__ = ["DEFAULT_PATH", "Config", "find", "load", "parse"]

DEFAULT_PATH: Final = Path("/etc/kaywatch/kaywatch.toml")


@dataclass(frozen=True)
class Config:
    """All that can be set; see the sections' own types."""

    ingest: UnixConfig = field(default_factory=UnixConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    limits: Limits = field(default_factory=Limits)
    log: LogConfig = field(default_factory=LogConfig)


def find(path: str | None) -> Path | None:
    """Return the file to read: the one given, else the default one if it exists."""
    if path is not None:
        return Path(path)
    return DEFAULT_PATH if DEFAULT_PATH.exists() else None


def load(path: Path | None) -> Config:
    """Read and check a file; the defaults when there is none.

    Raises:
        ConfigError: naming the key, what it holds and what is allowed.
    """
    if path is None:
        return Config()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("", f"can't read {path}: {error}") from None
    try:
        return parse(text)
    except ConfigError as error:
        raise ConfigError("", f"{path}: {error}") from None


def parse(text: str) -> Config:
    """Return the configuration that `text` is.

    Raises:
        ConfigError: see `load`.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("", f"no TOML: {error}") from None
    config: Config = _section(Config, values, "")
    return config


# -- inside --------------------------------------------------------------------------


def _section(kind: type[Any], values: Mapping[str, Any], path: str) -> Any:
    """Return a dataclass filled from a table, its defaults for the rest."""
    known = {spec.name: spec for spec in dataclasses.fields(kind)}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            names = ", ".join(sorted(known))
            raise ConfigError(f"{path}{key}", f"unknown key{hint} (known: {names})")
    types_of = typing.get_type_hints(kind)
    given = {
        key: _value(types_of[key], value, f"{path}{key}")
        for key, value in values.items()
    }
    try:
        return kind(**given)
    except ValueError as error:
        raise ConfigError(path.rstrip("."), str(error)) from None


def _value(kind: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ConfigError(path, f"expected a table [{path}], got {value!r}")
        return _section(typing.cast(type[Any], kind), value, f"{path}.")
    choices = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        if value not in choices:
            allowed = ", ".join(map(repr, choices))
            raise ConfigError(path, f"{value!r} is not one of {allowed}")
        return value
    if isinstance(kind, types.UnionType):
        kind = next(choice for choice in choices if choice is not types.NoneType)
    # bool is a subclass of int, and `series = true` is surely a mistake.
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not fits:
        raise ConfigError(path, f"expected {_WORDS[kind]}, got {value!r}")
    return value


_WORDS: Final[Mapping[Any, str]] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}

"""One TOML file becomes frozen sections; every key has a default.

Each section's type lives next to its consumer; this module only reads the file.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

from kaywatch_agent.aggregate.registry import Limits
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.ingest.unix import UnixConfig
from kaywatch_agent.logs import LogConfig
from kaywatch_agent.rules import load as rules
from kaywatch_agent.rules.rule import Settings
from kaywatch_agent.settings import section
from kaywatch_agent.store.writer import StoreConfig
from kaywatch_agent.web.server import HttpConfig

__all__ = ["DEFAULT_PATH", "Config", "Sections", "find", "load", "parse"]

DEFAULT_PATH: Final = Path("/etc/kaywatch/kaywatch.toml")


@dataclass(frozen=True)
class Sections:
    """The tables that are dataclasses; see the sections' own types."""

    ingest: UnixConfig = field(default_factory=UnixConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    limits: Limits = field(default_factory=Limits)
    log: LogConfig = field(default_factory=LogConfig)


@dataclass(frozen=True)
class Config(Sections):
    """All that can be set: the sections, and what the tables of alerts come to."""

    alerts: Settings = field(default_factory=lambda: rules.load({}))


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
    alerts = {name: values.pop(name) for name in rules.TABLES if name in values}
    sections = section(Sections, values, "", rules.TABLES)
    known = {key.name: getattr(sections, key.name) for key in fields(Sections)}
    retention = sections.store.retention.hours
    return Config(**known, alerts=rules.load(alerts, retention=retention))

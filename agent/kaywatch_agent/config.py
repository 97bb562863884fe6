"""One TOML file becomes frozen sections; every key has a default.

Each section's type lives next to its consumer; this module only reads the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from kaywatch_agent.aggregate.registry import Limits
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.ingest.config import IngestConfig
from kaywatch_agent.notify.config import (
    HeartbeatConfig,
    ReceiverConfig,
    parse_heartbeat,
)
from kaywatch_agent.notify.config import parse as parse_receivers
from kaywatch_agent.notify.delivery import NotifyConfig
from kaywatch_agent.protocol.redact import FailureConfig
from kaywatch_agent.rules import load as rules
from kaywatch_agent.rules.rule import AlertSettings
from kaywatch_agent.runtime.logs import LogConfig
from kaywatch_agent.settings.reader import Problems, section
from kaywatch_agent.store.writer import StoreConfig
from kaywatch_agent.web.config import HttpConfig

__all__ = ["DEFAULT_PATH", "Config", "Sections", "assemble", "find", "load", "parse"]

# Tables that are no sections.
TABLES: Final = (*rules.TABLES, "receiver", "heartbeat")

DEFAULT_PATH: Final = Path("/etc/kaywatch/kaywatch.toml")


@dataclass(frozen=True)
class Sections:
    """The tables that are dataclasses; see the sections' own types."""

    ingest: IngestConfig = field(default_factory=IngestConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    limits: Limits = field(default_factory=Limits)
    failures: FailureConfig = field(default_factory=FailureConfig)
    log: LogConfig = field(default_factory=LogConfig)


@dataclass(frozen=True)
class Config(Sections):
    """All that can be set: the sections, rules, and who is told.

    Attributes:
        alerts: what `[alerting]`, `[[rule]]` and their like come to.
        notify: what `[receiver.NAME]` and `[heartbeat]` come to.
    """

    alerts: AlertSettings = field(default_factory=lambda: rules.load({}))
    notify: NotifyConfig = field(default_factory=NotifyConfig)


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
        raise ConfigError("", f"{path}: {error}", error.others) from None


def parse(text: str) -> Config:
    """Return the configuration that `text` is.

    Raises:
        ConfigError: see `load`.
    """
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Of the parser: a number of thousands of digits, and what is nested as deep.
        raise ConfigError("", f"no TOML: {str(error)[:500]}") from None
    return assemble(values)


def assemble(values: Mapping[str, Any], others: Collection[str] = ()) -> Config:
    """Return the configuration that tables are.

    Args:
        values: the tables.
        others: keys that are known besides, for a complaint.

    Raises:
        ConfigError: see `load`.
    """
    rest = {name: table for name, table in values.items() if name not in TABLES}
    tables = values.get("receiver", {})
    sections, heartbeat = Sections(), HeartbeatConfig()
    receivers: dict[str, ReceiverConfig] = {}
    problems = Problems()
    with problems.caught():
        sections = section(Sections, rest, "", (*TABLES, *others))
    with problems.caught():
        receivers = parse_receivers(tables)
    with problems.caught():
        heartbeat = parse_heartbeat(values.get("heartbeat", {}))
    with problems.caught():
        settings = rules.load(
            values,
            # Also those with an error: a rule that notifies one has none of its own.
            receivers=receivers or tuple(tables),
            retention=sections.store.retention.hours,
        )
    problems.check()
    known = {key.name: getattr(sections, key.name) for key in fields(Sections)}
    notify = NotifyConfig(receivers, settings.grouping, heartbeat)
    return Config(**known, alerts=settings, notify=notify)

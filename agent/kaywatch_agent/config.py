"""Reads the configuration: one TOML file becomes frozen sections.

Every key has a default. Each section's type is defined next to its consumer.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kaywatch_agent.aggregate.registry import Limits
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.export.config import ExportConfig, parse_export
from kaywatch_agent.ingest.config import IngestConfig
from kaywatch_agent.notify.config import (
    HeartbeatConfig,
    NotifyConfig,
    parse_heartbeat,
)
from kaywatch_agent.notify.config import parse as parse_receivers
from kaywatch_agent.protocol.redact import FailureConfig
from kaywatch_agent.rules import load as rules
from kaywatch_agent.rules.rule import AlertSettings
from kaywatch_agent.runtime.logs import LogConfig
from kaywatch_agent.settings.reader import ErrorCollector, section
from kaywatch_agent.store.writer import StoreConfig
from kaywatch_agent.web.config import HttpConfig

__all__ = ["DEFAULT_PATH", "Config", "Sections", "assemble", "find", "load", "parse"]

# Tables that are not fields of `Sections`.
TABLES: Final = (*rules.TABLES, "receiver", "heartbeat", "export")

DEFAULT_PATH: Final = Path("/etc/kaywatch/kaywatch.toml")


@dataclass(frozen=True)
class Sections:
    """The tables that are dataclasses; see their types."""

    ingest: IngestConfig = field(default_factory=IngestConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    limits: Limits = field(default_factory=Limits)
    failures: FailureConfig = field(default_factory=FailureConfig)
    log: LogConfig = field(default_factory=LogConfig)


@dataclass(frozen=True)
class Config(Sections):
    """The whole configuration.

    Attributes:
        alerts: from `[alerting]`, `[[rule]]` and related tables.
        notify: from `[receiver.NAME]` and `[heartbeat]`.
        export: from `[[export.remote_write]]` and `[[export.otlp]]`.
    """

    alerts: AlertSettings = field(default_factory=lambda: rules.load({}))
    notify: NotifyConfig = field(default_factory=NotifyConfig)
    export: ExportConfig = field(default_factory=ExportConfig)


def find(path: str | None) -> Path | None:
    """Return the path of the file, or of the default one; None if that is missing."""
    if path is not None:
        return Path(path)
    return DEFAULT_PATH if DEFAULT_PATH.exists() else None


def load(path: Path | None) -> Config:
    """Read and validate a file; return the defaults for None.

    Raises:
        ConfigError: all errors; each names the key, its value and what is allowed.
    """
    if path is None:
        return Config()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("", f"cannot read {path}: {error}") from None
    try:
        return parse(text)
    except ConfigError as error:
        raise ConfigError("", f"{path}: {error}", error.others) from None


def find_unused(notify: NotifyConfig, alerts: AlertSettings) -> list[str]:
    """Return a warning about each receiver that nothing notifies."""
    used = {name for rule in alerts.rules.values() for name in rule.notify}
    used |= {config.fallback for config in notify.receivers.values()}
    return [
        f"receiver.{name}: no rule notifies it; add it to alerting.default_notify or to"
        " the notify of a rule"
        for name in notify.receivers
        if name not in used
    ]


def parse(text: str) -> Config:
    """Return the configuration in a TOML text.

    Raises:
        ConfigError: see `load`.
    """
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # The parser raises these for numbers of thousands of digits and deep nesting.
        raise ConfigError("", f"invalid TOML: {str(error)[:500]}") from None
    return assemble(values)


def assemble(values: Mapping[str, Any], others: Collection[str] = ()) -> Config:
    """Return the configuration from the tables of a file.

    Args:
        values: the tables.
        others: further known keys, to be suggested for unknown ones.

    Raises:
        ConfigError: see `load`.
    """
    rest = {name: table for name, table in values.items() if name not in TABLES}
    tables = values.get("receiver", {})
    sections, heartbeat, receivers = Sections(), HeartbeatConfig(), {}
    export = ExportConfig()
    problems = ErrorCollector()
    with problems.collect():
        sections = section(Sections, rest, "", (*TABLES, *others))
    with problems.collect():
        receivers = parse_receivers(tables)
    with problems.collect():
        heartbeat = parse_heartbeat(values.get("heartbeat", {}))
    with problems.collect():
        export = parse_export(values.get("export", {}))
    with problems.collect():
        settings = rules.load(
            values,
            # Including invalid ones: a rule that names one of them is valid.
            receivers=receivers or (tuple(tables) if isinstance(tables, dict) else ()),
            retention=sections.store.retention.hours,
        )
    problems.raise_all()
    notify = NotifyConfig(receivers, settings.grouping, heartbeat)
    return Config(**vars(sections), alerts=settings, notify=notify, export=export)

"""Reads the tables of inhibitions and silences."""

from __future__ import annotations

from typing import Any

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.rules.config import InhibitConfig, SilenceConfig
from kaywatch_agent.rules.matchers import parse as parse_matcher
from kaywatch_agent.rules.rule import Inhibition
from kaywatch_agent.rules.silence import Silence, validate_silence
from kaywatch_agent.settings.reader import ErrorCollector, section

__all__ = ["read_inhibition", "read_silence"]


def read_inhibition(table: Any, path: str) -> Inhibition:
    """Return the inhibition of a table.

    Raises:
        ConfigError: all errors, each with its key.
    """
    problems = ErrorCollector()
    with problems.collect():
        config = section(InhibitConfig, table, path)
    for key in ("source", "target"):
        if isinstance(table, dict) and table.get(key) == []:
            example = "matchers such as 'severity=\"critical\"'"
            problems.add(f"{path}.{key}", f"the list is empty; write {example}")
    problems.raise_all()
    source = tuple(map(parse_matcher, config.source))
    target = tuple(map(parse_matcher, config.target))
    return Inhibition(source, target, config.equal)


def read_silence(table: Any, path: str) -> Silence:
    """Return the silence of a table.

    Raises:
        ConfigError: all errors, each with its key.
    """
    config = section(SilenceConfig, table, path)
    silence = Silence(
        matchers=tuple(map(parse_matcher, config.match)),
        starts_at=config.starts,
        ends_at=config.ends,
        created_by="the configuration",
        comment=config.comment,
    )
    try:
        return validate_silence(silence)
    except ValueError as error:
        text = str(error).replace("_at", "").replace("matchers: ", "match: ", 1)
        raise ConfigError(path, text) from None

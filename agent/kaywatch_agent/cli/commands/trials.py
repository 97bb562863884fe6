"""Tests of rules: read from their file, and what came of them."""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from kaywatch_agent import config as configuration
from kaywatch_agent.cli.commands import output
from kaywatch_agent.config import Config
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.rules.load import BUILT_IN
from kaywatch_agent.simulation import casefile
from kaywatch_agent.simulation.case import TestCase
from kaywatch_agent.simulation.differences import headline
from kaywatch_agent.simulation.trial import CaseResult
from kaywatch_agent.units import duration

__all__ = ["as_json", "read", "show"]

# Keys of a test's file that no configuration has.
OURS: Final = ("test", "config")

MARKS: Final = (
    "- is expected and not there, + is there and not expected, ~ is not as expected"
)


def read(path: Path) -> tuple[list[TestCase], Config]:
    """Return the tests of a file, and what they are about: its own, or another file.

    Raises:
        ConfigError: naming the file, the key, and the fix.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("", f"can't read {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("", f"{path}: no TOML: {error}") from None
    try:
        config = _config(values, path.parent)
        cases = casefile.load(values, config.alerts, config.notify.receivers)
    except ConfigError as error:
        raise ConfigError("", f"{path}: {error}", error.others) from None
    return cases, config


def show(verdicts: Sequence[CaseResult], *, bodies: bool) -> None:
    """Show a person what came of tests, and what was sent if that is asked for."""
    for case, differences, rehearsal in verdicts:
        click.echo(f"{'FAIL' if differences else 'ok  '}  {case.name}")
        for line in differences:
            click.echo(textwrap.indent(line, " " * 6))
        for message in rehearsal.messages if bodies else ():
            at = duration(message.time - case.start)
            click.echo(f"      {at} {headline(message)}")
            output.print_message_body(rehearsal.render(message))
    failed = sum(bool(verdict.differences) for verdict in verdicts)
    if failed:
        click.echo(f"\n{MARKS}")
    click.echo(f"{len(verdicts) - failed} of {len(verdicts)} tests passed")


def as_json(verdicts: Sequence[CaseResult]) -> dict[str, Any]:
    """Return for programs what came of tests."""
    return {
        "failed": sum(bool(verdict.differences) for verdict in verdicts),
        "tests": [
            {
                "name": case.name,
                "differences": differences,
                "messages": [
                    {
                        "at": message.time - case.start,
                        "receiver": message.notification.receiver,
                        "kind": str(message.notification.kind),
                        "alerts": message.size,
                        "body": rehearsal.render(message),
                    }
                    for message in rehearsal.messages
                ],
            }
            for case, differences, rehearsal in verdicts
        ],
    }


def _config(values: Mapping[str, Any], folder: Path) -> Config:
    own = {name: table for name, table in values.items() if name not in OURS}
    if "config" in values:
        if own:
            raise ConfigError("config", f"either this, or [{min(own)}]")
        return configuration.load(folder / str(values["config"]))
    # Those that are there without configuration would be in the way.
    alerting = own.get("alerting", {})
    if isinstance(alerting, dict) and "thresholds" not in alerting:
        own["alerting"] = {**alerting, "thresholds": dict.fromkeys(BUILT_IN, False)}
    return configuration.assemble(own, OURS)

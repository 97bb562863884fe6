"""Reads files of rule tests, and shows their results."""

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
from kaywatch_agent.rules.built_in import BUILT_IN
from kaywatch_agent.simulation import test_file
from kaywatch_agent.simulation.differences import headline
from kaywatch_agent.simulation.run_test import CaseResult
from kaywatch_agent.units import duration

__all__ = ["read_tests", "results_json", "show_results"]

# The keys of a test file that a configuration does not have.
OWN_KEYS: Final = ("test", "config")

LEGEND: Final = "- expected but missing, + not expected, ~ different from expected"


def read_tests(path: Path) -> tuple[list[test_file.TestCase], Config]:
    """Return the tests of a file, and the configuration that they test.

    Raises:
        ConfigError: naming the file and the key.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("", f"cannot read {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("", f"{path}: invalid TOML: {error}") from None
    try:
        config = _tested_config(values, path.parent)
        cases = test_file.load(values, config.alerts, config.notify.receivers)
    except ConfigError as error:
        raise ConfigError("", f"{path}: {error}", error.others) from None
    return cases, config


def show_results(results: Sequence[CaseResult], *, bodies: bool) -> None:
    """Show which tests passed, and optionally the bodies of all messages."""
    for case, differences, simulation in results:
        click.echo(f"{'FAIL' if differences else 'ok  '}  {case.name}")
        for line in differences:
            click.echo(textwrap.indent(line, " " * 6))
        for message in simulation.delivery.messages if bodies else ():
            # Relative to the start, as the test file states its times.
            at = duration(message.time - case.start.timestamp())
            click.echo(f"      {at} {headline(message)}")
            output.print_message_body(simulation.delivery.render(message))
    failed = _count_failed(results)
    if failed:
        click.echo(f"\n{LEGEND}")
    click.echo(f"{len(results) - failed} of {len(results)} tests passed")


def results_json(results: Sequence[CaseResult]) -> dict[str, Any]:
    """Return the results as JSON."""
    return {
        "failed": _count_failed(results),
        "tests": [
            {
                "name": case.name,
                "differences": differences,
                "messages": [
                    {
                        "at": message.time - case.start.timestamp(),
                        "receiver": message.notification.receiver,
                        "kind": str(message.notification.kind),
                        "alerts": message.size,
                        "body": simulation.delivery.render(message),
                    }
                    for message in simulation.delivery.messages
                ],
            }
            for case, differences, simulation in results
        ],
    }


def _count_failed(results: Sequence[CaseResult]) -> int:
    return sum(bool(result.differences) for result in results)


def _tested_config(values: Mapping[str, Any], folder: Path) -> Config:
    own = {name: table for name, table in values.items() if name not in OWN_KEYS}
    if "config" in values:
        if own:
            raise ConfigError("config", f"cannot be combined with [{min(own)}]")
        return configuration.load(folder / str(values["config"]))
    # The built-in rules would send messages that the tests do not expect.
    alerting = own.get("alerting", {})
    if isinstance(alerting, dict) and "thresholds" not in alerting:
        own["alerting"] = {**alerting, "thresholds": dict.fromkeys(BUILT_IN, False)}
    return configuration.assemble(own, OWN_KEYS)

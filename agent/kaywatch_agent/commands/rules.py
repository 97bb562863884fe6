"""`kaywatch rules`: checked, tested, and tried on the past."""

from __future__ import annotations

import dataclasses
import difflib
import json
import textwrap
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from kaywatch_agent import config as configuration
from kaywatch_agent.commands import backtests
from kaywatch_agent.commands.options import LENGTH
from kaywatch_agent.config import DEFAULT_PATH, Config
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.notification import Severity
from kaywatch_agent.rules import cases
from kaywatch_agent.rules import load as loading
from kaywatch_agent.rules.backtest import Bucket, Past, backtest
from kaywatch_agent.rules.explain import sentence
from kaywatch_agent.rules.rule import Settings
from kaywatch_agent.store.past import reading

__all__ = ["rules"]

FAILED: Final = 1
WIDTH: Final = 80

_config = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    help=f"The configuration; {DEFAULT_PATH} if it exists.",
)


@click.group()
def rules() -> None:
    """Check rules, test them, and try them on the past."""


@rules.command()
@click.argument("file", required=False)
def check(file: str | None) -> None:
    """Check the rules in FILE, and say what each looks for.

    Without FILE, the configuration that `kaywatch serve` would take.
    """
    path = configuration.find(file)
    config = configuration.load(path)
    settings, receivers = config.alerts, config.notify.receivers
    parts = [_count(len(settings.rules), "rule"), _count(len(receivers), "receiver")]
    if settings.warnings:
        parts.append(_count(len(settings.warnings), "warning"))
    click.echo(f"{path or 'No file, all defaults'}:")
    click.echo(f"  {', '.join(parts)}")
    for warning in settings.warnings:
        _wrapped(f"warning: {warning}", "  ")
    for rule in settings.rules.values():
        told = ", ".join(rule.notify) or "nobody"
        own = ", built in" if rule.built_in else ""
        click.echo(f"\n{rule.name}  ({rule.kind}, {rule.severity}{own}; tells {told})")
        _wrapped(sentence(rule), "  ")


@rules.command()
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
def test(file: str, as_json: bool) -> None:
    """Run the tests in FILE on a virtual clock; see docs/alerts.md.

    The exit code is 1 if one fails.
    """
    path = Path(file)
    values = _toml(path)
    settings, least = _rules_of(path, values)
    try:
        found = cases.load(values, settings)
    except ConfigError as error:
        raise ConfigError("", f"{path}: {error}") from None
    verdicts = [cases.run(case, settings, least) for case in found]
    failed = [verdict for verdict in verdicts if verdict.differences]
    if as_json:
        listed = [{"name": v.case.name, "differences": v.differences} for v in verdicts]
        click.echo(json.dumps({"failed": len(failed), "tests": listed}, indent=2))
    else:
        for verdict in verdicts:
            click.echo(
                f"{'FAIL' if verdict.differences else 'ok  '}  {verdict.case.name}"
            )
            for line in verdict.differences:
                click.echo(textwrap.indent(line, "    "))
        if failed:
            click.echo("\n- is expected and not there, + is there and not expected")
        click.echo(f"{len(verdicts) - len(failed)} of {len(verdicts)} tests passed")
    if failed:
        raise click.exceptions.Exit(FAILED)


@rules.command("backtest")
@click.option(
    "--since",
    type=LENGTH,
    default="7d",
    show_default=True,
    metavar="7d",
    help="How far back.",
)
@click.option(
    "--rule", "names", multiple=True, metavar="NAME", help="Only this; may be repeated."
)
@_config
@click.option("--store", metavar="PATH", help="The file; by default the agent's.")
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
def backtest_(
    since: float,
    names: tuple[str, ...],
    config_path: str | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Say what the rules would have done on the stored past, and who would be told.

    Nothing is changed, and the agent may run meanwhile.
    """
    config = configuration.load(configuration.find(config_path))
    settings = _chosen(config.alerts, names)
    path = Path(store) if store else config.store.file
    if path is None:
        raise click.UsageError("nothing is stored; say which file with --store")
    with reading(path) as stored:
        if not stored.last:
            raise click.ClickException(f"{path}: nothing is stored yet")
        past = Past(
            stored.registry,
            (Bucket(*found) for found in stored.buckets),
            stored.first,
            stored.last,
            stored.failures,
        )
        with _progress() as progress:
            report = backtest(
                settings,
                past,
                stored.last - since,
                least=config.notify.least,
                progress=progress,
            )
    if as_json:
        click.echo(json.dumps(backtests.as_json(report), indent=2))
    else:
        backtests.show(report)


# -- inside --------------------------------------------------------------------------


def _rules_of(
    path: Path, values: Mapping[str, Any]
) -> tuple[Settings, Mapping[str, Severity]]:
    """Return the rules that a file's tests are about: its own, or another file's."""
    named = values.get("config")
    own = {name: values[name] for name in loading.TABLES if name in values}
    unknown = set(values) - set(loading.TABLES) - set(cases.TABLES)
    if unknown:
        known = ", ".join(sorted({*loading.TABLES, *cases.TABLES}))
        raise ConfigError("", f"{path}: {min(unknown)}: unknown key (known: {known})")
    if named is not None:
        if own:
            raise ConfigError("", f"{path}: config: either this, or [[rule]]")
        config: Config = configuration.load(path.parent / str(named))
        return config.alerts, config.notify.least
    receivers = values.get("receivers", ["receiver"])
    if not isinstance(receivers, list) or not all(
        isinstance(r, str) for r in receivers
    ):
        raise ConfigError("", f'{path}: receivers: expected a list such as ["ops"]')
    # Those that are there without configuration would be in the way.
    alerting = own.get("alerting", {})
    if isinstance(alerting, dict) and "thresholds" not in alerting:
        own["alerting"] = {**alerting, "thresholds": dict.fromkeys(loading.PAGE, False)}
    try:
        return loading.load(own, receivers=receivers), {}
    except ConfigError as error:
        raise ConfigError("", f"{path}: {error}", error.others) from None


def _chosen(settings: Settings, names: tuple[str, ...]) -> Settings:
    for name in names:
        if name not in settings.rules:
            near = difflib.get_close_matches(name, settings.rules, 1)
            hint = f"did you mean {near[0]}?" if near else "kaywatch rules check"
            raise click.UsageError(f"--rule {name}: no such rule; {hint}")
    if not names:
        return settings
    return dataclasses.replace(
        settings, rules={name: settings.rules[name] for name in names}
    )


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("", f"can't read {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("", f"{path}: no TOML: {error}") from None


@contextmanager
def _progress() -> Iterator[Callable[[float], None]]:
    """Show on a terminal how far it is, when it takes longer than a moment."""
    from rich.console import Console

    out = Console(stderr=True)
    started = shown = time.monotonic()

    def progress(share: float) -> None:
        nonlocal shown
        now = time.monotonic()
        if out.is_terminal and now - shown > 0.5:
            shown = now
            left = (now - started) * (1 - share) / max(share, 0.01)
            out.print(f"  {share:.0%}, {left:.0f} s left ", end="\r")

    yield progress
    if out.is_terminal:
        out.print(" " * 40, end="\r")


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _wrapped(text: str, indent: str) -> None:
    for line in textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent
    ):
        click.echo(line)

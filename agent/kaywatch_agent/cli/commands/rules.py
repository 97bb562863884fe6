"""`kaywatch rules`: checked, tested, and tried on the past."""

from __future__ import annotations

import dataclasses
import difflib
import json
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from kaywatch_agent import config as configuration
from kaywatch_agent.cli.commands import backtests, options, trials
from kaywatch_agent.cli.help import OrderedGroup, epilog
from kaywatch_agent.config import DEFAULT_PATH
from kaywatch_agent.rules.explain import rule_sentence
from kaywatch_agent.rules.rule import AlertSettings
from kaywatch_agent.simulation.backtest import backtest
from kaywatch_agent.simulation.trial import run
from kaywatch_agent.store.past import read_history

__all__ = ["rules"]

FAILED: Final = 1
WIDTH: Final = 80

_config = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    help=f"The configuration.  [default: {DEFAULT_PATH} if it exists]",
)


@click.group(cls=OrderedGroup)
def rules() -> None:
    """Check rules, test them, and try them on the past.

    None of these sends anything, or needs an agent. docs/alerts.md has the rules.
    """


@rules.command(
    epilog=epilog(
        "kaywatch rules check",
        "kaywatch rules check new.toml",
        exits="78 the configuration is wrong: each mistake is named with its key.",
    )
)
@click.argument("file", required=False)
def check(file: str | None) -> None:
    """Check rules, and say what each looks for.

    FILE is a configuration.
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
        _wrapped(rule_sentence(rule), "  ")


@rules.command(
    epilog=epilog(
        "kaywatch rules test checkout.test.toml",
        "kaywatch rules test checkout.test.toml --bodies",
        exits="1 a test fails; 78 FILE is wrong.",
    )
)
@click.argument("file")
@click.option("--bodies", is_flag=True, help="Print what receivers would have got.")
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
def test(file: str, bodies: bool, as_json: bool) -> None:
    """Test rules and messages on a virtual clock.

    FILE says what happens at which times, and which alerts and messages should come of
    it; docs/alerts.md has an example.
    """
    cases, config = trials.read(Path(file))
    verdicts = [run(case, config.alerts, config.notify.receivers) for case in cases]
    if as_json:
        click.echo(json.dumps(trials.as_json(verdicts), indent=2))
    else:
        trials.show(verdicts, bodies=bodies)
    if any(verdict.differences for verdict in verdicts):
        raise click.exceptions.Exit(FAILED)


@rules.command(
    "backtest",
    epilog=epilog(
        "kaywatch rules backtest --since 1d",
        "kaywatch rules backtest --config new.toml --rule checkout-fails --bodies 3",
        exits="1 nothing is stored; 78 the configuration is wrong.",
    ),
)
@click.option(
    "--since",
    type=options.Duration(),
    default="7d",
    show_default=True,
    metavar="DURATION",
    help="How far back, such as 12h or 7d.",
)
@click.option(
    "--rule", "names", multiple=True, metavar="NAME", help="Only this rule; repeatable."
)
@_config
@click.option("--store", metavar="PATH", help="Its file.  [default: the agent's]")
@click.option(
    "--bodies",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Print the last N messages as receivers would have got them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
def backtest_(
    since: float,
    names: tuple[str, ...],
    config_path: str | None,
    store: str | None,
    bodies: int,
    as_json: bool,
) -> None:
    """Say what rules would have done on what is stored.

    And which messages each receiver would have got. Nothing is changed, and the agent
    may run meanwhile.
    """
    config = configuration.load(configuration.find(config_path))
    settings = _chosen(config.alerts, names)
    path = Path(store) if store else config.store.file
    if path is None:
        raise click.UsageError("nothing is stored; say which file with --store")
    with read_history(path) as stored:
        if not stored.last:
            raise click.ClickException(f"{path}: nothing is stored yet")
        with _progress() as progress:
            report = backtest(
                settings,
                stored,
                stored.last - since,
                receivers=config.notify.receivers,
                progress=progress,
            )
    if as_json:
        click.echo(json.dumps(backtests.as_json(report), indent=2))
    else:
        backtests.show(report, bodies=bodies)


# -- inside --------------------------------------------------------------------------


def _chosen(settings: AlertSettings, names: tuple[str, ...]) -> AlertSettings:
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

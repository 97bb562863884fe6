"""`kaywatch rules`: check, test, backtest and export alert rules; without an agent."""

from __future__ import annotations

import dataclasses
import difflib
import time
from pathlib import Path
from typing import Final

import click

from kaywatch_agent import config as configuration
from kaywatch_agent.cli.commands import backtest_view, options, output, rule_tests
from kaywatch_agent.cli.help import OrderedGroup, epilog
from kaywatch_agent.config import Config
from kaywatch_agent.rules.explain import rule_sentence
from kaywatch_agent.rules.prometheus import convert
from kaywatch_agent.rules.promql import Histograms
from kaywatch_agent.rules.rule import AlertSettings, Rule
from kaywatch_agent.simulation.backtest import BacktestReport, backtest
from kaywatch_agent.simulation.run_test import run_test
from kaywatch_agent.store.past import read_history

__all__ = ["rules"]

FAILED: Final = 1


@click.group(cls=OrderedGroup)
def rules() -> None:
    """Check, test, backtest and export alert rules.

    These commands send nothing and need no agent. docs/alerts.md explains rules.
    """


@rules.command(
    epilog=epilog(
        "kaywatch rules check",
        "kaywatch rules check new.toml",
        exits="78 the configuration is invalid; every error names its key.",
    )
)
@click.argument("file", required=False)
def check(file: str | None) -> None:
    """Validate rules, and print what each one means.

    FILE is a configuration.  [default: the file that `kaywatch serve` reads]
    """
    path = configuration.find(file)
    config = configuration.load(path)
    settings = config.alerts
    parts = [
        output.plural(len(settings.rules) + len(settings.fleet_rules), "rule"),
        output.plural(len(config.notify.receivers), "receiver"),
    ]
    if settings.warnings:
        parts.append(output.plural(len(settings.warnings), "warning"))
    click.echo(f"{path or 'Built-in defaults (no file)'}:\n  {', '.join(parts)}")
    for warning in settings.warnings:
        output.print_wrapped(f"warning: {warning}")
    for rule in (*settings.rules.values(), *settings.fleet_rules.values()):
        origin = ", built in" if rule.built_in else ""
        click.echo(
            f"\n{rule.name}  ({rule.kind}, {rule.severity}{origin}; {_owner(rule)})"
        )
        output.print_wrapped(rule_sentence(rule))


@rules.command(
    epilog=epilog(
        "kaywatch rules test checkout.test.toml",
        "kaywatch rules test checkout.test.toml --bodies",
        exits="1 a test fails; 78 FILE is invalid.",
    )
)
@click.argument("file")
@click.option("--bodies", is_flag=True, help="Print the bodies of all messages.")
@options.json
def test(file: str, bodies: bool, as_json: bool) -> None:
    """Run tests of rules and messages on a virtual clock.

    FILE describes events at given times, and the expected alerts and messages;
    docs/alerts.md has an example.
    """
    cases, config = rule_tests.read_tests(Path(file))
    results = [run_test(case, config.alerts, config.notify.receivers) for case in cases]
    if as_json:
        output.print_json(rule_tests.results_json(results))
    else:
        rule_tests.show_results(results, bodies=bodies)
    if any(result.differences for result in results):
        raise click.exceptions.Exit(FAILED)


@rules.command(
    "backtest",
    epilog=epilog(
        "kaywatch rules backtest --since 1d",
        "kaywatch rules backtest --config new.toml --rule checkout-fails --bodies 3",
        exits="1 nothing is stored; 78 the configuration is invalid.",
    ),
)
@click.option(
    "--since",
    type=options.duration(),
    default="7d",
    show_default=True,
    metavar="DURATION",
    help="The length of the period, which ends with the history.",
)
@click.option(
    "--rule",
    "names",
    multiple=True,
    metavar="NAME",
    help="Include only this rule; repeatable.",
)
@options.config
@click.option(
    "--store", metavar="PATH", help="The agent's database.  [default: as configured]"
)
@click.option(
    "--bodies",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Print the bodies of the last N messages.",
)
@options.json
def backtest_(
    since: float,
    names: tuple[str, ...],
    config: str,
    store: str | None,
    bodies: int,
    as_json: bool,
) -> None:
    """Evaluate rules on stored history.

    Print when the rules would have fired, and which messages each receiver would have
    received. Nothing is changed or sent; the agent may be running.
    """
    loaded = configuration.load(configuration.find(config or None))
    # Names are checked before the history is read, which may take seconds.
    settings = _select_rules(loaded.alerts, names)
    path = Path(store) if store else loaded.store.file
    if path is None:
        raise click.UsageError("the agent stores nothing; pass a database with --store")
    report = _backtest(path, settings, loaded, since)
    if as_json:
        output.print_json(backtest_view.report_json(report))
    else:
        backtest_view.show_report(report, bodies=bodies)


@rules.command(
    epilog=epilog(
        "kaywatch rules export",
        "kaywatch rules export --where fleet kaywatch.toml",
        "kaywatch rules export --histograms classic --no-keep-firing-for",
        exits="78 the configuration is invalid.",
    )
)
@click.argument("file", required=False)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["prometheus"]),
    default="prometheus",
    show_default=True,
    help="The format of the output: Prometheus alert rules.",
)
@click.option(
    "--where",
    type=click.Choice(["all", "fleet", "host"]),
    default="all",
    show_default=True,
    help="Include only rules with this `where`.",
)
@click.option(
    "--histograms",
    type=click.Choice(["native", "classic"]),
    default="native",
    show_default=True,
    help="The histograms that the server stores.",
)
@click.option(
    "--keep-firing-for/--no-keep-firing-for",
    default=True,
    show_default=True,
    help="Write `keep_firing_for`, which needs Prometheus 2.42 or later.",
)
def export(
    file: str | None,
    format_: str,  # noqa: ARG001
    where: str,
    histograms: Histograms,
    keep_firing_for: bool,
) -> None:
    """Convert rules to Prometheus alert rules.

    FILE is a configuration.  [default: the file that `kaywatch serve` reads]

    Rules that Prometheus cannot express are listed with the reason, on stderr and in
    comments. docs/fleet.md describes the differences.
    """
    settings = configuration.load(configuration.find(file)).alerts
    both = (*settings.rules.values(), *settings.fleet_rules.values())
    result = convert(
        settings,
        [rule for rule in both if where in ("all", rule.where)],
        histograms=histograms,
        keep_firing_for=keep_firing_for,
    )
    click.echo(result.text, nl=False)
    for name, note in result.notes.items():
        click.echo(f"{name}: {note}", err=True)
    for name, reason in result.omitted.items():
        click.echo(f"{name}: not exported: {reason}", err=True)


# -- inside --------------------------------------------------------------------------


def _owner(rule: Rule) -> str:
    if rule.where == "fleet":
        return "exported, evaluated by Prometheus"
    return f"notifies {', '.join(rule.notify) or 'no receiver'}"


def _select_rules(settings: AlertSettings, names: tuple[str, ...]) -> AlertSettings:
    # A misspelt rule would otherwise be reported as one that never fires.
    known = {**settings.rules, **settings.fleet_rules}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else "see `kaywatch rules check`"
            raise click.UsageError(f'--rule: unknown rule "{name}"; {hint}')
    if not names:
        return settings
    chosen = {name: known[name] for name in names}
    return dataclasses.replace(settings, rules=chosen)


def _backtest(
    path: Path, settings: AlertSettings, config: Config, since: float
) -> BacktestReport:
    started = time.monotonic()

    def show(share: float) -> None:
        remaining = (time.monotonic() - started) * (1 - share) / max(share, 0.01)
        line.show(lambda: f"  {100 * share:.0f} %, {remaining:.0f} s left")

    with read_history(path) as history, output.ProgressLine() as line:
        if not history.last:
            raise click.ClickException(
                f"{path}: no history is stored yet; run an agent with this store first"
            )
        # The period ends with the history and not now, because the history may be a
        # copy of last week's.
        start = history.last - since
        receivers = config.notify.receivers
        return backtest(settings, history, start, receivers=receivers, progress=show)

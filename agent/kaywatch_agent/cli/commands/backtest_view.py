"""Shows a backtest: rules, receivers, episodes and messages."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import click

from kaywatch_agent.cli.commands import output
from kaywatch_agent.model.alerts import NotificationKind
from kaywatch_agent.notify import formatting
from kaywatch_agent.rules.describe import unit_of
from kaywatch_agent.simulation.backtest import (
    STAND_IN,
    BacktestReport,
    Episode,
    find_episodes,
)
from kaywatch_agent.simulation.differences import headline
from kaywatch_agent.simulation.simulation import SimulatedMessage, Simulation
from kaywatch_agent.units import duration, quantity

__all__ = ["report_json", "show_report"]

MAX_EPISODES: Final = 30

# Buckets of up to this length are as exact as the live agent's.
EXACT_SECONDS: Final = 10

_KINDS: Final = {
    "firing": NotificationKind.FIRING,
    "repeats": NotificationKind.REPEAT,
    "resolved": NotificationKind.RESOLVED,
}


def show_report(report: BacktestReport, *, bodies: int) -> None:
    """Show a report, and the bodies of the last messages."""
    episodes = find_episodes(report.simulation)
    click.echo(
        f"{_format_date(report.start)} to {_format_date(report.end)} UTC,"
        f" {duration(report.end - report.start)} in"
        f" {output.plural(report.evaluations, 'evaluation')}"
    )
    for line in _describe_resolutions(report):
        output.print_wrapped(line)
    _show_rules(report, episodes)
    _show_receivers(report.simulation)
    _show_notes(report)
    if episodes:
        _show_episodes(report, episodes)
    messages = list(report.simulation.delivery.messages)
    # A slice `[-bodies:]` would be all messages for 0.
    for message in messages[len(messages) - min(bodies, len(messages)) :]:
        click.echo(f"\n{_format_date(message.time)} {headline(message)}")
        output.print_message_body(report.simulation.delivery.render(message))


def report_json(report: BacktestReport) -> dict[str, Any]:
    """Return a report as JSON."""
    simulation, delivery = report.simulation, report.simulation.delivery
    notified = sorted(delivery.by_rule.items())
    return {
        "start": report.start,
        "end": report.end,
        "evaluations": report.evaluations,
        "resolutions": [{"from": at, "seconds": s} for at, s in report.resolutions],
        "unseen": dict(report.skipped),
        "episodes": [episode._asdict() for episode in find_episodes(simulation)],
        "receivers": [
            {
                "receiver": name,
                "messages": {str(k): delivery.sent[name, k] for k in _KINDS.values()},
                "alerts": alerts,
            }
            for name, alerts in sorted(delivery.alerts.items())
        ],
        "notified": [
            {"receiver": receiver, "rule": rule, "kind": str(kind), "messages": count}
            for (receiver, rule, kind), count in notified
        ],
        "messages": [_message_json(simulation, one) for one in delivery.messages],
        "suppressed": dict(simulation.suppressed),
        "refused": dict(simulation.refused),
    }


# -- inside --------------------------------------------------------------------------


def _message_json(simulation: Simulation, message: SimulatedMessage) -> dict[str, Any]:
    return {
        "time": message.time,
        "receiver": message.notification.receiver,
        "kind": str(message.notification.kind),
        "alerts": message.size,
        "title": formatting.title(message.notification),
        "body": simulation.delivery.render(message),
    }


def _show_rules(report: BacktestReport, episodes: list[Episode]) -> None:
    by_rule: dict[str, list[Episode]] = {name: [] for name in report.settings.rules}
    for episode in episodes:
        by_rule[episode.rule].append(episode)

    def seconds(rule: str) -> str:
        # An alert that still fires counts up to the end of the history.
        ends = [(e.end or report.end) - e.start for e in by_rule[rule]]
        return duration(sum(ends)) if ends else "-"

    def messages(rule: str) -> str:
        counts = report.simulation.delivery.by_rule.items()
        count = sum(count for (_, name, _), count in counts if name == rule)
        return f"{count:,}" if count else "-"

    columns: dict[str, output.Column] = {
        "rule": str,
        "fired": lambda rule: f"{len(by_rule[rule]):,}",
        "alerts": lambda rule: f"{len({e.alert for e in by_rule[rule]}):,}",
        "firing for": seconds,
        "messages": messages,
    }
    click.echo()
    output.print_table(columns, by_rule, shortened=("rule",))


def _show_receivers(simulation: Simulation) -> None:
    """Show how many messages each receiver gets, after cooldown and grouping."""
    if not simulation.delivery.alerts:
        return

    def count(kind: NotificationKind) -> output.Column:
        return lambda name: f"{simulation.delivery.sent[name, kind]:,}"

    columns: dict[str, output.Column] = {
        "receiver": str,
        "messages": lambda name: (
            f"{sum(simulation.delivery.sent[name, kind] for kind in _KINDS.values()):,}"
        ),
        **{title: count(kind) for title, kind in _KINDS.items()},
        "alerts in them": lambda name: f"{simulation.delivery.alerts[name]:,}",
    }
    click.echo()
    output.print_table(
        columns, sorted(simulation.delivery.alerts), shortened=("receiver",)
    )
    if STAND_IN in simulation.delivery.alerts:
        click.echo("No receiver is configured: these messages are what one would get.")


def _show_notes(report: BacktestReport) -> None:
    simulation = report.simulation
    counts = sorted(simulation.suppressed.items())
    suppressed = ", ".join(f"{reason} {count:,}" for reason, count in counts if count)
    if suppressed:
        click.echo(f"Suppressed notifications: {suppressed}")
    for name, reason in report.skipped.items():
        output.print_wrapped(f"{name} cannot be evaluated: {reason}", "")
    for name, count in simulation.refused.items():
        click.echo(f"{name}: {output.plural(count, 'alert')} over the limit, dropped")


def _show_episodes(report: BacktestReport, episodes: list[Episode]) -> None:
    rules = report.settings.rules
    columns: dict[str, output.Column] = {
        "fired": lambda e: _format_date(e.start),
        "for": lambda e: duration((e.end or report.end) - e.start),
        "rule": lambda e: e.rule,
        "where": lambda e: output.format_labels(e.labels),
        "value": lambda e: quantity(e.value, unit_of(rules.get(e.rule))),
        "ended": lambda e: e.reason or "still firing",
    }
    click.secho("\nEpisodes (UTC)", bold=True)
    words = ("rule", "where", "ended")
    shown = episodes[-MAX_EPISODES:]
    output.print_table(columns, shown, words=words, shortened=("rule", "where"))
    if len(episodes) > MAX_EPISODES:
        click.echo(f"  and {len(episodes) - MAX_EPISODES:,} earlier ones: see --json")


def _describe_resolutions(report: BacktestReport) -> Iterator[str]:
    """Yield where the stored history is too coarse for short windows."""
    longest: dict[float, float] = {}
    for start, length in report.resolutions:
        # Older buckets are longer, so each length is named once, where it begins.
        longest.setdefault(length, start)
    for length, start in longest.items():
        if length > EXACT_SECONDS:
            yield (
                f"from {_format_date(start)}, buckets of {duration(length)}:"
                " shorter windows are as long as a bucket"
            )


def _format_date(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"

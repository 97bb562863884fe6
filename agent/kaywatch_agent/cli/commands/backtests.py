"""What a backtest shows: rules, receivers, episodes, and messages as they would be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import click

from kaywatch_agent.cli.commands import output
from kaywatch_agent.cli.tables import console, plain_table
from kaywatch_agent.model.alerts import NotificationKind
from kaywatch_agent.notify import formatting
from kaywatch_agent.rules.describe import unit_of
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.simulation.backtest import STAND_IN, BacktestReport
from kaywatch_agent.simulation.differences import headline
from kaywatch_agent.simulation.rehearsal import SimulatedMessage, Simulation
from kaywatch_agent.units import duration, quantity

__all__ = ["as_json", "show"]

MAX_EPISODES: Final = 30

IN_EPISODE: Final = (AlertState.FIRING, AlertState.RECOVERING)
KINDS: Final = (
    NotificationKind.FIRING,
    NotificationKind.REPEAT,
    NotificationKind.RESOLVED,
)


class Episode(NamedTuple):
    """One stretch in which an alert fired."""

    rule: str
    alert: str
    labels: dict[str, str]
    start: float
    end: float | None
    value: float | None
    reason: str


def episodes(rehearsal: Simulation) -> list[Episode]:
    """Return the episodes, by when they began."""
    found: list[Episode] = []
    open_: dict[str, int] = {}
    for time, alert, before, after, reason, value in rehearsal.changes:
        was, is_ = before in IN_EPISODE, after in IN_EPISODE
        if is_ and not was:
            open_[alert.id] = len(found)
            labels = dict(alert.labels)
            found.append(Episode(alert.rule, alert.id, labels, time, None, value, ""))
        elif was and not is_ and alert.id in open_:
            at = open_.pop(alert.id)
            found[at] = found[at]._replace(end=time, reason=reason)
    return found


def show(report: BacktestReport, *, bodies: int) -> None:
    """Show a report to a person, and so many messages as they would have been."""
    out = console()
    found = episodes(report.rehearsal)
    out.print(
        f"{_moment(report.start)} to {_moment(report.end)} UTC,"
        f" {duration(report.end - report.start)} in {report.evaluations:,} evaluations"
    )
    for line in _lengths(report):
        out.print(f"  {line}")
    out.print()
    _show_rules(report, found)
    _show_receivers(report.rehearsal)
    _show_notes(report)
    if found:
        _show_episodes(report, found)
    messages = list(report.rehearsal.messages)
    for message in messages[len(messages) - min(bodies, len(messages)) :]:
        out.print()
        click.echo(f"{_moment(message.time)} {headline(message)}")
        output.print_message_body(report.rehearsal.render(message))


def as_json(report: BacktestReport) -> dict[str, Any]:
    """Return a report for programs."""
    rehearsal = report.rehearsal
    return {
        "start": report.start,
        "end": report.end,
        "evaluations": report.evaluations,
        "resolutions": [
            {"from": start, "seconds": length} for start, length in report.lengths
        ],
        "unseen": dict(report.unseen),
        "episodes": [one._asdict() for one in episodes(rehearsal)],
        "receivers": [
            {
                "receiver": name,
                "messages": {str(kind): rehearsal.sent[name, kind] for kind in KINDS},
                "alerts": alerts,
            }
            for name, alerts in sorted(rehearsal.alerts.items())
        ],
        "told": [
            {"receiver": receiver, "rule": rule, "kind": str(kind), "messages": count}
            for (receiver, rule, kind), count in sorted(rehearsal.told.items())
        ],
        "messages": [_as_json(rehearsal, message) for message in rehearsal.messages],
        "held_back": dict(rehearsal.suppressed),
        "refused": dict(rehearsal.refused),
    }


# -- inside --------------------------------------------------------------------------


def _show_rules(report: BacktestReport, found: list[Episode]) -> None:
    out = console()
    columns = ("rule", "fired", "alerts", "firing for", "messages")
    table = plain_table(*columns, ratios={"rule": 1})
    for rule in report.settings.rules:
        mine = [one for one in found if one.rule == rule]
        seconds = sum(
            (report.end if one.end is None else one.end) - one.start for one in mine
        )
        messages = sum(
            count
            for (_, name, _), count in report.rehearsal.told.items()
            if name == rule
        )
        table.add_row(
            rule,
            f"{len(mine):,}",
            f"{len({one.alert for one in mine}):,}",
            duration(seconds) if mine else "-",
            f"{messages:,}" if messages else "-",
        )
    out.print(table)


def _show_receivers(rehearsal: Simulation) -> None:
    """Show how many messages each receiver gets, after cooldown and grouping."""
    out = console()
    if rehearsal.alerts:
        out.print()
        kinds = ("firing", "repeats", "resolved")
        columns = ("receiver", "messages", *kinds, "alerts in them")
        table = plain_table(*columns, ratios={"receiver": 1})
        for name, alerts in sorted(rehearsal.alerts.items()):
            counts = [rehearsal.sent[name, kind] for kind in KINDS]
            table.add_row(name, *(f"{n:,}" for n in (sum(counts), *counts, alerts)))
        out.print(table)
    if STAND_IN in rehearsal.alerts:
        out.print("No receiver is told: these are the messages that one would get.")


def _show_notes(report: BacktestReport) -> None:
    out, rehearsal = console(), report.rehearsal
    held = {reason: n for reason, n in rehearsal.suppressed.items() if n}
    if held:
        parts = [f"{reason} {count}" for reason, count in sorted(held.items())]
        out.print(f"Suppression back: {', '.join(parts)}")
    for name, why in report.unseen.items():
        out.print(f"{name} can't be looked at: {why}")
    refused: Counter[str] = rehearsal.refused
    for name, count in refused.items():
        out.print(f"{name}: {count} alerts were too many at once")


def _show_episodes(report: BacktestReport, found: list[Episode]) -> None:
    out = console()
    out.print()
    out.print("Episodes (UTC)", style="bold")
    table = plain_table(
        *("fired", "for", "rule", "where", "value", "ended"),
        words=("rule", "where", "ended"),
        ratios={"where": 1},
    )
    for one in found[-MAX_EPISODES:]:
        end = report.end if one.end is None else one.end
        unit = unit_of(report.settings.rules.get(one.rule))
        table.add_row(
            _moment(one.start),
            duration(end - one.start),
            one.rule,
            output.label_path(one.labels),
            quantity(one.value, unit),
            one.reason or "goes on",
        )
    out.print(table)
    if len(found) > MAX_EPISODES:
        out.print(f"  and {len(found) - MAX_EPISODES} before: --json has all")


def _as_json(rehearsal: Simulation, message: SimulatedMessage) -> dict[str, Any]:
    notification = message.notification
    return {
        "time": message.time,
        "receiver": notification.receiver,
        "kind": str(notification.kind),
        "alerts": message.size,
        "title": formatting.title(notification),
        "body": rehearsal.render(message),
    }


def _lengths(report: BacktestReport) -> Iterable[str]:
    """Say how exact the past is."""
    longest: dict[float, float] = {}
    for start, length in report.lengths:
        longest.setdefault(length, start)
    for length, start in longest.items():
        if length > 10:
            text = duration(length)
            yield (
                f"from {_moment(start)} by {text}: shorter windows are as long as that"
            )


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"

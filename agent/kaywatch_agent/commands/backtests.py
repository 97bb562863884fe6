"""What a backtest shows: by rule, and the episodes that there would have been."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from kaywatch_agent import durations
from kaywatch_agent.commands.words import where
from kaywatch_agent.notification import NoticeKind
from kaywatch_agent.quantities import quantity, span
from kaywatch_agent.rules.backtest import STAND_IN, Report
from kaywatch_agent.rules.describe import unit_of
from kaywatch_agent.rules.rehearsal import Rehearsal
from kaywatch_agent.rules.state import State
from kaywatch_agent.screens import console, plain_table

__all__ = ["as_json", "show"]

MAX_EPISODES: Final = 30

BURNING: Final = (State.FIRING, State.RECOVERING)


class Episode(NamedTuple):
    """One stretch in which an alert fired."""

    rule: str
    alert: str
    labels: dict[str, str]
    start: float
    end: float | None
    value: float | None
    reason: str


def episodes(rehearsal: Rehearsal) -> list[Episode]:
    """Return the episodes, by when they began."""
    found: list[Episode] = []
    open_: dict[str, int] = {}
    for passage in rehearsal.passages:
        was, is_ = passage.before in BURNING, passage.after in BURNING
        if is_ and not was:
            open_[passage.alert] = len(found)
            found.append(
                Episode(
                    passage.rule,
                    passage.alert,
                    dict(passage.labels),
                    passage.time,
                    None,
                    passage.value,
                    "",
                )
            )
        elif was and not is_ and passage.alert in open_:
            at = open_.pop(passage.alert)
            found[at] = found[at]._replace(end=passage.time, reason=passage.reason)
    return found


def show(report: Report) -> None:
    """Show a report to a person."""
    out = console()
    found = episodes(report.rehearsal)
    out.print(
        f"{_moment(report.start)} to {_moment(report.end)} UTC,"
        f" {span(report.end - report.start)} in {report.evaluations:,} evaluations"
    )
    for line in _lengths(report):
        out.print(f"  {line}")
    out.print()
    _show_rules(report, found)
    _show_notes(report)
    if found:
        out.print()
        out.print("Episodes (UTC)", style="bold")
        table = plain_table("fired", "for", "rule", "where", "value", "ended")
        for number in (2, 3, 5):
            table.columns[number].justify = "left"
        table.columns[3].ratio = 1
        for one in found[-MAX_EPISODES:]:
            end = report.end if one.end is None else one.end
            unit = unit_of(report.settings.rules.get(one.rule))
            table.add_row(
                _moment(one.start),
                span(end - one.start),
                one.rule,
                where(one.labels),
                quantity(one.value, unit),
                one.reason or "goes on",
            )
        out.print(table)
        if len(found) > MAX_EPISODES:
            out.print(f"  and {len(found) - MAX_EPISODES} before: --json has all")


def as_json(report: Report) -> dict[str, Any]:
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
        "told": [
            {"receiver": receiver, "rule": rule, "kind": str(kind), "count": count}
            for (receiver, rule, kind), count in sorted(rehearsal.told.items())
        ],
        "held_back": dict(rehearsal.suppressed),
        "refused": dict(rehearsal.refused),
    }


# -- inside --------------------------------------------------------------------------


def _show_rules(report: Report, found: list[Episode]) -> None:
    out, told = console(), report.rehearsal.told
    receivers = sorted({receiver for receiver, _, _ in told})
    named = [name for name in receivers if name != STAND_IN]
    columns = [f"told {name}" for name in named] if named else ["messages"]
    table = plain_table("rule", "fired", "alerts", "firing for", *columns)
    table.columns[0].ratio = 1
    for rule in report.settings.rules:
        mine = [one for one in found if one.rule == rule]
        seconds = sum(
            (report.end if one.end is None else one.end) - one.start for one in mine
        )
        alerts = {one.alert for one in mine}
        counts = [_told(report.rehearsal, rule, name) for name in named or [STAND_IN]]
        table.add_row(
            rule,
            f"{len(mine):,}",
            f"{len(alerts):,}",
            span(seconds) if mine else "-",
            *counts,
        )
    out.print(table)
    if not named:
        out.print(
            "No receiver is configured: messages are those that one would have had."
        )


def _told(rehearsal: Rehearsal, rule: str, receiver: str) -> str:
    """Return how often a receiver was told, and of what."""
    kinds = {
        kind: rehearsal.told[receiver, rule, kind]
        for kind in (NoticeKind.FIRING, NoticeKind.REPEAT, NoticeKind.RESOLVED)
    }
    total = sum(kinds.values())
    if not total:
        return "-"
    firing, repeat, resolved = kinds.values()
    again = f"+{repeat}" if repeat else ""
    return f"{total} ({firing}{again}/{resolved})"


def _show_notes(report: Report) -> None:
    out, rehearsal = console(), report.rehearsal
    if rehearsal.told:
        out.print("Messages are before grouping: in all (firing+repeated/resolved).")
    held = {reason: n for reason, n in rehearsal.suppressed.items() if n}
    if held:
        parts = [f"{reason} {count}" for reason, count in sorted(held.items())]
        out.print(f"Held back: {', '.join(parts)}")
    for name, why in report.unseen.items():
        out.print(f"{name} can't be looked at: {why}")
    refused: Counter[str] = rehearsal.refused
    for name, count in refused.items():
        out.print(f"{name}: {count} alerts were too many at once")


def _lengths(report: Report) -> Iterable[str]:
    """Say how exact the past is."""
    longest: dict[float, float] = {}
    for start, length in report.lengths:
        longest.setdefault(length, start)
    for length, start in longest.items():
        if length > 10:
            text = durations.text(length)
            yield (
                f"from {_moment(start)} by {text}: shorter windows are as long as that"
            )


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"

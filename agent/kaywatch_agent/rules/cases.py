"""Tests of rules, as `kaywatch rules test FILE` runs them: see docs/alerts.md.

A test says what happens at which times, which alerts there should be, and who should
be told what. Time is virtual; the engine is the one that works live.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

from kaywatch.wire import Outcome
from kaywatch_agent import durations
from kaywatch_agent.model import ErrorKey, InFlight, Kind, Presence, SeriesKey
from kaywatch_agent.notification import NoticeKind, Severity
from kaywatch_agent.quantities import quantity
from kaywatch_agent.rules.describe import unit_of
from kaywatch_agent.rules.lab import Lab
from kaywatch_agent.rules.matchers import parse as matcher
from kaywatch_agent.rules.rehearsal import Message, Rehearsal
from kaywatch_agent.rules.rule import Settings
from kaywatch_agent.rules.scene import Process
from kaywatch_agent.rules.silence import Silence
from kaywatch_agent.rules.state import State
from kaywatch_agent.rules.table import Table

__all__ = ["TABLES", "Case", "Verdict", "load", "run"]

# The tables of a test's file that are ours; all others are of rules.
TABLES: Final = ("test", "config", "receivers")

# A Tuesday, at midnight.
START: Final = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)

# The agent has been looking for so long when a test begins.
BEFORE: Final = 4 * 3600.0

MAX_LENGTH: Final = 7 * 86_400.0

StateName = Literal["pending", "firing", "recovering"]


class Happening(NamedTuple):
    """Something that happens at times, in seconds from the start."""

    times: tuple[float, ...]
    do: Callable[[Lab, float, int], None]


class Wanted(NamedTuple):
    """Which alerts of a rule there should be at a time, by state."""

    path: str
    at: float
    rule: str
    labels: Mapping[str, tuple[Mapping[str, str], ...]]


class Told(NamedTuple):
    """A message that there should be."""

    at: float
    receiver: str
    kind: str
    rule: str
    labels: Mapping[str, str]
    summary: str


@dataclass(frozen=True)
class Case:
    """One test.

    Attributes:
        name: what it is called.
        start: Unix seconds.
        length: for how long it goes on, in seconds.
        interval: seconds between two evaluations.
        happenings: what happens.
        silences: what is silenced.
        alerts: which alerts there should be.
        messages: all messages there should be; None where nobody looks.
    """

    name: str
    start: float
    length: float
    interval: float
    happenings: tuple[Happening, ...]
    silences: tuple[Silence, ...]
    alerts: tuple[Wanted, ...]
    messages: tuple[Told, ...] | None


class Verdict(NamedTuple):
    """What came of a test; without differences it passed."""

    case: Case
    differences: list[str]
    rehearsal: Rehearsal


def load(values: Mapping[str, Any], settings: Settings) -> list[Case]:
    """Return the tests of a file.

    Args:
        values: the file's `test` tables and the rest.
        settings: the rules that they are about.

    Raises:
        ConfigError: naming the key, what it holds and what is allowed.
    """
    top = Table({"test": values.get("test", [])}, "")
    found = top.tables("test")
    if not found:
        raise top.error("test", "missing: write [[test]], see docs/alerts.md")
    return [_case(table, settings) for table in found]


def run(case: Case, settings: Settings, least: Mapping[str, Severity]) -> Verdict:
    """Run a test."""
    lab = Lab(case.start - BEFORE)
    rehearsal = Rehearsal(settings, least, host="test")
    rehearsal.engine.silences = {silence.id: silence for silence in case.silences}
    events = sorted(
        (
            (time, number, happening.do)
            for happening in case.happenings
            for number, time in enumerate(happening.times)
        ),
        key=lambda event: event[0],
    )
    wanted = sorted(case.alerts, key=lambda want: want.at)
    differences: list[str] = []
    at = number = 0
    for count in range(int(case.length // case.interval) + 1):
        now = count * case.interval
        while at < len(events) and events[at][0] <= now:
            time, nth, do = events[at]
            do(lab, case.start + time, nth)
            at += 1
        rehearsal.look(lab.scene(case.start + now), case.interval if count else 0.0)
        while number < len(wanted) and wanted[number].at < now + case.interval:
            differences += _compare_alerts(wanted[number], rehearsal, settings)
            number += 1
    if case.messages is not None:
        differences += _compare_messages(case, case.messages, rehearsal.messages)
    return Verdict(case, differences, rehearsal)


# -- what there should be ------------------------------------------------------------


def _compare_alerts(
    want: Wanted, rehearsal: Rehearsal, settings: Settings
) -> Iterator[str]:
    unit = unit_of(settings.rules.get(want.rule))
    there = {
        (str(i.life.state), _text(i.labels)): quantity(i.value, unit)
        for i in rehearsal.engine.instances
        if i.rule == want.rule and i.life.state is not State.OK
    }
    expected = {
        (state, _text(labels))
        for state, found in want.labels.items()
        for labels in found
    }
    lines = [f"    - {s:<10} {text}" for s, text in sorted(expected - there.keys())]
    lines += [
        f"    + {s:<10} {text}, value {there[s, text]}"
        for s, text in sorted(there.keys() - expected)
    ]
    if lines:
        yield f"  at {durations.text(want.at)}, alerts of {want.rule}:"
        yield from lines


def _compare_messages(
    case: Case, wanted: Iterable[Told], messages: Iterable[Message]
) -> Iterator[str]:
    left = list(messages)
    missing: list[tuple[float, str]] = []
    for want in wanted:
        found = next((m for m in left if _is(m, want, case)), None)
        if found is None:
            labels = _text(want.labels) if want.labels else ""
            text = f"{want.receiver} {want.kind} {want.rule} {labels}".rstrip()
            if want.summary:
                text += f"\n{' ' * 17}{want.summary}"
            missing.append((want.at, f"    - {durations.text(want.at):>6} {text}"))
        else:
            left.remove(found)
    for message in left:
        at, alert = message.time - case.start, message.alert
        text = f"{message.receiver} {message.kind} {alert.rule} {_text(alert.labels)}"
        line = f"    + {durations.text(at):>6} {text}\n{' ' * 17}{alert.summary}"
        missing.append((at, line))
    if missing:
        yield "  messages:"
        yield from (line for _, line in sorted(missing, key=lambda pair: pair[0]))


def _is(message: Message, want: Told, case: Case) -> bool:
    alert, labels = message.alert, message.alert.labels
    return (
        abs(message.time - case.start - want.at) < case.interval
        and message.receiver == want.receiver
        and str(message.kind) == want.kind
        and alert.rule == want.rule
        and all(labels.get(name) == value for name, value in want.labels.items())
        and want.summary in ("", alert.summary)
    )


def _text(labels: Mapping[str, str]) -> str:
    parts = [f"{name}={value}" for name, value in labels.items() if value]
    return " ".join(parts) or "(no labels)"


# -- from the file -------------------------------------------------------------------


def _case(table: Table, settings: Settings) -> Case:
    name = table.text("name")
    if not name:
        raise table.error("name", "missing: what the test shows")
    start = table.either("start", START)
    if not isinstance(start, dt.datetime) or start.tzinfo is None:
        raise table.error("start", "expected a time such as 2026-12-01T00:00:00Z")
    interval = table.length("interval", "10s")
    if interval < 1:
        raise table.error("interval", 'at least "1s"')
    alerts = [_wanted(part, settings) for part in table.tables("alerts")]
    told = [_told(part, settings) for part in table.tables("message")]
    quiet = table.flag("no_messages")
    if quiet and told:
        raise table.error("no_messages", "either this, or [[test.message]]")
    last = max([0.0, *(a.at for a in alerts), *(m.at for m in told)])
    length = table.length("length", "0") or last + interval
    if not last <= length <= MAX_LENGTH:
        raise table.error(
            "length", "up to 7d, and not before the last thing that is expected"
        )
    happenings = [
        read(part, length)
        for key, read in _HAPPENINGS.items()
        for part in table.tables(key)
    ]
    silences = [
        _silence(part, start, number)
        for number, part in enumerate(table.tables("silence"))
    ]
    table.done()
    messages = tuple(told) if told or quiet else None
    return Case(
        name,
        start.timestamp(),
        length,
        interval,
        tuple(happenings),
        tuple(silences),
        tuple(alerts),
        messages,
    )


def _times(table: Table, length: float) -> tuple[float, ...]:
    start = table.length("from", "0")
    end = table.length("to") if "to" in table else length
    every = table.length("every", "10s")
    if every < 1:
        raise table.error("every", 'at least "1s"')
    if end < start:
        raise table.error("to", "is before from")
    count = int((end - start) // every) + 1
    # The end isn't part of it, but for what happens once.
    times = [start + n * every for n in range(count)]
    return tuple(time for time in times if time < end or end == start)


def _series(table: Table, kind: Kind) -> SeriesKey:
    return SeriesKey(
        kind,
        table.text("service", "app"),
        table.text("graph"),
        "" if kind is Kind.RUN else table.text("node"),
    )


def _executions(table: Table, length: float, kind: Kind = Kind.NODE) -> Happening:
    key, times = _series(table, kind), _times(table, length)
    if kind is Kind.NODE and not key.node:
        raise table.error("node", "missing")
    count = table.whole("count", 1)
    others = {
        outcome: table.whole(word)
        for word, outcome in (
            ("errors", Outcome.ERROR),
            ("suppressed", Outcome.SUPPRESSED),
            ("fallbacks", Outcome.FALLBACK),
            ("cancelled", Outcome.CANCELLED),
        )
    }
    rest = count - sum(others.values())
    if rest < 0:
        raise table.error("count", f"{count}: fewer than those that fail")
    outcomes = {Outcome.OK: rest, **others}
    seconds = table.number("seconds", 0.1)
    attempts = (
        table.whole("visits", 1, 1) if kind is Kind.RUN else table.whole("retries") + 1
    )
    action = "" if kind is Kind.RUN else table.text("action")
    error = ErrorKey(table.text("error", "Error"), table.text("phase", "exec"))
    table.done()

    def do(lab: Lab, time: float, _: int) -> None:
        lab.ran(
            key,
            time,
            outcomes,
            seconds=seconds,
            attempts=attempts,
            action=action,
            error=error,
        )

    return Happening(times, do)


def _runs(table: Table, length: float) -> Happening:
    return _executions(table, length, Kind.RUN)


def _metric(table: Table, length: float) -> Happening:
    name, times = table.text("name"), _times(table, length)
    if not name:
        raise table.error("name", "missing: the metric's, as the application calls it")
    kind = Kind[table.choice("kind", ("gauge", "count", "observe"), "gauge").upper()]
    labels = tuple(sorted(table.strings("labels").items()))
    key = _series(table, kind)._replace(metric=name, labels=labels)
    values = table.either("values", None)
    if values is None:
        values = [table.number("value")]
    if (
        not isinstance(values, list)
        or not values
        or any(not isinstance(v, int | float) or isinstance(v, bool) for v in values)
    ):
        raise table.error("values", "expected numbers, one after the other")
    table.done()

    def do(lab: Lab, time: float, number: int) -> None:
        # The last one goes on.
        lab.observed(key, time, [float(values[min(number, len(values) - 1)])])

    return Happening(times, do)


def _process(table: Table, _: float) -> Happening:
    pid, at = table.whole("pid", 1, 1), table.length("at", "0")
    service, host = table.text("service", "app"), table.text("host", "test")
    state = Presence(table.choice("state", tuple(map(str, Presence)), "connected"))
    memory = table.number("memory_mb") * 2.0**20 if "memory_mb" in table else None
    cpu = table.number("cpu_percent") if "cpu_percent" in table else None
    flights = [_flight(part) for part in table.tables("in_flight")]
    table.done()

    def do(lab: Lab, time: float, _: int) -> None:
        lab.processes[pid] = Process(
            str(pid),
            service,
            host,
            pid,
            state,
            time,
            None if memory is None else int(memory),
            cpu,
            tuple([flight._replace(start=time - flight.start) for flight in flights]),
        )

    return Happening((at,), do)


def _flight(table: Table) -> InFlight:
    found = InFlight(
        table.text("graph"),
        table.text("node"),
        table.length("age", "0"),
        table.text("run"),
        table.whole("visits"),
    )
    table.done()
    return found


def _silence(table: Table, start: dt.datetime, number: int) -> Silence:
    texts = table.texts("match")
    if not texts:
        raise table.error("match", "missing: matchers such as 'graph=\"batch\"'")
    found = Silence(
        id=f"silence-{number + 1}",
        matchers=tuple(table.checked("match", matcher, text) for text in texts),
        starts_at=start + dt.timedelta(seconds=table.length("from", "0")),
        ends_at=start + dt.timedelta(seconds=table.length("to", "7d")),
        comment=table.text("comment"),
    )
    table.done()
    return found


def _rule(table: Table, settings: Settings) -> str:
    name = table.text("rule")
    if name not in settings.rules:
        known = ", ".join(settings.rules) or "none"
        raise table.error("rule", f'"{name}" is no rule (there: {known})')
    return name


def _wanted(table: Table, settings: Settings) -> Wanted:
    at, rule = table.length("at", "0"), _rule(table, settings)
    labels: dict[str, tuple[Mapping[str, str], ...]] = {}
    for state in get_args(StateName):
        found = table.either(state, [])
        if not isinstance(found, list) or not all(isinstance(f, dict) for f in found):
            raise table.error(state, 'expected labels such as [{ node = "pay" }]')
        labels[state] = tuple(
            _whole({str(k): str(v) for k, v in one.items()}, rule, settings, table)
            for one in found
        )
    table.done()
    return Wanted(table.path, at, rule, labels)


def _whole(
    labels: dict[str, str], rule: str, settings: Settings, table: Table
) -> dict[str, str]:
    """Return labels in the rule's order."""
    per = settings.rules[rule].per
    if settings.rules[rule].kind == "transition_share":
        per = (*per, "action")
    for name in labels:
        if name not in per:
            names = ", ".join(per) or "none"
            raise table.error(name, f"the labels of {rule} are {names}")
    return {name: labels[name] for name in per if name in labels}


def _told(table: Table, settings: Settings) -> Told:
    kinds = [str(kind) for kind in NoticeKind if kind in _DECIDED]
    found = Told(
        table.length("at", "0"),
        table.text("to"),
        table.choice("kind", kinds, "firing"),
        _rule(table, settings),
        table.strings("labels"),
        table.text("summary"),
    )
    known = {name for rule in settings.rules.values() for name in rule.notify}
    if found.receiver not in known:
        names = ", ".join(sorted(known)) or 'none; write receivers = ["ops"]'
        raise table.error("to", f'"{found.receiver}": no rule tells it (told: {names})')
    table.done()
    return found


_DECIDED: Final = (NoticeKind.FIRING, NoticeKind.REPEAT, NoticeKind.RESOLVED)

_HAPPENINGS: Final[Mapping[str, Callable[[Table, float], Happening]]] = {
    "executions": _executions,
    "runs": _runs,
    "metric": _metric,
    "process": _process,
}

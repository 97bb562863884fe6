"""Reads the tests of a file, as `kaywatch rules test FILE` runs them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal, get_args

from kaywatch_agent.model.alerts import NotificationKind
from kaywatch_agent.notify.config import AlertmanagerConfig, ReceiverConfig
from kaywatch_agent.rules.matchers import parse as matcher
from kaywatch_agent.rules.rule import AlertSettings
from kaywatch_agent.rules.silence import Silence
from kaywatch_agent.settings.reader import Table
from kaywatch_agent.simulation.case import ExpectedAlerts, ExpectedMessage, TestCase
from kaywatch_agent.simulation.happenings import HAPPENINGS
from kaywatch_agent.simulation.rehearsal import Outage

__all__ = ["load"]

# A Tuesday, at midnight.
START: Final = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)

MAX_LENGTH: Final = 7 * 86_400.0

StateName = Literal["pending", "firing", "recovering"]

Receivers = Mapping[str, ReceiverConfig]


def load(
    values: Mapping[str, Any], settings: AlertSettings, receivers: Receivers
) -> list[TestCase]:
    """Return the tests of a file.

    Args:
        values: the file's `test` tables and the rest.
        settings: the rules that they are about.
        receivers: those that are told, by name.

    Raises:
        ConfigError: naming the key, what it holds and what is allowed.
    """
    top = Table({"test": values.get("test", [])}, "")
    found = top.tables("test")
    if not found:
        raise top.error("test", "missing: write [[test]], see docs/alerts.md")
    return [_case(table, settings, receivers) for table in found]


# -- inside --------------------------------------------------------------------------


def _case(table: Table, settings: AlertSettings, receivers: Receivers) -> TestCase:
    name = table.text("name")
    if not name:
        raise table.error("name", "missing: what the test shows")
    start = table.either("start", START)
    if not isinstance(start, dt.datetime) or start.tzinfo is None:
        raise table.error("start", "expected a time such as 2026-12-01T00:00:00Z")
    interval = table.duration("interval", "10s")
    if interval < 1:
        raise table.error("interval", 'at least "1s"')
    alerts = [_wanted(part, settings) for part in table.tables("alerts")]
    told = [_expected(part, receivers) for part in table.tables("message")]
    quiet = table.flag("no_messages")
    if quiet and told:
        raise table.error("no_messages", "either this, or [[test.message]]")
    last = max([0.0, *(a.at for a in alerts), *(m.at for m in told)])
    length = table.duration("length", "0") or last + interval
    if not last <= length <= MAX_LENGTH:
        raise table.error(
            "length", "up to 7d, and not before the last thing that is expected"
        )
    happenings = [
        read(part, length)
        for key, read in HAPPENINGS.items()
        for part in table.tables(key)
    ]
    silences = [
        _silence(part, start, number)
        for number, part in enumerate(table.tables("silence"))
    ]
    outages = [
        _outage(part, start.timestamp(), receivers) for part in table.tables("outage")
    ]
    table.done()
    messages = tuple(told) if told or quiet else None
    return TestCase(
        name,
        start.timestamp(),
        length,
        interval,
        tuple(happenings),
        tuple(silences),
        tuple(outages),
        tuple(alerts),
        messages,
    )


def _silence(table: Table, start: dt.datetime, number: int) -> Silence:
    texts = table.texts("match")
    if not texts:
        raise table.error("match", "missing: matchers such as 'graph=\"batch\"'")
    found = Silence(
        id=f"silence-{number + 1}",
        matchers=tuple(table.checked("match", matcher, text) for text in texts),
        starts_at=start + dt.timedelta(seconds=table.duration("from", "0")),
        ends_at=start + dt.timedelta(seconds=table.duration("to", "7d")),
        comment=table.text("comment"),
    )
    table.done()
    return found


def _rule(table: Table, settings: AlertSettings) -> str:
    name = table.text("rule")
    if name not in settings.rules:
        known = ", ".join(settings.rules) or "none"
        raise table.error("rule", f'"{name}" is no rule (there: {known})')
    return name


def _wanted(table: Table, settings: AlertSettings) -> ExpectedAlerts:
    at, rule = table.duration("at", "0"), _rule(table, settings)
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
    return ExpectedAlerts(table.path, at, rule, labels)


def _whole(
    labels: dict[str, str], rule: str, settings: AlertSettings, table: Table
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


def _expected(table: Table, receivers: Receivers) -> ExpectedMessage:
    kinds = [str(kind) for kind in NotificationKind if kind in _DECIDED]
    found = ExpectedMessage(
        table.duration("at", "0"),
        _receiver(table, "to", receivers),
        table.choice("kind", kinds, "firing"),
        table.whole("alerts", least=1) if "alerts" in table else None,
        table.texts("contains"),
        table.either("body", None),
    )
    if not isinstance(found.body, dict | list | None):
        raise table.error("body", 'expected a table such as { event_action = "x" }')
    table.done()
    return found


def _outage(table: Table, start: float, receivers: Receivers) -> Outage:
    name = _receiver(table, "receiver", receivers)
    if isinstance(receivers[name], AlertmanagerConfig):
        raise table.error("receiver", "an alertmanager is told everything again anyway")
    found = Outage(
        name, start + table.duration("from", "0"), start + table.duration("to", "7d")
    )
    table.done()
    return found


def _receiver(table: Table, key: str, receivers: Collection[str]) -> str:
    name = table.text(key)
    if name not in receivers:
        names = ", ".join(receivers) or "none; write [receiver.NAME]"
        raise table.error(key, f'"{name}" is no receiver (there: {names})')
    return name


_DECIDED: Final = (
    NotificationKind.FIRING,
    NotificationKind.REPEAT,
    NotificationKind.RESOLVED,
)

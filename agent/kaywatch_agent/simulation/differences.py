"""Reports how alerts and messages differ from what a test expects.

`-` is missing, `+` is unexpected, `~` differs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from kaywatch_agent.notify import formatting
from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.describe import unit_of
from kaywatch_agent.rules.engine import Engine
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.simulation.simulation import SimulatedDelivery, SimulatedMessage
from kaywatch_agent.simulation.test_file import (
    ExpectedAlerts,
    ExpectedMessage,
    TestCase,
)
from kaywatch_agent.units import duration, parse_duration, quantity

__all__ = ["compare_alerts", "compare_bodies", "compare_messages", "headline"]

# Of the lines below a message's first line.
INDENT: Final = " " * 13

MAX_SHOWN: Final = 200  # characters of a value


def compare_alerts(expected: ExpectedAlerts, engine: Engine) -> Iterator[str]:
    """Yield the differences between a rule's alerts and the expected ones.

    An expected alert may name some of the labels only.
    """
    unit = unit_of(engine.settings.rules.get(expected.rule))
    unmatched = [
        alert
        for alert in engine.alerts
        if alert.rule == expected.rule and alert.lifecycle.state is not AlertState.OK
    ]
    missing = []
    for state in ("pending", "firing", "recovering"):
        for labels in getattr(expected, state):
            similar = (a for a in unmatched if _has(a, state, labels))
            alert = next(similar, None)
            if alert is None:
                missing.append(f"  - {state:<10} {_label_text(labels)}")
            else:
                unmatched.remove(alert)
    if missing or unmatched:
        yield f"at {duration(parse_duration(expected.at))}, alerts of {expected.rule}:"
    yield from sorted(missing)
    for alert in sorted(unmatched, key=lambda a: _label_text(a.labels)):
        where, value = _label_text(alert.labels), quantity(alert.value, unit)
        yield f"  + {alert.lifecycle.state:<10} {where}, value {value}"


def _has(alert: Alert, state: str, labels: Mapping[str, str]) -> bool:
    return alert.lifecycle.state == state and labels.items() <= alert.labels.items()


def compare_messages(case: TestCase, delivery: SimulatedDelivery) -> list[str]:
    """Return the differences between the messages and the expected ones."""
    unmatched = [(message, delivery.render(message)) for message in delivery.messages]
    missing = []
    for expected in case.message:
        similar = [pair for pair in unmatched if _is_similar(pair[0], expected, case)]
        equal = [pair for pair in similar if not any(_details(expected, *pair))]
        if equal:
            unmatched.remove(equal[0])
        else:
            missing.append(expected)
    lines: list[tuple[float, str]] = []
    for expected in missing:
        similar = [pair for pair in unmatched if _is_similar(pair[0], expected, case)]
        at = parse_duration(expected.at)
        if not similar:
            lines.append((at, _line("-", at, _format_expected(expected))))
            continue
        # Most likely, the message with the fewest differences was meant.
        closest = min(similar, key=lambda pair: len(list(_details(expected, *pair))))
        unmatched.remove(closest)
        details = [f"{INDENT}{line}" for line in _details(expected, *closest)]
        lines.append((at, "\n".join([_format_sent("~", closest[0], case), *details])))
    for message, _ in unmatched:
        at = message.time - case.start.timestamp()
        lines.append((at, _format_sent("+", message, case)))
    lines.sort(key=lambda pair: pair[0])
    return ["messages:", *(text for _, text in lines)] if lines else []


def headline(message: SimulatedMessage) -> str:
    """Return a message's receiver, its kind, and its number of alerts."""
    notification = message.notification
    return f"{notification.receiver} {notification.kind}, {_count(message.size)}"


def compare_bodies(expected: Any, actual: Any, path: str) -> list[str]:
    """Return the differences between a body and the expected part of it.

    Of a table, only the expected keys are compared. Of a list, each expected item is
    compared with the item that differs least from it.
    """
    if isinstance(expected, dict) and isinstance(actual, dict):
        return [
            line
            for key, value in expected.items()
            for line in _within(value, actual, key, f"{path}.{key}")
        ]
    if isinstance(expected, list) and isinstance(actual, list):
        return [line for part in expected for line in _nearest(part, actual, path)]
    if _is_equal(expected, actual):
        return []
    return [f"{path}: {_format_value(actual)}, expected {_format_value(expected)}"]


# -- inside --------------------------------------------------------------------------


def _is_similar(
    message: SimulatedMessage, expected: ExpectedMessage, case: TestCase
) -> bool:
    """Return whether receiver and kind are equal, and the time within an interval."""
    notification = message.notification
    at = message.time - case.start.timestamp()
    return (
        abs(at - parse_duration(expected.at)) < parse_duration(case.interval)
        and notification.receiver == expected.to
        and str(notification.kind) == expected.kind
    )


def _details(
    expected: ExpectedMessage, message: SimulatedMessage, body: Any
) -> Iterator[str]:
    """Yield the differences between a message and an expected one."""
    if expected.alerts not in (None, message.size):
        yield f"{_count(expected.alerts or 0)} expected"
    texts = list(_texts(body))
    for part in expected.contains:
        if not any(part in text for text in texts):
            yield f"{_format_value(part)} is in none of its texts"
    if expected.body is not None:
        yield from compare_bodies(expected.body, body, "body")


def _texts(body: Any) -> Iterator[str]:
    match body:
        case str():
            yield body
        case dict():
            for value in body.values():
                yield from _texts(value)
        case list():
            for value in body:
                yield from _texts(value)


def _within(value: Any, actual: Mapping[str, Any], key: str, path: str) -> list[str]:
    if key not in actual:
        return [f"{path}: not there, expected {_format_value(value)}"]
    return compare_bodies(value, actual[key], path)


def _nearest(part: Any, actual: list[Any], path: str) -> list[str]:
    """Return how the most similar item of a list differs from an expected item."""
    differences = [
        compare_bodies(part, one, f"{path}[{n}]") for n, one in enumerate(actual)
    ]
    missing = [f"{path}: empty, expected {_format_value(part)} in it"]
    return min(differences, key=len, default=missing)


def _is_equal(expected: Any, actual: Any) -> bool:
    numbers = (int, float)
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    if isinstance(expected, numbers) and isinstance(actual, numbers):
        return math.isclose(expected, actual)
    return bool(expected == actual)


def _format_expected(expected: ExpectedMessage) -> str:
    text = f"{expected.to} {expected.kind}"
    if expected.alerts is not None:
        text += f", {_count(expected.alerts)}"
    return "\n".join(
        [text, *(f"{INDENT}{_format_value(t)}" for t in expected.contains)]
    )


def _format_sent(mark: str, message: SimulatedMessage, case: TestCase) -> str:
    line = _line(mark, message.time - case.start.timestamp(), headline(message))
    return f"{line}\n{INDENT}{formatting.title(message.notification)}"


def _line(mark: str, at: float, text: str) -> str:
    return f"  {mark} {duration(at):>8} {text}"


def _count(alerts: int) -> str:
    return f"{alerts} alert{'' if alerts == 1 else 's'}"


def _format_value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return formatting.truncate(text, MAX_SHOWN)


def _label_text(labels: Mapping[str, str]) -> str:
    parts = [f"{name}={value}" for name, value in sorted(labels.items()) if value]
    return " ".join(parts) or "(no labels)"

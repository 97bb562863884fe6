"""What is not as a test wants it, in lines that people read.

`-` is missing, `+` is too much, `~` is there and not as it should be.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from kaywatch_agent.notify import formatting
from kaywatch_agent.rules.describe import unit_of
from kaywatch_agent.rules.engine import Engine
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.simulation.case import ExpectedAlerts, ExpectedMessage, TestCase
from kaywatch_agent.simulation.rehearsal import SimulatedMessage, Simulation
from kaywatch_agent.units import duration, quantity

__all__ = ["headline", "of_alerts", "of_messages", "unlike"]

# Under a message's line, what is said of it.
INDENT: Final = " " * 13

MAX_SHOWN: Final = 200  # characters of a value


def of_alerts(want: ExpectedAlerts, engine: Engine) -> Iterator[str]:
    """Yield how a rule's alerts differ from those that there should be."""
    unit = unit_of(engine.settings.rules.get(want.rule))
    there = {
        (str(i.lifecycle.state), _text(i.labels)): quantity(i.value, unit)
        for i in engine.alerts
        if i.rule == want.rule and i.lifecycle.state is not AlertState.OK
    }
    expected = {
        (state, _text(labels))
        for state, found in want.labels.items()
        for labels in found
    }
    lines = [f"  - {s:<10} {text}" for s, text in sorted(expected - there.keys())]
    lines += [
        f"  + {s:<10} {text}, value {there[s, text]}"
        for s, text in sorted(there.keys() - expected)
    ]
    if lines:
        yield f"at {duration(want.at)}, alerts of {want.rule}:"
        yield from lines


def of_messages(
    case: TestCase, wanted: Iterable[ExpectedMessage], rehearsal: Simulation
) -> list[str]:
    """Return how the messages differ from those that there should be."""
    left = [(message, rehearsal.render(message)) for message in rehearsal.messages]
    missing = []
    for want in wanted:
        near = [pair for pair in left if _near(pair[0], want, case)]
        exact = next((pair for pair in near if not any(_wrong(want, *pair))), None)
        if exact is None:
            missing.append(want)
        else:
            left.remove(exact)
    found: list[tuple[float, str]] = []
    for want in missing:
        near = [pair for pair in left if _near(pair[0], want, case)]
        if not near:
            found.append((want.at, _line("-", want.at, _asked(want))))
            continue
        # The one that was meant, most likely.
        best = min(near, key=lambda pair: len(list(_wrong(want, *pair))))
        left.remove(best)
        lines = [_sent("~", best[0], case)]
        lines += [f"{INDENT}{line}" for line in _wrong(want, *best)]
        found.append((want.at, "\n".join(lines)))
    for message, _ in left:
        found.append((message.time - case.start, _sent("+", message, case)))
    found.sort(key=lambda pair: pair[0])
    return ["messages:", *(lines for _, lines in found)] if found else []


def headline(message: SimulatedMessage) -> str:
    """Return whom a message goes to, why, and how many alerts it is about."""
    notification = message.notification
    return f"{notification.receiver} {notification.kind}, {_count(message.size)}"


def unlike(expected: Any, found: Any, path: str) -> list[str]:
    """Return where part of a body is not as expected.

    Of a table, the keys that are expected have to be there; of a list, something like
    each part that is.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        return [
            line
            for key, value in expected.items()
            for line in _within(value, found, key, f"{path}.{key}")
        ]
    if isinstance(expected, list) and isinstance(found, list):
        return [line for part in expected for line in _nearest(part, found, path)]
    if _same(expected, found):
        return []
    return [f"{path}: {_shown(found)}, expected {_shown(expected)}"]


# -- inside --------------------------------------------------------------------------


def _near(message: SimulatedMessage, want: ExpectedMessage, case: TestCase) -> bool:
    notification = message.notification
    return (
        abs(message.time - case.start - want.at) < case.interval
        and notification.receiver == want.receiver
        and str(notification.kind) == want.kind
    )


def _wrong(
    want: ExpectedMessage, message: SimulatedMessage, body: Any
) -> Iterator[str]:
    """Yield what is wrong with a message."""
    if want.alerts not in (None, message.size):
        yield f"{_count(want.alerts or 0)} expected"
    texts = list(_texts(body))
    for part in want.contains:
        if not any(part in text for text in texts):
            yield f"{_shown(part)} is in none of its texts"
    if want.body is not None:
        yield from unlike(want.body, body, "body")


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


def _within(value: Any, found: Mapping[str, Any], key: str, path: str) -> list[str]:
    if key not in found:
        return [f"{path}: not there, expected {_shown(value)}"]
    return unlike(value, found[key], path)


def _nearest(part: Any, found: list[Any], path: str) -> list[str]:
    """Return how the part of a list that is most like one differs from it."""
    tried = [unlike(part, one, f"{path}[{n}]") for n, one in enumerate(found)]
    missing = [f"{path}: empty, expected {_shown(part)} in it"]
    return min(tried, key=len, default=missing)


def _same(expected: Any, found: Any) -> bool:
    numbers = (int, float)
    if isinstance(expected, bool) or isinstance(found, bool):
        return expected is found
    if isinstance(expected, numbers) and isinstance(found, numbers):
        return math.isclose(expected, found)
    return bool(expected == found)


def _asked(want: ExpectedMessage) -> str:
    parts = [f"{want.receiver} {want.kind}"]
    if want.alerts is not None:
        parts.append(_count(want.alerts))
    text = ", ".join(parts)
    return "\n".join([text, *(f"{INDENT}{_shown(part)}" for part in want.contains)])


def _sent(mark: str, message: SimulatedMessage, case: TestCase) -> str:
    line = _line(mark, message.time - case.start, headline(message))
    return f"{line}\n{INDENT}{formatting.title(message.notification)}"


def _line(mark: str, at: float, text: str) -> str:
    return f"  {mark} {duration(at):>8} {text}"


def _count(alerts: int) -> str:
    return f"{alerts} alert{'' if alerts == 1 else 's'}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return formatting.truncate(text, MAX_SHOWN)


def _text(labels: Mapping[str, str]) -> str:
    parts = [f"{name}={value}" for name, value in labels.items() if value]
    return " ".join(parts) or "(no labels)"

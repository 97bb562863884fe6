"""The rules over the past: what fired, for how long, and who would have been sent what.

Strategy: time goes on by the buckets there are, ten seconds, a minute or an hour. What
one holds is taken to be so for all of its time, with evaluations soon after its begin,
every ten minutes, and at its end. A window that is shorter than the bucket is as long
as it. What isn't in buckets, such as memory, can't be looked at again.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from kaywatch_agent.aggregate.bucket import EMPTY, Bucket, merge
from kaywatch_agent.aggregate.change import StoredHistory
from kaywatch_agent.aggregate.view import NoArchive, View
from kaywatch_agent.notify.config import ReceiverConfig, WebhookConfig
from kaywatch_agent.notify.secret import Secret
from kaywatch_agent.rules.metrics import MetricSource
from kaywatch_agent.rules.rule import AlertSettings, BurnRate, Rule, Stuck, Threshold
from kaywatch_agent.rules.windows import EvalInput
from kaywatch_agent.simulation.rehearsal import Simulation

__all__ = ["STAND_IN", "BacktestReport", "backtest", "unseen"]

# Who is told where nobody is: a webhook, for it groups as chats do.
STAND_IN: Final = "(any)"
_STAND_IN: Final = WebhookConfig(
    name=STAND_IN, type="webhook", url=Secret("", "", "http://localhost")
)

HOUR: Final = 3600
FINEST: Final = 10

# Where nothing is stored, time goes on by this.
GAP_SECONDS: Final = 60.0

# In an hour's bucket, there is a look this often.
LOOK_SECONDS: Final = 600.0

# How far back a message's history goes; see `firing_context`.
HISTORY_SECONDS: Final = 86_400.0

# The end of a bucket is the last moment within it.
JUST_BEFORE: Final = 0.001


class BacktestReport(NamedTuple):
    """What came of it.

    Attributes:
        rehearsal: what happened.
        settings: the rules that were looked at.
        start, end: the time that was looked at, Unix seconds.
        evaluations: how many there were.
        unseen: why rules could not be looked at, by name.
        lengths: which lengths of buckets there were, and from when on.
    """

    rehearsal: Simulation
    settings: AlertSettings
    start: float
    end: float
    evaluations: int
    unseen: Mapping[str, str]
    lengths: Sequence[tuple[float, float]]


def backtest(
    settings: AlertSettings,
    past: StoredHistory,
    since: float,
    *,
    receivers: Mapping[str, ReceiverConfig],
    progress: Callable[[float], None] = lambda _: None,
) -> BacktestReport:
    """Return what rules would have done.

    Args:
        settings: the rules.
        past: what is stored.
        since: from when on, Unix seconds; what is older is only looked back on.
        receivers: by name.
        progress: told the share that is done, 0 to 1.
    """
    hidden = {r.name: why for r in settings.rules.values() if (why := unseen(r))}
    settings = _told(settings, hidden)
    rehearsal = Simulation(settings, {**receivers, STAND_IN: _STAND_IN})
    memory = _Memory(past, _horizon(settings))
    lengths: list[tuple[float, float]] = []
    count, start = 0, max(since, past.first)
    for end, passed, length in memory.times():
        if end <= start:
            continue
        if not lengths or lengths[-1][1] != length:
            lengths.append((end - passed, length))
        rehearsal.look(memory.scene(end - JUST_BEFORE, length), passed)
        count += 1
        progress((end - start) / max(1.0, past.last - start))
    # What gathers at the end is sent after it.
    rehearsal.deliver(math.inf)
    return BacktestReport(rehearsal, settings, start, past.last, count, hidden, lengths)


def unseen(rule: Rule) -> str:
    """Return why a rule can't be looked at in the past; empty where it can."""
    match rule.condition:
        case Stuck():
            return "what was in flight is not stored"
        case Threshold() as condition:
            for name, metric in condition.metrics.items():
                if metric.source is MetricSource.PROCESSES:
                    return f"{name} is not stored"
                if name in ("run_visits_max", "node_visits_max"):
                    return "how long each run was is not stored"
    return ""


# -- inside --------------------------------------------------------------------------


class _Memory:
    """What the agent would have known at each time."""

    def __init__(self, past: StoredHistory, horizon: float) -> None:
        self._past = past
        self._horizon = horizon
        self._totals = EMPTY
        self._steps: dict[int, Bucket] = {}
        self._older = _Older()
        self._times = [failure.time for failure in past.failures]

    def times(self) -> Iterator[tuple[float, float, float]]:
        """Yield when to look, the seconds since the last time, and the bucket's.

        Its events are taken in then.
        """
        reached = self._past.first
        for start, length, step in self._past.buckets:
            while reached + GAP_SECONDS <= start:
                reached += GAP_SECONDS
                yield reached, GAP_SECONDS, FINEST
            self._take(start, step)
            for end in _ends(start, length):
                if end > reached:
                    yield end, end - reached, length
                    reached = end

    def scene(self, now: float, length: float) -> EvalInput:
        """Return the picture at a time."""
        self._forget(now)
        seen = bisect_right(self._times, now)
        view = View(
            now,
            self._past.first,
            self._totals,
            self._steps,
            self._past.registry,
            tuple(self._past.failures[:seen]),
            {},
            self._older,
        )
        return EvalInput(now, now - self._past.first, view, (), max(length, FINEST))

    def _take(self, start: float, step: Bucket) -> None:
        number = int(start // FINEST)
        self._steps[number] = merge([self._steps.get(number, EMPTY), step])
        self._totals = merge([self._totals, step])

    def _forget(self, now: float) -> None:
        """Move what is older than an hour to where it is merged by the hour."""
        oldest = now // FINEST - HOUR // FINEST
        for number in [n for n in self._steps if n < oldest]:
            self._older.add(number * FINEST, self._steps.pop(number))
        self._older.forget(now - self._horizon)


def _ends(start: float, length: float) -> Iterator[float]:
    """Yield when to look at a bucket."""
    # A step later than its first: the bucket before it is out of the window then.
    at = 2.0 * FINEST
    while at < length:
        yield start + at
        at += LOOK_SECONDS
    yield start + length


class _Older(NoArchive):
    """What is older than an hour; an archive, for views."""

    def __init__(self) -> None:
        self._fine: dict[int, dict[int, Bucket]] = {}  # by hour, and start
        self._hours: dict[int, Bucket] = {}

    def add(self, start: int, step: Bucket) -> None:
        hour = start - start % HOUR
        self._fine.setdefault(hour, {})[start] = step
        self._hours[hour] = merge([self._hours.get(hour, EMPTY), step])

    def forget(self, before: float) -> None:
        for hour in [h for h in self._fine if h + HOUR < before]:
            del self._fine[hour], self._hours[hour]

    def read(self, *asked: float) -> Iterator[tuple[int, Bucket]]:
        start, end, resolution = asked
        for hour in sorted(self._fine):
            if hour + HOUR <= start or hour >= end:
                continue
            if resolution >= HOUR and start <= hour and hour + HOUR <= end:
                yield hour, self._hours[hour]
            else:
                for begin, step in sorted(self._fine[hour].items()):
                    if start <= begin < end:
                        yield begin, step


def _told(settings: AlertSettings, hidden: Mapping[str, str]) -> AlertSettings:
    """Return settings without the rules that can't be seen, and with a receiver."""
    anybody = any(rule.notify for rule in settings.rules.values())
    rules = {
        name: rule if anybody else dataclasses.replace(rule, notify=(STAND_IN,))
        for name, rule in settings.rules.items()
        if name not in hidden
    }
    return dataclasses.replace(settings, rules=rules)


def _horizon(settings: AlertSettings) -> float:
    """Return how far back any rule looks."""
    longest = HISTORY_SECONDS
    for rule in settings.rules.values():
        window = (
            rule.condition.long if isinstance(rule.condition, BurnRate) else rule.window
        )
        longest = max(longest, window if math.isfinite(window) else 0.0)
    return longest + 2 * HOUR

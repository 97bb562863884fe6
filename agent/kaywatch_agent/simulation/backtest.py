"""Evaluates rules over the stored past, and counts the messages they would have sent.

Strategy: time advances by the stored buckets of ten seconds, a minute or an hour. Each
is taken to hold for its whole length, with evaluations shortly after its start, every
ten minutes, and at its end. A shorter window is extended to the bucket's length.
Metrics that are not in buckets, such as memory, cannot be backtested.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from kaywatch_agent.aggregate.bucket import EMPTY, Bucket, merge
from kaywatch_agent.aggregate.change import StoredHistory
from kaywatch_agent.aggregate.history import History
from kaywatch_agent.aggregate.view import NoArchive, View
from kaywatch_agent.notify.config import ReceiverConfig, WebhookConfig
from kaywatch_agent.notify.secret import Secret
from kaywatch_agent.rules.metrics import MetricSource
from kaywatch_agent.rules.past_hours import PAST_SECONDS
from kaywatch_agent.rules.rule import AlertSettings, Rule, Stuck, Threshold
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.rules.windows import EvalInput
from kaywatch_agent.simulation.simulation import Simulation

__all__ = [
    "STAND_IN",
    "BacktestReport",
    "Episode",
    "backtest",
    "find_episodes",
    "not_backtestable",
]

# The receiver if no rule has one: a webhook, because it groups like a chat.
STAND_IN: Final = "(any)"
_STAND_IN: Final = WebhookConfig(
    name=STAND_IN, type="webhook", url=Secret("", "", "http://localhost")
)

HOUR: Final = 3600
FINEST: Final = 10

# Where nothing is stored, time advances by this.
GAP_SECONDS: Final = 60.0

# In a bucket of an hour, rules are evaluated this often.
EVALUATION_SECONDS: Final = 600.0

# The last moment of a bucket is just before its end.
JUST_BEFORE: Final = 0.001


ACTIVE: Final = (AlertState.FIRING, AlertState.RECOVERING)


class Episode(NamedTuple):
    """A period from an alert's firing to its resolution."""

    rule: str
    alert: str
    labels: dict[str, str]
    start: float
    end: float | None
    value: float | None
    reason: str


class BacktestReport(NamedTuple):
    """The result of a backtest.

    Attributes:
        simulation: what happened.
        settings: the rules that were evaluated.
        start, end: the period, Unix seconds.
        evaluations: the number of evaluations.
        skipped: why rules could not be evaluated, by rule.
        resolutions: when each length of buckets begins, and that length in seconds.
    """

    simulation: Simulation
    settings: AlertSettings
    start: float
    end: float
    evaluations: int
    skipped: Mapping[str, str]
    resolutions: Sequence[tuple[float, float]]


def backtest(
    settings: AlertSettings,
    history: StoredHistory,
    since: float,
    *,
    receivers: Mapping[str, ReceiverConfig],
    progress: Callable[[float], None] = lambda _: None,
) -> BacktestReport:
    """Return what rules would have done in the past.

    Args:
        settings: the rules.
        history: the stored history.
        since: the start, Unix seconds; older data is only used by windows.
        receivers: by name.
        progress: called with the share that is done, 0 to 1.
    """
    reasons = {name: not_backtestable(rule) for name, rule in settings.rules.items()}
    skipped = {name: reason for name, reason in reasons.items() if reason}
    settings = _backtest_settings(settings, skipped)
    simulation = Simulation(settings, {**receivers, STAND_IN: _STAND_IN})
    replay = _HistoryReplay(history, _longest_window(settings))
    resolutions: list[tuple[float, float]] = []
    count, start = 0, max(since, history.first)
    for end, passed, length in replay.steps():
        if end <= start:
            continue
        if not resolutions or resolutions[-1][1] != length:
            resolutions.append((end - passed, length))
        simulation.evaluate(replay.eval_input(end - JUST_BEFORE, length), passed)
        count += 1
        progress((end - start) / max(1.0, history.last - start))
    # Messages that wait for their group at the end are sent after it.
    simulation.delivery.deliver(math.inf)
    return BacktestReport(
        simulation, settings, start, history.last, count, skipped, resolutions
    )


def find_episodes(simulation: Simulation) -> list[Episode]:
    """Return the episodes of all alerts, in the order in which they started."""
    episodes: list[Episode] = []
    active: dict[str, int] = {}  # by alert, the position of its episode
    for time, alert, before, after, reason, value in simulation.changes:
        if after in ACTIVE and before not in ACTIVE:
            active[alert.id] = len(episodes)
            labels = dict(alert.labels)
            episode = Episode(alert.rule, alert.id, labels, time, None, value, "")
            episodes.append(episode)
        elif after not in ACTIVE and alert.id in active:
            at = active.pop(alert.id)
            episodes[at] = episodes[at]._replace(end=time, reason=reason)
    return episodes


def not_backtestable(rule: Rule) -> str:
    """Return why a rule cannot be evaluated over the past; empty if it can."""
    match rule.condition:
        case Stuck():
            return "nodes in flight are not stored"
        case Threshold() as condition:
            for name, metric in condition.metrics.items():
                if metric.source is MetricSource.PROCESSES:
                    return f"{name} is not stored"
                if name in _OF_SINGLE_RUNS:
                    return "the visits of single runs are not stored"
                if name == "unreached_runs":
                    return "earlier topologies are not stored"
    return ""


# -- inside --------------------------------------------------------------------------

_OF_SINGLE_RUNS: Final = frozenset(
    {"run_visits_max", "node_visits_max", "visits_over_usual", "runaway_factor"}
)


class _HistoryReplay:
    """What the agent would have known at each time."""

    def __init__(self, history: StoredHistory, longest_window: float) -> None:
        self._history = history
        self._longest_window = longest_window
        self._totals = EMPTY
        self._recent: dict[int, Bucket] = {}
        self._older = _OlderBuckets()
        self._failure_times = [failure.time for failure in history.failures]

    def steps(self) -> Iterator[tuple[float, float, float]]:
        """Add the buckets one by one, and yield when to evaluate the rules.

        Yields:
            The time, the seconds since the previous one, and the bucket's length.
        """
        reached = self._history.first
        for start, length, bucket in self._history.buckets:
            while reached + GAP_SECONDS <= start:
                reached += GAP_SECONDS
                yield reached, GAP_SECONDS, FINEST
            number = int(start // FINEST)
            self._recent[number] = merge([self._recent.get(number, EMPTY), bucket])
            self._totals = merge([self._totals, bucket])
            for end in _evaluation_times(start, length):
                if end > reached:
                    yield end, end - reached, length
                    reached = end

    def eval_input(self, now: float, length: float) -> EvalInput:
        """Return the input of an evaluation at a time."""
        self._age(now)
        known_failures = bisect_right(self._failure_times, now)
        history = self._history
        view = View(
            now,
            history.first,
            self._totals,
            History(self._recent),
            history.registry,
            tuple(history.failures[:known_failures]),
            {},
            self._older,
        )
        return EvalInput(now, now - history.first, view, (), max(length, FINEST))

    def _age(self, now: float) -> None:
        """Move the buckets older than an hour to the buckets merged by the hour."""
        oldest = now // FINEST - HOUR // FINEST
        for number in [n for n in self._recent if n < oldest]:
            self._older.add(number * FINEST, self._recent.pop(number))
        self._older.forget(now - self._longest_window)


def _evaluation_times(start: float, length: float) -> Iterator[float]:
    """Yield when to evaluate a bucket."""
    # Not after its first step: the previous bucket has left a short window by then.
    at = 2.0 * FINEST
    while at < length:
        yield start + at
        at += EVALUATION_SECONDS
    yield start + length


class _OlderBuckets(NoArchive):
    """The buckets older than an hour, as a view's archive."""

    def __init__(self) -> None:
        self._fine: dict[int, dict[int, Bucket]] = {}  # by hour, and start
        self._hours: dict[int, Bucket] = {}

    def add(self, start: int, bucket: Bucket) -> None:
        hour = start - start % HOUR
        self._fine.setdefault(hour, {})[start] = bucket
        self._hours[hour] = merge([self._hours.get(hour, EMPTY), bucket])

    def forget(self, before: float) -> None:
        for hour in [h for h in self._fine if h + HOUR < before]:
            del self._fine[hour], self._hours[hour]

    def read(self, *period: float) -> Iterator[tuple[int, Bucket]]:
        start, end, resolution = period
        for hour in sorted(self._fine):
            if hour + HOUR <= start or hour >= end:
                continue
            if resolution >= HOUR and start <= hour and hour + HOUR <= end:
                yield hour, self._hours[hour]
            else:
                for begin, bucket in sorted(self._fine[hour].items()):
                    if start <= begin < end:
                        yield begin, bucket


def _backtest_settings(
    settings: AlertSettings, skipped: Mapping[str, str]
) -> AlertSettings:
    """Return the settings without the skipped rules, and with a receiver."""
    has_receiver = any(rule.notify for rule in settings.rules.values())
    rules = {
        name: rule if has_receiver else dataclasses.replace(rule, notify=(STAND_IN,))
        for name, rule in settings.rules.items()
        if name not in skipped
    }
    return dataclasses.replace(settings, rules=rules)


def _longest_window(settings: AlertSettings) -> float:
    """Return how far back any rule looks, in seconds, with a margin."""
    windows = [rule.window for rule in settings.rules.values()]
    return max([PAST_SECONDS, *filter(math.isfinite, windows)]) + 2 * HOUR

"""The input of the checks: a window, and the last hour by ten seconds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kaywatch.wire import EndReason, Outcome
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats, few_rows
from kaywatch_agent.aggregate.view import (
    BUCKET_SECONDS,
    HISTORY_BUCKETS,
    HOUR,
)
from kaywatch_agent.model.series import Kind, SeriesKey
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.web.api.diagnosis.onset import find_onset
from kaywatch_agent.web.api.diagnosis.problem import Place
from kaywatch_agent.web.series_filter import SeriesFilter
from kaywatch_agent.web.snapshot import AgentSnapshot, Window, period

__all__ = ["Actions", "NodeEvidence", "HourCounts", "Onset"]

Ints = NDArray[np.int64]
Actions = dict[str, int]  # executions by action

# The whole hour counts as bad if its share of bad events is more than this part of the
# window's share.
SAME_SHARE: Final = 0.5

# All checks read the same counts, so that one pass over the buckets serves all of them.
_DIMENSIONS: Final = frozenset(
    {Dimension.OUTCOME, Dimension.HISTOGRAM, Dimension.ACTION, Dimension.ERROR}
)
_WASTED: Final = "llm_wasted_cost_usd"


class NodeEvidence:
    """What nodes did within a window that ends now.

    Usually nothing is wrong, so nothing is read before a check asks for it, and then
    only the series of the places it asks for.

    Attributes:
        snapshot: what is read.
        seconds: the length of the window.
        start, end: its period, Unix seconds.
    """

    def __init__(self, snapshot: AgentSnapshot, seconds: int) -> None:
        self.snapshot = snapshot
        self.seconds = seconds
        self.start, self.end = period(snapshot.view, seconds, None)

    @cached_property
    def alerts(self) -> AlertsSnapshot:
        """The alerts, and what the rules compared."""
        return self.snapshot.alerts()

    @cached_property
    def nodes(self) -> frozenset[Place]:
        """The places of all nodes."""
        return frozenset(map(place_of, self.snapshot.series(Kind.NODE)))

    def dead_ends(self, places: Collection[Place]) -> dict[Place, Actions]:
        """Return the runs that ended at some nodes, at an action without an edge."""
        graphs = {(service, graph, "") for service, graph, _ in places}
        ends = self.snapshot.view.registry.ends.values
        actions_by_place: dict[Place, Actions] = defaultdict(dict)
        for place, number, count in self._facts(Kind.RUN, graphs, Dimension.ACTION):
            end, (service, graph, _) = ends[number], place
            if end.reason == EndReason.UNMATCHED_ACTION:
                actions_by_place[service, graph, end.node][end.action] = count
        return actions_by_place

    def _facts(
        self, kind: Kind, places: Collection[Place], dimension: Dimension
    ) -> Iterator[tuple[Place, int, int]]:
        """Yield the facts of some places within the window: place, number, count."""

        def place(key: SeriesKey) -> Place | None:
            return found if (found := place_of(key)) in places else None

        if not places:
            return
        matches = SeriesFilter(kinds={kind}, graph={graph for _, graph, _ in places})
        groups = self.snapshot.groups([kind], place, matches=matches)
        window = Window(self.snapshot, self.seconds, matches=matches)
        for group, number, count in window.stats(groups, {dimension}).counted(
            dimension
        ):
            yield groups.names[group], number, count


class Onset(NamedTuple):
    """A share of bad events since it rose.

    Attributes:
        since: when it rose, Unix seconds; None if that was more than an hour ago.
        bad: the number of bad events since then.
        events: the number of all events since then.
        seconds: how long they took together.
        wasted: the cost of failed attempts since then; None without calls of models.
        usual: the share within the hour before it rose; None if it did not rise.
        errors: the executions with an exception since then, by its type.
        is_whole: whether nothing is known from before it.
    """

    since: float | None
    bad: int
    events: int
    seconds: float
    wasted: float | None
    usual: float | None
    errors: Mapping[str, int]
    is_whole: bool = False

    @property
    def share(self) -> float:
        """The share of bad events."""
        return self.bad / self.events if self.events else 0.0


class HourCounts:
    """Counts of an hour in steps of ten seconds, for a few places."""

    def __init__(self, evidence: NodeEvidence, places: Collection[Place]) -> None:
        """Collect the hour that ends with a window; a graph's place has no node."""
        snapshot, end = evidence.snapshot, evidence.end
        self._registry = snapshot.view.registry
        self._first = int((end - HOUR) // BUCKET_SECONDS) * BUCKET_SECONDS
        # The hour begins and ends within a step.
        self._size = HISTORY_BUCKETS + 2
        self._recent = max(0, int(evidence.start - self._first) // BUCKET_SECONDS)

        def name(key: SeriesKey) -> tuple[str, Place] | None:
            place = place_of(key)
            # Only suspects have a history: 360 steps of thousands of places would be
            # too many.
            is_wanted = place in places and key.metric in ("", _WASTED)
            return (key.metric, place) if is_wanted else None

        groups = snapshot.groups([Kind.NODE, Kind.RUN, Kind.COUNT], name)
        self._starts = {group: n * self._size for group, n in groups.items()}
        numbers = np.where(groups.numbers < 0, -1, groups.numbers * self._size)
        self._stats = GroupStats(numbers, len(groups) * self._size, _DIMENSIONS)
        self._totals = GroupStats(groups.numbers, len(groups), ())
        self._totals.add(snapshot.view.totals)
        view, rows = snapshot.view, few_rows(numbers)
        for begin, bucket in chain(
            view.archived(self._first, end), view.recent(self._first, end, rows)
        ):
            step = (begin - self._first) // BUCKET_SECONDS
            if 0 <= step < self._size:
                self._stats.add(bucket, offset=step)

    def failures(self, place: Place) -> Onset:
        """Return the share of executions that failed."""
        outcomes = self._stats.outcomes()
        # As in rules: cancelled executions neither failed nor succeeded.
        finished = self._stats.executions - outcomes[:, Outcome.CANCELLED]
        return self._onset(place, outcomes[:, Outcome.ERROR], finished)

    def recent_failures(self, place: Place, seconds: int) -> Onset:
        """Return the share of executions that failed since the first recent failure.

        With few executions, no moment of change can be found.
        """
        failed = self._stats.outcomes()[:, Outcome.ERROR]
        start = self._starts["", place]
        recent = max(0, self._size - seconds // BUCKET_SECONDS)
        steps = np.flatnonzero(failed[start + recent : start + self._size])
        step = recent + int(steps[0]) if len(steps) else 0
        return self._since(place, step, failed, self._stats.executions)

    def hidden_failures(self, place: Place) -> Onset:
        """Return the share of calls of `exec` that failed without failing the node."""
        bad = _hidden_failures(self._stats)
        return self._onset(place, bad, self._stats.attempts)

    def failed_attempts(self, place: Place) -> Onset:
        """Return the share of calls of `exec` that failed, whatever followed."""
        errors = self._stats.outcomes()[:, Outcome.ERROR]
        bad = _hidden_failures(self._stats) + errors
        return self._onset(place, bad, self._stats.attempts)

    def slow(self, place: Place, limit: float) -> Onset:
        """Return the share of executions that took longer than a limit."""
        fast = self._stats.counts_at_most(np.array([limit]))[:, 0]
        slow = np.maximum(self._stats.executions - fast, 0)
        return self._onset(place, slow, self._stats.executions)

    def dead_ends(self, place: Place) -> Onset:
        """Return the share of a graph's runs that ended at a node without an edge."""
        service, graph, node = place
        edges = {
            number
            for number, end in enumerate(self._registry.ends.values)
            if end.reason == EndReason.UNMATCHED_ACTION and end.node == node
        }
        bad = self._count_facts(edges)
        return self._onset((service, graph, ""), bad, self._stats.executions)

    def _onset(self, place: Place, bad: Ints, events: Ints) -> Onset:
        start = self._starts["", place]
        own = slice(start, start + self._size)
        rise = find_onset(bad[own], events[own])
        if rise is not None:
            return self._since(place, rise, bad, events)
        # The share did not rise: if it was high at all, it was high from the start. If
        # there were events before the hour, nobody knows when it began.
        total = self._totals.executions[start // self._size]
        is_older = total > self._stats.executions[own].sum()
        first = 0 if is_older else int(np.argmax(events[own] > 0))
        whole = self._since(place, first, bad, events)
        whole = whole._replace(usual=None, is_whole=not is_older)
        recent = self._since(place, self._recent, bad, events)._replace(usual=None)
        return whole if whole.share > SAME_SHARE * recent.share else recent

    def _since(self, place: Place, step: int, bad: Ints, events: Ints) -> Onset:
        start = self._starts["", place]
        bad, events = (each[start : start + self._size] for each in (bad, events))
        return Onset(
            # A share that was already high in the first step rose before the history
            # begins.
            since=self._time(step) if step > 0 else None,
            bad=int(bad[step:].sum()),
            events=int(events[step:].sum()),
            seconds=float(self._stats.total[start + step : start + self._size].sum()),
            wasted=self._wasted(place, step),
            usual=float(bad[:step].sum() / max(1, events[:step].sum())),
            errors=self._errors(place, step),
        )

    def _errors(self, place: Place, step: int) -> Counter[str]:
        start = self._starts["", place]
        group, number, count = self._stats.facts(Dimension.ERROR)
        own = (group >= start + step) & (group < start + self._size)
        names, errors = self._registry.errors.values, Counter[str]()
        for n, times in zip(number[own].tolist(), count[own].tolist(), strict=True):
            errors[names[n].type] += times
        return errors

    def _wasted(self, place: Place, step: int) -> float | None:
        start = self._starts.get((_WASTED, place))
        if start is None:
            return None
        return max(
            0.0, float(self._stats.total[start + step : start + self._size].sum())
        )

    def _count_facts(self, wanted: Collection[int]) -> Ints:
        """Return how often actions, or ends of runs, were counted, by step."""
        group, number, count = self._stats.facts(Dimension.ACTION)
        selected = np.isin(number, list(wanted))
        counts: Ints = np.bincount(
            group[selected], count[selected], len(self._stats)
        ).astype(np.int64)
        return counts

    def _time(self, step: int) -> float:
        return float(self._first + step * BUCKET_SECONDS)


def place_of(key: SeriesKey) -> Place:
    """Return the place of a series; the node of runs is empty."""
    return key.service, key.graph, key.node


def _hidden_failures(stats: GroupStats) -> Ints:
    """Return how many failed attempts a retry, fallback or `on_error` hid."""
    outcomes = stats.outcomes()
    hidden: Ints = (
        stats.retries()
        + outcomes[:, Outcome.FALLBACK]
        + outcomes[:, Outcome.SUPPRESSED]
    )
    return hidden

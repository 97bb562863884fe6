"""The input of an evaluation, and the statistics of groups of series in its windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from kaywatch_agent.aggregate.bucket import (
    ALL_DIMENSIONS,
    Bucket,
    Dimension,
    first_rows,
    gather,
    without_histograms,
)
from kaywatch_agent.aggregate.group_stats import GroupStats, SeriesGroups
from kaywatch_agent.aggregate.view import BUCKET_SECONDS, View
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.series import Kind, SeriesKey
from kaywatch_agent.rules.departures import Departure
from kaywatch_agent.rules.formulas import MetricContext
from kaywatch_agent.rules.matchers import Matcher, matches
from kaywatch_agent.rules.metrics import Metric
from kaywatch_agent.rules.past_hours import PastHours

__all__ = [
    "EvalInput",
    "Group",
    "LiveValue",
    "NodePlace",
    "SeriesSelector",
    "WindowCache",
    "client_labels",
    "select",
    "select_nodes",
]

# The older part of a window may be read in buckets of 1/24 of its length.
COARSE: Final = 24

NodePlace = tuple[str, str, str]  # service, graph, node
Group = tuple[str, ...]  # the values of a rule's labels


class LiveValue(NamedTuple):
    """A value that is not computed from one kind of series.

    Attributes:
        value: NaN if it is unknown.
        note: what is behind it, for messages; may be empty.
        executions: the executions or runs that it is about.
        usual: what it is relative to; NaN for nothing.
        departed: what went away with processes, and may have lowered the value.
    """

    value: float
    note: str = ""
    executions: int = 0
    usual: float = math.nan
    departed: tuple[Departure, ...] = ()


class EvalInput(NamedTuple):
    """The data of one evaluation of the rules, which does not change meanwhile.

    Attributes:
        now: Unix seconds.
        covered: for how many seconds the agent has been observing.
        view: the aggregated data.
        clients: the client processes.
        resolution: shorter windows are extended to this many seconds; in a backtest,
            old buckets are no shorter.
        refused: alerts over the limit of their rule in the last evaluation, by rule.
        usual_visits: the usual most visits of a node by one run.
        rejected: series of the last snapshot that a server of an export rejected, by
            server and reason.
    """

    now: float
    covered: float
    view: View
    clients: Sequence[Client] = ()
    resolution: float = BUCKET_SECONDS
    refused: Mapping[str, int] = {}
    usual_visits: Mapping[NodePlace, int] = {}
    rejected: Mapping[str, Mapping[str, int]] = {}


class SeriesSelector(NamedTuple):
    """Selects series, and groups them by the labels `per`."""

    kinds: frozenset[Kind]
    names: frozenset[str]
    per: tuple[str, ...]
    match: tuple[Matcher, ...]

    def group(self, key: SeriesKey) -> Group | None:
        """Return the group that a series belongs to; None for none."""
        if key.kind not in self.kinds or (self.names and key.metric not in self.names):
            return None
        labels = {"service": key.service, "graph": key.graph, "node": key.node}
        if key.labels:
            labels = {**dict(key.labels), **labels}
        return self.group_of(labels)

    def group_of(self, labels: Mapping[str, str]) -> Group | None:
        """Return the group of labels; None if the matchers do not match."""
        if self.match and not matches(self.match, labels):
            return None
        return tuple([labels.get(label, "") for label in self.per])


def select(
    metric: Metric, per: tuple[str, ...], match: tuple[Matcher, ...]
) -> SeriesSelector:
    """Return the selector of a metric's series."""
    return SeriesSelector(metric.kinds, metric.names, per, match)


def select_nodes(per: tuple[str, ...], match: tuple[Matcher, ...]) -> SeriesSelector:
    """Return the selector of nodes."""
    return SeriesSelector(frozenset({Kind.NODE}), frozenset(), per, match)


def client_labels(client: Client) -> dict[str, str]:
    """Return the labels of a client's process."""
    return {"service": client.service, "host": client.host, "pid": str(client.pid)}


class WindowCache:
    """The groups, windows and statistics of an evaluation, each computed once.

    Groups are kept between evaluations, because series are only ever added.

    Attributes:
        input: the input of the current evaluation.
        past: what groups did in past hours.
    """

    def __init__(self) -> None:
        self.input: EvalInput
        self.past: PastHours[SeriesSelector] = PastHours()
        self._expected: dict[tuple[SeriesSelector, float], set[Dimension]] = {}
        self._groups: dict[SeriesSelector, SeriesGroups[Group]] = {}
        # By window, and whether they have the facts of histograms.
        self._buckets: dict[tuple[float, bool], list[Bucket]] = {}
        self._stats: dict[
            tuple[SeriesSelector, float], tuple[set[Dimension], GroupStats]
        ] = {}

    def reset(self, data: EvalInput) -> None:
        """Start another evaluation."""
        self.input = data
        self.release()

    def release(self) -> None:
        """Free the memory of the buckets and statistics of an evaluation."""
        self._buckets.clear()
        self._stats.clear()

    def expect(
        self, selector: SeriesSelector, window: float, dimensions: frozenset[Dimension]
    ) -> None:
        """Announce the windows of later requests, so that one pass computes them."""
        self._expected.setdefault((selector, window), set()).update(dimensions)

    def groups(self, selector: SeriesSelector) -> SeriesGroups[Group]:
        """Return the groups of the selected series."""
        keys = self.input.view.registry.keys
        size = len(keys)
        groups = self._groups.get(selector)
        if groups is None or len(groups.numbers) != size:
            names = [] if groups is None else groups.names
            groups = SeriesGroups(keys[:size], range(size), selector.group, names)
            self._groups[selector] = groups
        return groups

    def stats(
        self, selector: SeriesSelector, window: float, *dimensions: Dimension
    ) -> tuple[list[Group], GroupStats]:
        """Return the groups, and their statistics in a window that ends now.

        Args:
            selector: the series.
            window: seconds; infinite for everything since first seen.
            dimensions: the dimensions needed, in addition to the announced ones.
        """
        groups = self.groups(selector)
        needed = self._expected.get((selector, window), set()).union(dimensions)
        known_dimensions, stats = self._stats.get((selector, window), (None, None))
        # Dimensions are expensive, histograms above all: only those needed are summed
        # up.
        if stats is None or known_dimensions is None or not needed <= known_dimensions:
            stats = GroupStats(groups.numbers, len(groups), needed)
            # Without a series, the buckets need not even be gathered.
            histograms = Dimension.HISTOGRAM in needed or self._has_histograms(window)
            for bucket in self.buckets(window, histograms) if len(groups) else ():
                stats.add(first_rows(bucket, len(groups.numbers)))
            self._stats[selector, window] = needed, stats
        return groups.names, stats

    def buckets(self, window: float, histograms: bool = False) -> list[Bucket]:
        """Return the buckets of a window that ends now.

        Args:
            window: seconds; infinite for everything since first seen.
            histograms: whether the facts of histograms are wanted. Series that use up
                their limits have 40 MB of them in each bucket.
        """
        view = self.input.view
        if math.isinf(window):
            return [view.totals]
        window = max(window, self.input.resolution)
        key = (window, histograms)
        if key not in self._buckets:
            # The bucket in progress counts: a failure is noticed within a second, not
            # ten.
            start, end = view.now - window, view.now + BUCKET_SECONDS
            # No metric of a rule is about phases.
            wanted = ALL_DIMENSIONS - {Dimension.PHASES}
            buckets = view.between(start, end, window / COARSE, wanted)
            parts = (bucket for _, bucket in buckets)
            self._buckets[key] = gather(
                parts if histograms else map(without_histograms, parts)
            )
        return self._buckets[key]

    def _has_histograms(self, window: float) -> bool:
        """Return whether a rule needs histograms: one pass is for all rules."""
        return any(
            Dimension.HISTOGRAM in dimensions
            for (_, other), dimensions in self._expected.items()
            if other == window
        )

    def context(self, window: float) -> MetricContext:
        """Return the inputs of a window's metrics besides statistics."""
        view = self.input.view
        window = max(window, self.input.resolution)
        # Soon after the start, a rate per second would otherwise be enormous.
        covered = max(1.0, min(window, view.now - view.since))
        return MetricContext(view.registry, covered)

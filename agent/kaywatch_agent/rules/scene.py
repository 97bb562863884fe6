"""What rules look at: one frozen picture, and the figures of groups of series in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate.bucket import Bucket, Dimension, gather
from kaywatch_agent.aggregate.group_stats import GroupStats, SeriesGroups
from kaywatch_agent.aggregate.view import BUCKET_SECONDS, View
from kaywatch_agent.model.records import InFlight, NodeRevisits
from kaywatch_agent.model.series import ClientState, Kind, SeriesKey
from kaywatch_agent.rules.matchers import Matcher, matches
from kaywatch_agent.rules.metrics import Metric, MetricContext, MetricSource

__all__ = ["Process", "EvalInput", "SeriesSelector", "WindowCache"]

# A window's older part may come in buckets of this share of it.
COARSE: Final = 24

_KINDS: Final[Mapping[MetricSource, frozenset[Kind]]] = {
    MetricSource.NODES: frozenset({Kind.NODE}),
    MetricSource.RUNS: frozenset({Kind.RUN}),
}


class Process(NamedTuple):
    """One client's process."""

    client: str
    service: str
    host: str
    pid: int
    state: ClientState
    since: float
    rss_bytes: int | None
    cpu_percent: float | None
    in_flight: tuple[InFlight, ...]
    loops: tuple[NodeRevisits, ...] = ()

    @property
    def labels(self) -> dict[str, str]:
        """What alerts about it can be told apart by."""
        return {"service": self.service, "host": self.host, "pid": str(self.pid)}


class EvalInput(NamedTuple):
    """One picture.

    Attributes:
        now: Unix seconds.
        covered: for how many seconds the agent has been looking.
        view: what is aggregated.
        processes: the clients.
        resolution: shorter windows are as long as this, in seconds: of the past, the
            older buckets are no shorter.
        refused: by rule, how many alerts were too many at the last evaluation.
    """

    now: float
    covered: float
    view: View
    processes: Sequence[Process] = ()
    resolution: float = BUCKET_SECONDS
    refused: Mapping[str, int] = {}


class SeriesSelector(NamedTuple):
    """Which series are looked at, and what tells their groups apart."""

    kinds: frozenset[Kind]
    names: frozenset[str]
    per: tuple[str, ...]
    match: tuple[Matcher, ...]

    @classmethod
    def of(
        cls, metric: Metric, per: tuple[str, ...], match: tuple[Matcher, ...]
    ) -> SeriesSelector:
        """Return those of a metric."""
        kinds = metric.kinds or _KINDS[metric.source]
        return cls(kinds, metric.names, per, match)

    def group(self, key: SeriesKey) -> tuple[str, ...] | None:
        """Return the group that a series belongs to; None for none."""
        if key.kind not in self.kinds or (self.names and key.metric not in self.names):
            return None
        if not self.match and not key.labels:
            known = {"service": key.service, "graph": key.graph, "node": key.node}
            return tuple([known.get(label, "") for label in self.per])
        labels = dict(key.labels)
        labels |= {"service": key.service, "graph": key.graph, "node": key.node}
        if not matches(self.match, labels):
            return None
        return tuple([labels.get(label, "") for label in self.per])


class WindowCache:
    """The groups, windows and figures of scenes, each made once.

    SeriesGroups are kept from scene to scene: series only ever become more.
    """

    def __init__(self) -> None:
        self.scene: EvalInput
        self._facets: dict[tuple[SeriesSelector, float], set[Dimension]] = {}
        self._groups: dict[SeriesSelector, SeriesGroups[tuple[str, ...]]] = {}
        self._steps: dict[float, list[Bucket]] = {}
        self._figures: dict[
            tuple[SeriesSelector, float], tuple[set[Dimension], GroupStats]
        ] = {}

    def look(self, scene: EvalInput) -> None:
        """Turn to another scene."""
        self.scene = scene
        self._steps.clear()
        self._figures.clear()

    def expect(
        self, series: SeriesSelector, window: float, facets: frozenset[Dimension]
    ) -> None:
        """Say beforehand what somebody will ask for, so that it is made in one go."""
        self._facets.setdefault((series, window), set()).update(facets)

    def groups(self, series: SeriesSelector) -> SeriesGroups[tuple[str, ...]]:
        """Return the groups of series."""
        keys = self.scene.view.registry.keys
        size = len(keys)
        known = self._groups.get(series)
        if known is None or len(known.numbers) != size:
            names = known.names if known is not None else []
            known = SeriesGroups(keys[:size], range(size), series.group, names)
            self._groups[series] = known
        return known

    def figures(
        self, series: SeriesSelector, window: float, *facets: Dimension
    ) -> tuple[list[tuple[str, ...]], GroupStats]:
        """Return the groups' names, and their figures in a window up to now.

        Args:
            series: which.
            window: seconds; infinite for all since first seen.
            facets: what is to be told apart, besides what was expected.
        """
        groups = self.groups(series)
        wanted = self._facets.get((series, window), set()).union(facets)
        known, found = self._figures.get((series, window), (None, None))
        if found is None or known is None or not wanted <= known:
            found = GroupStats(groups.numbers, len(groups), wanted)
            for step in self.steps(window):
                found.add(_within(step, len(groups.numbers)))
            self._figures[series, window] = wanted, found
        return groups.names, found

    def steps(self, window: float) -> list[Bucket]:
        """Return the buckets of a window up to now."""
        view = self.scene.view
        if math.isinf(window):
            return [view.totals]
        window = max(window, self.scene.resolution)
        if window not in self._steps:
            start, end = view.now - window, view.now + BUCKET_SECONDS
            buckets = view.between(start, end, window / COARSE)
            self._steps[window] = gather(step for _, step in buckets)
        return self._steps[window]

    def context(self, window: float) -> MetricContext:
        """Return what metrics of a window are made from, besides figures."""
        window = max(window, self.scene.resolution)
        covered = max(1.0, min(window, self.scene.view.now - self.scene.view.since))
        return MetricContext(self.scene.view.registry, covered)


def _within(step: Bucket, size: int) -> Bucket:
    """Return the part of a step whose series were known when the groups were made."""
    if not len(step.rows) or step.rows[-1] < size:
        return step
    rows: NDArray[np.bool_] = step.rows < size
    facts = step.fact_keys >> 32 < size
    columns = [column[rows] for column in step[:9]]
    return Bucket._make([*columns, step.fact_keys[facts], step.fact_counts[facts]])

"""Formulas of metrics: from the statistics of all groups to one value per group.

A value is NaN where it is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kaywatch.wire import Outcome, Phase
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.aggregate.registry import Registry

__all__ = [
    "Compute",
    "Floats",
    "MetricContext",
    "average",
    "executions",
    "exhausted_rate",
    "last",
    "masked_rate",
    "maximum",
    "minimum",
    "outcome_rate",
    "per_second",
    "quantile",
    "retries",
    "retry_rate",
    "success_rate",
    "total",
    "total_per",
    "visits",
]

Floats = NDArray[np.float64]


class MetricContext(NamedTuple):
    """The inputs of a metric in addition to statistics.

    Attributes:
        registry: the names of numbered values.
        seconds: the length of the window, as far as the agent has observed it.
    """

    registry: Registry
    seconds: float


Compute = Callable[[GroupStats, MetricContext], Floats]


def outcome_rate(outcome: Outcome) -> Compute:
    """Return the formula of the share of executions with an outcome."""

    def rate(stats: GroupStats, _: MetricContext) -> Floats:
        return _ratio(stats.outcomes()[:, outcome], _finished(stats))

    return rate


def success_rate(stats: GroupStats, _: MetricContext) -> Floats:
    """Return the share of finished executions that did not fail."""
    # A quotient of counts is the float nearest to it: 93 of 100 are not below 0.93, as
    # 1 - 0.07 would be.
    counts = stats.outcomes()
    finished = _finished(stats)
    return _ratio(finished - counts[:, Outcome.ERROR], finished)


def masked_rate(stats: GroupStats, _: MetricContext) -> Floats:
    """Return the share of attempts whose failure was answered and so hidden."""
    counts = stats.outcomes()
    hidden = counts[:, Outcome.FALLBACK] + counts[:, Outcome.SUPPRESSED]
    return _ratio(stats.retries() + hidden, stats.attempts)


def exhausted_rate(stats: GroupStats, context: MetricContext) -> Floats:
    """Return the share of executions that failed after their last attempt."""
    # An error of `exec` is only recorded once all attempts have failed.
    exhausted = np.zeros(len(stats))
    errors = context.registry.errors.values
    for group, number, count in stats.counted(Dimension.ERROR):
        if errors[number].phase == Phase.EXEC:
            exhausted[group] += count
    return _ratio(exhausted, _finished(stats))


def quantile(q: float) -> Compute:
    """Return the formula of a quantile of durations or values."""
    return lambda stats, _: _array(stats.quantiles(q)[0])


def average(stats: GroupStats, _: MetricContext) -> Floats:
    """Return the mean of durations or values."""
    return _ratio(stats.total, stats.executions)


def maximum(stats: GroupStats, _: MetricContext) -> Floats:
    """Return the largest duration or value."""
    return _array(stats.mosts())


def minimum(stats: GroupStats, _: MetricContext) -> Floats:
    """Return the smallest duration or value."""
    return _array(stats.leasts())


def last(stats: GroupStats, _: MetricContext) -> Floats:
    """Return the latest value."""
    return _array(stats.lasts())


def executions(stats: GroupStats, _: MetricContext) -> Floats:
    """Return the number of executions or values."""
    return stats.executions.astype(np.float64)


def total(stats: GroupStats, _: MetricContext) -> Floats:
    """Return the sum of durations or values."""
    return stats.total


def per_second(stats: GroupStats, context: MetricContext) -> Floats:
    """Return the number of executions per second."""
    return stats.executions / context.seconds


def total_per(seconds: float) -> Compute:
    """Return the formula of the sum of values in each of as many seconds."""
    return lambda stats, context: stats.total * seconds / context.seconds


def retry_rate(stats: GroupStats, _: MetricContext) -> Floats:
    """Return the share of attempts that were retries."""
    return _ratio(stats.retries(), stats.attempts)


def retries(stats: GroupStats, _: MetricContext) -> Floats:
    """Return the number of attempts beyond the first of each execution."""
    return stats.retries().astype(np.float64)


def visits(stats: GroupStats, _: MetricContext) -> Floats:
    """Return the mean number of nodes that a run visited."""
    return _ratio(stats.attempts, stats.executions)


# -- inside --------------------------------------------------------------------------


# The ratio of nothing is unknown: neither 0 nor 1 would be true.
def _ratio(above: NDArray[Any], below: NDArray[Any]) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Floats = np.where(below > 0, np.true_divide(above, below), np.nan)
    return ratio


def _array(values: list[float | None]) -> Floats:
    return np.array(values, np.float64)  # None becomes NaN


def _finished(stats: GroupStats) -> NDArray[np.int64]:
    """Return how many executions succeeded or failed: cancelled ones did neither."""
    return stats.executions - stats.outcomes()[:, Outcome.CANCELLED]

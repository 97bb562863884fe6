"""The metrics of queries: the formula and the series of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats, Numbers
from kaywatch_agent.aggregate.registry import Registry
from kaywatch_agent.model.series import Kind
from kaywatch_agent.rules import metrics
from kaywatch_agent.rules.formulas import MetricContext

__all__ = ["CUSTOM", "FACTS", "MEASURES", "Measure", "rule_measure"]


class Measure(NamedTuple):
    """How a metric is computed from statistics, one value per point.

    Attributes:
        unit: of the values.
        value: computes the values.
        kinds: the kinds of the series.
        dimensions: the dimensions that `value` needs.
        counts: whether the value of a point without events is 0 instead of null.
        metrics: the names of the series; empty for executions and runs.
    """

    unit: str
    value: Callable[[GroupStats], Numbers]
    kinds: frozenset[Kind] = frozenset({Kind.NODE})
    dimensions: frozenset[Dimension] = frozenset()
    counts: bool = False
    metrics: frozenset[str] = frozenset({""})


def _executions(stats: GroupStats) -> Numbers:
    return [float(count) for count in stats.executions.tolist()]


def _retries(stats: GroupStats) -> Numbers:
    return [float(count) for count in stats.retries().tolist()]


def _items(stats: GroupStats) -> Numbers:
    return [float(count) for count in stats.phases().items.tolist()]


_PHASES: Final = frozenset({Dimension.PHASES})
_OUTCOME: Final = frozenset({Dimension.OUTCOME})
_RUN: Final = frozenset({Kind.RUN})
_COUNT: Final = frozenset({Kind.COUNT})
_OBSERVE: Final = frozenset({Kind.OBSERVE})


def _phase(name: str) -> Measure:
    return Measure(
        "seconds",
        lambda stats: stats.phases().average(name),
        dimensions=_PHASES,
    )


def _quantile(wanted: float) -> Measure:
    return Measure(
        "seconds",
        lambda stats: stats.quantiles(wanted)[0],
        dimensions=frozenset({Dimension.HISTOGRAM}),
    )


def _sum(unit: str, *metrics: str) -> Measure:
    return Measure(
        unit, GroupStats.sums, _COUNT, counts=True, metrics=frozenset(metrics)
    )


def _call(metric: str, wanted: float | None) -> Measure:
    """Return an average or a quantile of calls of models."""
    measure = Measure("seconds", GroupStats.averages)
    if wanted is not None:
        measure = _quantile(wanted)
    return measure._replace(kinds=_OBSERVE, metrics=frozenset({metric}))


MEASURES: Final = {
    "executions": Measure("executions", _executions, counts=True),
    "throughput": Measure("executions per second", _executions, counts=True),
    "success_rate": Measure("ratio", GroupStats.success_rates, dimensions=_OUTCOME),
    "error_rate": Measure("ratio", GroupStats.error_rates, dimensions=_OUTCOME),
    "avg": Measure("seconds", GroupStats.averages),
    "min": Measure("seconds", GroupStats.leasts),
    "max": Measure("seconds", GroupStats.mosts),
    "p50": _quantile(0.5),
    "p90": _quantile(0.9),
    "p95": _quantile(0.95),
    "p99": _quantile(0.99),
    "prep": _phase("prep"),
    "exec": _phase("exec"),
    "wait": _phase("wait"),
    "post": _phase("post"),
    "items": Measure(
        "items", _items, dimensions=frozenset({Dimension.PHASES}), counts=True
    ),
    "retries": Measure("retries", _retries, counts=True),
    "retry_rate": Measure("ratio", GroupStats.retry_rates),
    "runs": Measure("runs", _executions, _RUN, counts=True),
    "run_success_rate": Measure(
        "ratio", GroupStats.success_rates, _RUN, dimensions=_OUTCOME
    ),
    "run_error_rate": Measure(
        "ratio", GroupStats.error_rates, _RUN, dimensions=_OUTCOME
    ),
    "run_avg": Measure("seconds", GroupStats.averages, _RUN),
    "run_max": Measure("seconds", GroupStats.mosts, _RUN),
    "run_p50": _quantile(0.5)._replace(kinds=_RUN),
    "run_p90": _quantile(0.9)._replace(kinds=_RUN),
    "run_p95": _quantile(0.95)._replace(kinds=_RUN),
    "run_p99": _quantile(0.99)._replace(kinds=_RUN),
    "cost": _sum("usd", "llm_cost_usd"),
    "wasted_cost": _sum("usd", "llm_wasted_cost_usd"),
    "tokens": _sum("tokens", "llm_input_tokens", "llm_output_tokens"),
    "calls": _sum("calls", "llm_calls"),
    "call_errors": _sum("calls", "llm_errors"),
    "rate_limited": _sum("responses", "llm_rate_limited"),
    "call_avg": _call("llm_seconds", None),
    "call_p95": _call("llm_seconds", 0.95),
    "first_token_p50": _call("llm_first_token_seconds", 0.5),
    "first_token_p95": _call("llm_first_token_seconds", 0.95),
}


def rule_measure(name: str, registry: Registry, seconds: float) -> Measure | None:
    """Return the measure of a metric of rules; None if it cannot be computed per step.

    Args:
        name: as in a rule, such as `llm_cost_per_hour` or `custom.depth.last`.
        registry: the names of numbered values.
        seconds: the length of a step.
    """
    metric = metrics.find(name) if metrics.is_known(name) else None
    if metric is None or metric.compute is None:
        return None
    compute, context = metric.compute, MetricContext(registry, seconds)

    def value(stats: GroupStats) -> Numbers:
        values = compute(stats, context).tolist()
        return [None if math.isnan(each) else each for each in values]

    return Measure(
        metric.unit,
        value,
        metric.kinds,
        metric.dimensions,
        metric.counts,
        metric.names or frozenset({""}),
    )


# Attributes of a single event: a series counts the executions with each value.
FACTS: Final = {
    "outcome": Dimension.OUTCOME,
    "action": Dimension.ACTION,
    "error": Dimension.ERROR,
}

# The value of a custom metric: the average, the sum, or the last value.
CUSTOM: Final = {
    Kind.OBSERVE: Measure("", GroupStats.averages, _OBSERVE),
    Kind.COUNT: Measure("", GroupStats.sums, _COUNT, counts=True),
    Kind.GAUGE: Measure("", GroupStats.lasts, frozenset({Kind.GAUGE})),
}

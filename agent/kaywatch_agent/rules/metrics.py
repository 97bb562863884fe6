"""The metrics of rules: of nodes, runs, model calls, processes, rules and applications.

A metric is computed for all groups of series at once, as an array with one value per
group; NaN where the value is unknown.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kaywatch.wire import Outcome, Phase
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.aggregate.registry import Registry
from kaywatch_agent.model.series import Kind

__all__ = [
    "METRICS",
    "WAYS",
    "Metric",
    "MetricContext",
    "MetricSource",
    "find",
    "known",
]

Floats = NDArray[np.float64]


class MetricSource(Enum):
    """What a metric is about."""

    NODES = "executions of nodes"
    RUNS = "runs of graphs"
    LLM = "calls of models"
    CUSTOM = "custom metrics"
    PROCESSES = "processes"
    RULES = "rules"

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that its groups can have; custom metrics have others as well."""
        return _LABELS[self]


class MetricContext(NamedTuple):
    """What a metric is computed from, in addition to statistics.

    Attributes:
        registry: the names of numbered values.
        seconds: the length of the window, as far as the agent has observed it.
    """

    registry: Registry
    seconds: float


Compute = Callable[[GroupStats, MetricContext], Floats]


class Metric(NamedTuple):
    """How a metric is computed.

    Attributes:
        source: what it is about.
        compute: returns its values by group; None for a metric that buckets don't
            contain, see `live_values`.
        help: what it is.
        unit: ratio, seconds, bytes, percent, usd, tokens, per_second or empty.
        dimensions: the dimensions that `compute` needs.
        kinds: the kinds of its series.
        names: the custom metrics that it sums up; empty for others.
        counts: whether it is 0 rather than unknown when nothing happened.
    """

    source: MetricSource
    compute: Compute | None
    help: str
    unit: str = ""
    dimensions: frozenset[Dimension] = frozenset()
    kinds: frozenset[Kind] = frozenset()
    names: frozenset[str] = frozenset()
    counts: bool = False


def known(name: str) -> bool:
    """Return whether a metric exists."""
    return name in METRICS or _CUSTOM.fullmatch(name) is not None


def find(name: str) -> Metric:
    """Return a metric by its name.

    Raises:
        ValueError: it does not exist; with the most similar name.
    """
    if name in METRICS:
        return METRICS[name]
    custom = _CUSTOM.fullmatch(name)
    if custom is None:
        similar = difflib.get_close_matches(name, METRICS, 1)
        hint = f"did you mean {similar[0]}?" if similar else "see docs/alerts.md"
        if name.startswith("custom."):
            hint = f"add a statistic: {name}.last, or .{', .'.join(WAYS)}"
        raise ValueError(f'"{name}": unknown metric; {hint}')
    return _custom(custom["name"], custom["how"])


# -- inside --------------------------------------------------------------------------

_LABELS: Final[Mapping[MetricSource, tuple[str, ...]]] = {
    MetricSource.NODES: ("service", "graph", "node"),
    MetricSource.RUNS: ("service", "graph"),
    MetricSource.LLM: ("service", "graph", "node", "model"),
    MetricSource.CUSTOM: ("service", "graph", "node"),
    MetricSource.PROCESSES: ("service", "host", "pid"),
    MetricSource.RULES: ("rule",),
}

_KINDS: Final = {
    MetricSource.NODES: frozenset({Kind.NODE}),
    MetricSource.RUNS: frozenset({Kind.RUN}),
}

_OUTCOMES: Final = frozenset({Dimension.OUTCOME})
_ERRORS: Final = frozenset({Dimension.ERROR})
_HISTOGRAM: Final = frozenset({Dimension.HISTOGRAM})

_CUSTOM: Final = re.compile(
    r"custom\.(?P<name>.+)\.(?P<how>avg|min|max|sum|last|count|per_second|p50|p90|p95|p99)"
)


def _ratio(above: NDArray[Any], below: NDArray[Any]) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Floats = np.where(below > 0, np.true_divide(above, below), np.nan)
    return ratio


def _array(values: list[float | None]) -> Floats:
    return np.array(values, np.float64)  # None becomes NaN


def _outcome_rate(outcome: Outcome) -> Compute:
    def rate(stats: GroupStats, _: MetricContext) -> Floats:
        counts = stats.outcomes()
        finished = stats.executions - counts[:, Outcome.CANCELLED]
        return _ratio(counts[:, outcome], finished)

    return rate


def _success_rate(stats: GroupStats, context: MetricContext) -> Floats:
    return 1.0 - _outcome_rate(Outcome.ERROR)(stats, context)


def _exhausted_rate(stats: GroupStats, context: MetricContext) -> Floats:
    # An error of `exec` is only recorded once all attempts have failed.
    exhausted = np.zeros(len(stats))
    errors = context.registry.errors.values
    for group, number, count in stats.counted(Dimension.ERROR):
        if errors[number].phase == Phase.EXEC:
            exhausted[group] += count
    return _ratio(exhausted, stats.executions)


def _quantile(q: float) -> Compute:
    return lambda stats, _: _array(stats.quantiles(q)[0])


def _average(stats: GroupStats, _: MetricContext) -> Floats:
    return _ratio(stats.total, stats.executions)


def _maximum(stats: GroupStats, _: MetricContext) -> Floats:
    return _array(stats.mosts())


def _minimum(stats: GroupStats, _: MetricContext) -> Floats:
    return _array(stats.leasts())


def _last(stats: GroupStats, _: MetricContext) -> Floats:
    return _array(stats.lasts())


def _count(stats: GroupStats, _: MetricContext) -> Floats:
    return stats.executions.astype(np.float64)


def _sum(stats: GroupStats, _: MetricContext) -> Floats:
    return stats.total


def _per_second(stats: GroupStats, context: MetricContext) -> Floats:
    return stats.executions / context.seconds


def _sum_per(seconds: float) -> Compute:
    return lambda stats, context: stats.total * seconds / context.seconds


def _retry_rate(stats: GroupStats, _: MetricContext) -> Floats:
    return _ratio(stats.retries(), stats.attempts)


def _retries(stats: GroupStats, _: MetricContext) -> Floats:
    return stats.retries().astype(np.float64)


def _visits(stats: GroupStats, _: MetricContext) -> Floats:
    return _ratio(stats.attempts, stats.executions)


def _executions(
    compute: Compute | None,
    help_: str,
    unit: str = "",
    dimensions: frozenset[Dimension] = frozenset(),
    *,
    source: MetricSource = MetricSource.NODES,
    counts: bool = False,
) -> Metric:
    """Return a metric of executions, or of runs."""
    kinds = _KINDS[source]
    return Metric(source, compute, help_, unit, dimensions, kinds, counts=counts)


def _runs(
    compute: Compute | None,
    help_: str,
    unit: str = "",
    dimensions: frozenset[Dimension] = frozenset(),
    *,
    counts: bool = False,
) -> Metric:
    source = MetricSource.RUNS
    return _executions(compute, help_, unit, dimensions, source=source, counts=counts)


def _latencies(source: MetricSource, prefix: str, what: str) -> dict[str, Metric]:
    def latency(
        compute: Compute, help_: str, dimensions: frozenset[Dimension] = frozenset()
    ) -> Metric:
        return _executions(compute, help_, "seconds", dimensions, source=source)

    percentiles = {
        f"{prefix}p{percent}": latency(
            _quantile(percent / 100),
            f"seconds that {percent} % of {what} stay below",
            _HISTOGRAM,
        )
        for percent in (50, 90, 95, 99)
    }
    return {
        f"{prefix}avg": latency(_average, f"mean seconds of {what}"),
        f"{prefix}max": latency(_maximum, f"longest {what}, in seconds"),
        **percentiles,
    }


def _llm(names: set[str], unit: str, help_: str, seconds: float = 60.0) -> Metric:
    return Metric(
        MetricSource.LLM,
        _sum_per(seconds),
        help_,
        unit,
        kinds=frozenset({Kind.COUNT}),
        names=frozenset(names),
        counts=True,
    )


_TOKENS: Final = {"llm_input_tokens", "llm_output_tokens"}
_COST: Final = {"llm_cost_usd"}

METRICS: Final[Mapping[str, Metric]] = {
    "success_rate": _executions(
        _success_rate, "share of executions that did not fail", "ratio", _OUTCOMES
    ),
    "error_rate": _executions(
        _outcome_rate(Outcome.ERROR),
        "share of executions that failed",
        "ratio",
        _OUTCOMES,
    ),
    "fallback_rate": _executions(
        _outcome_rate(Outcome.FALLBACK),
        "share of executions that `exec_fallback` answered",
        "ratio",
        _OUTCOMES,
    ),
    "suppressed_rate": _executions(
        _outcome_rate(Outcome.SUPPRESSED),
        "share of executions whose error `on_error` suppressed",
        "ratio",
        _OUTCOMES,
    ),
    "exhausted_rate": _executions(
        _exhausted_rate,
        "share of executions whose last attempt failed, even if a fallback answered",
        "ratio",
        _ERRORS,
    ),
    "executions": _executions(_count, "executions in the window", counts=True),
    "throughput": _executions(
        _per_second, "executions per second", "per_second", counts=True
    ),
    "retries": _executions(_retries, "attempts beyond the first of each execution"),
    "retry_rate": _executions(
        _retry_rate, "share of attempts that were retries", "ratio"
    ),
    **_latencies(MetricSource.NODES, "latency_", "executions"),
    "runs": _runs(_count, "runs in the window", counts=True),
    "run_throughput": _runs(_per_second, "runs per second", "per_second", counts=True),
    "run_success_rate": _runs(
        _success_rate, "share of runs that did not fail", "ratio", _OUTCOMES
    ),
    "run_error_rate": _runs(
        _outcome_rate(Outcome.ERROR), "share of runs that failed", "ratio", _OUTCOMES
    ),
    "run_visits_max": _runs(
        None, "most nodes visited by one run, including runs in progress", counts=True
    ),
    "node_visits_max": _executions(
        None,
        "most visits of a node by one run, including runs in progress; 0 if no run"
        " visited it again",
        counts=True,
    ),
    "run_visits": _runs(_visits, "nodes visited per run, on average"),
    **_latencies(MetricSource.RUNS, "run_latency_", "runs"),
    "llm_calls_per_minute": _llm({"llm_calls"}, "", "model calls per minute"),
    "llm_errors_per_minute": _llm({"llm_errors"}, "", "failed model calls per minute"),
    "llm_tokens_per_minute": _llm(
        _TOKENS, "tokens", "input and output tokens per minute"
    ),
    "llm_cost_per_minute": _llm(_COST, "usd", "US dollars per minute"),
    "llm_cost_per_hour": _llm(_COST, "usd", "US dollars per hour", 3600.0),
    "memory_rss": Metric(
        MetricSource.PROCESSES, None, "resident memory of a process, in bytes", "bytes"
    ),
    "processes_died": Metric(
        MetricSource.PROCESSES, None, "processes that died in the window", counts=True
    ),
    "cpu_percent": Metric(
        MetricSource.PROCESSES,
        None,
        "CPU of a process, in percent of a core",
        "percent",
    ),
    "alerts_refused": Metric(
        MetricSource.RULES,
        None,
        "alerts of a rule beyond `max_alerts_per_rule` in the last evaluation",
    ),
}

# The statistics of custom metrics, and the kinds of metrics that have them.
WAYS: Final[Mapping[str, tuple[Compute, set[Kind]]]] = {
    "avg": (_average, {Kind.OBSERVE}),
    "min": (_minimum, {Kind.OBSERVE}),
    "max": (_maximum, {Kind.OBSERVE}),
    "count": (_count, {Kind.OBSERVE}),
    "p50": (_quantile(0.50), {Kind.OBSERVE}),
    "p90": (_quantile(0.90), {Kind.OBSERVE}),
    "p95": (_quantile(0.95), {Kind.OBSERVE}),
    "p99": (_quantile(0.99), {Kind.OBSERVE}),
    "last": (_last, {Kind.GAUGE}),
    "sum": (_sum, {Kind.OBSERVE, Kind.COUNT}),
    "per_second": (_sum_per(1.0), {Kind.COUNT}),
}


def _custom(name: str, how: str) -> Metric:
    compute, kinds = WAYS[how]
    is_quantile = how.startswith("p") and how[1:].isdigit()
    return Metric(
        MetricSource.CUSTOM,
        compute,
        f"the application's metric {name}: {how}",
        dimensions=_HISTOGRAM if is_quantile else frozenset(),
        kinds=frozenset(kinds),
        names=frozenset({name}),
        counts=how in ("sum", "per_second", "count"),
    )

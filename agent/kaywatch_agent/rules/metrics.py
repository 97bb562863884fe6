"""The metrics that rules are about: nodes, runs, calls of models, your own, and ours.

Each is an array, one value per group of series; NaN where it isn't known.
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
    "VISITS",
    "WAYS",
    "MetricContext",
    "Metric",
    "MetricSource",
    "find",
    "known",
]

Floats = NDArray[np.float64]


class MetricSource(Enum):
    """Where a metric comes from."""

    NODES = "executions of nodes"
    RUNS = "runs of graphs"
    LLM = "calls of models"
    CUSTOM = "custom metrics"
    PROCESSES = "processes"
    RULES = "rules"

    @property
    def aggregated(self) -> bool:
        """Whether its metrics are made from figures of series."""
        return self not in (MetricSource.PROCESSES, MetricSource.RULES)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that its groups can have; custom metrics have others too."""
        return _LABELS[self]


class MetricContext(NamedTuple):
    """What a metric is made from, besides figures.

    Attributes:
        registry: the names of numbers.
        seconds: how long the window is, as far as the agent has seen it.
    """

    registry: Registry
    seconds: float


class Metric(NamedTuple):
    """How one metric is made.

    Attributes:
        source: the series that it is made of.
        of: returns its values, by group.
        help: what it is.
        unit: of its values: ratio, seconds, bytes, percent, usd, tokens or empty.
        facets: what it needs to be told apart.
        names: the custom metrics that are added up for it, if any.
        counts: whether it is known without events: nothing is 0.
        kinds: of the series; all of the source by default.
    """

    source: MetricSource
    of: Callable[[GroupStats, MetricContext], Floats]
    help: str
    unit: str = ""
    facets: frozenset[Dimension] = frozenset()
    names: frozenset[str] = frozenset()
    counts: bool = False
    kinds: frozenset[Kind] = frozenset()


def known(name: str) -> bool:
    """Return whether there is such a metric."""
    return name in METRICS or _CUSTOM.fullmatch(name) is not None


def find(name: str) -> Metric:
    """Return a metric by its name.

    Raises:
        ValueError: there is none; with the nearest.
    """
    if name in METRICS:
        return METRICS[name]
    custom = _CUSTOM.fullmatch(name)
    if custom is None:
        near = difflib.get_close_matches(name, METRICS, 1)
        hint = f"did you mean {near[0]}?" if near else "see docs/alerts.md"
        if name.startswith("custom."):
            hint = f"say what of it: {name}.last, or .{', .'.join(WAYS)}"
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

_OUTCOMES: Final = frozenset({Dimension.OUTCOME})
_ERRORS: Final = frozenset({Dimension.ERROR})
_HISTOGRAM: Final = frozenset({Dimension.HISTOGRAM})

_CUSTOM: Final = re.compile(
    r"custom\.(?P<name>.+)\.(?P<how>avg|min|max|sum|last|count|per_second|p50|p90|p95|p99)"
)


def _ratio(above: NDArray[Any], below: NDArray[Any]) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.where(below > 0, np.true_divide(above, below), np.nan)
    return found


def _known(values: list[float | None]) -> Floats:
    return np.array(values, np.float64)


def _outcome_rate(*outcomes: Outcome) -> Callable[[GroupStats, MetricContext], Floats]:
    def rate(figures: GroupStats, _: MetricContext) -> Floats:
        counts = figures.outcomes()
        finished = figures.executions - counts[:, Outcome.CANCELLED]
        return _ratio(counts[:, list(outcomes)].sum(axis=1), finished)

    return rate


def _success_rate(figures: GroupStats, context: MetricContext) -> Floats:
    return 1.0 - _outcome_rate(Outcome.ERROR)(figures, context)


def _exhausted_rate(figures: GroupStats, context: MetricContext) -> Floats:
    """An error of `exec` is only recorded once all its attempts have failed."""
    count = np.zeros(len(figures))
    errors = context.registry.errors.values
    for group, number, errors_of in figures.counted(Dimension.ERROR):
        if errors[number].phase == Phase.EXEC:
            count[group] += errors_of
    return _ratio(count, figures.executions)


def _quantile(q: float) -> Callable[[GroupStats, MetricContext], Floats]:
    return lambda figures, _: _known(figures.quantiles(q)[0])


def _average(figures: GroupStats, _: MetricContext) -> Floats:
    return _ratio(figures.total, figures.executions)


def _most(figures: GroupStats, _: MetricContext) -> Floats:
    return _known(figures.mosts())


def _least(figures: GroupStats, _: MetricContext) -> Floats:
    return _known(figures.leasts())


def _last(figures: GroupStats, _: MetricContext) -> Floats:
    return _known(figures.lasts())


def _count(figures: GroupStats, _: MetricContext) -> Floats:
    return figures.executions.astype(np.float64)


def _sum(figures: GroupStats, _: MetricContext) -> Floats:
    return figures.total


def _per_second(figures: GroupStats, context: MetricContext) -> Floats:
    return figures.executions / context.seconds


def _sum_per_second(figures: GroupStats, context: MetricContext) -> Floats:
    return figures.total / context.seconds


def _sum_per_minute(figures: GroupStats, context: MetricContext) -> Floats:
    return figures.total * 60.0 / context.seconds


def _retry_rate(figures: GroupStats, _: MetricContext) -> Floats:
    return _ratio(figures.retries(), figures.attempts)


def _retries(figures: GroupStats, _: MetricContext) -> Floats:
    return figures.retries().astype(np.float64)


def _visits(figures: GroupStats, _: MetricContext) -> Floats:
    return _ratio(figures.attempts, figures.executions)


def _latencies(source: MetricSource, prefix: str, what: str) -> dict[str, Metric]:
    found = {
        f"{prefix}avg": Metric(source, _average, f"mean seconds of {what}", "seconds"),
        f"{prefix}max": Metric(source, _most, f"longest {what}, in seconds", "seconds"),
    }
    for percent in (50, 90, 95, 99):
        found[f"{prefix}p{percent}"] = Metric(
            source,
            _quantile(percent / 100),
            f"seconds that {percent} % of {what} stay below",
            "seconds",
            _HISTOGRAM,
        )
    return found


def _llm(names: set[str], unit: str, text: str) -> Metric:
    return Metric(
        MetricSource.LLM,
        _sum_per_minute,
        text,
        unit,
        names=frozenset(names),
        counts=True,
        kinds=frozenset({Kind.COUNT}),
    )


_TOKENS: Final = {"llm_input_tokens", "llm_output_tokens"}

METRICS: Final[Mapping[str, Metric]] = {
    "success_rate": Metric(
        MetricSource.NODES,
        _success_rate,
        "share of executions that did not end in an error",
        "ratio",
        _OUTCOMES,
    ),
    "error_rate": Metric(
        MetricSource.NODES,
        _outcome_rate(Outcome.ERROR),
        "share of executions that ended in an error",
        "ratio",
        _OUTCOMES,
    ),
    "fallback_rate": Metric(
        MetricSource.NODES,
        _outcome_rate(Outcome.FALLBACK),
        "share of executions that exec_fallback answered",
        "ratio",
        _OUTCOMES,
    ),
    "suppressed_rate": Metric(
        MetricSource.NODES,
        _outcome_rate(Outcome.SUPPRESSED),
        "share of executions whose error on_error swallowed",
        "ratio",
        _OUTCOMES,
    ),
    "exhausted_rate": Metric(
        MetricSource.NODES,
        _exhausted_rate,
        "share of executions whose last attempt failed, whatever answered then",
        "ratio",
        _ERRORS,
    ),
    "executions": Metric(
        MetricSource.NODES, _count, "executions in the window", counts=True
    ),
    "throughput": Metric(
        MetricSource.NODES,
        _per_second,
        "executions per second",
        "per_second",
        counts=True,
    ),
    "retries": Metric(
        MetricSource.NODES, _retries, "attempts beyond the first of each execution"
    ),
    "retry_rate": Metric(
        MetricSource.NODES, _retry_rate, "share of attempts that were retries", "ratio"
    ),
    **_latencies(MetricSource.NODES, "latency_", "executions"),
    "runs": Metric(MetricSource.RUNS, _count, "runs in the window", counts=True),
    "run_throughput": Metric(
        MetricSource.RUNS, _per_second, "runs per second", "per_second", counts=True
    ),
    "run_success_rate": Metric(
        MetricSource.RUNS,
        _success_rate,
        "share of runs that no error ended",
        "ratio",
        _OUTCOMES,
    ),
    "run_error_rate": Metric(
        MetricSource.RUNS,
        _outcome_rate(Outcome.ERROR),
        "share of runs that an error ended",
        "ratio",
        _OUTCOMES,
    ),
    "run_visits_max": Metric(
        MetricSource.RUNS,
        _last,
        "nodes visited in the longest run, those under way included",
        counts=True,
    ),
    "node_visits_max": Metric(
        MetricSource.NODES,
        _last,
        "visits of a node in the run that came back to it most, those under way"
        " included; 0 where none came back",
        counts=True,
    ),
    "run_visits": Metric(
        MetricSource.RUNS, _visits, "nodes visited per run, on average"
    ),
    **_latencies(MetricSource.RUNS, "run_latency_", "runs"),
    "llm_calls_per_minute": _llm({"llm_calls"}, "", "calls of models per minute"),
    "llm_errors_per_minute": _llm({"llm_errors"}, "", "failed calls per minute"),
    "llm_tokens_per_minute": _llm(_TOKENS, "tokens", "tokens in and out per minute"),
    "llm_cost_per_minute": _llm({"llm_cost_usd"}, "usd", "US dollars per minute"),
    "llm_cost_per_hour": _llm({"llm_cost_usd"}, "usd", "US dollars per hour")._replace(
        of=lambda figures, context: 60.0 * _sum_per_minute(figures, context)
    ),
    "memory_rss": Metric(
        MetricSource.PROCESSES, _last, "resident memory of a process, in bytes", "bytes"
    ),
    "processes_died": Metric(
        MetricSource.PROCESSES,
        _last,
        "processes that died in the window, without a goodbye",
        counts=True,
    ),
    "cpu_percent": Metric(
        MetricSource.PROCESSES,
        _last,
        "CPU of a process, in percent of a core",
        "percent",
    ),
    "alerts_refused": Metric(
        MetricSource.RULES,
        _last,
        "alerts of a rule beyond `max_instances_per_rule`, at the last evaluation",
    ),
}

# Of single runs, which no figures have.
VISITS: Final = frozenset({"node_visits_max", "run_visits_max"})

WAYS: Final[
    Mapping[str, tuple[Callable[[GroupStats, MetricContext], Floats], set[Kind]]]
] = {
    "avg": (_average, {Kind.OBSERVE}),
    "min": (_least, {Kind.OBSERVE}),
    "max": (_most, {Kind.OBSERVE}),
    "count": (_count, {Kind.OBSERVE}),
    "p50": (_quantile(0.50), {Kind.OBSERVE}),
    "p90": (_quantile(0.90), {Kind.OBSERVE}),
    "p95": (_quantile(0.95), {Kind.OBSERVE}),
    "p99": (_quantile(0.99), {Kind.OBSERVE}),
    "last": (_last, {Kind.GAUGE}),
    "sum": (_sum, {Kind.OBSERVE, Kind.COUNT}),
    "per_second": (_sum_per_second, {Kind.COUNT}),
}


def _custom(name: str, how: str) -> Metric:
    of, kinds = WAYS[how]
    return Metric(
        MetricSource.CUSTOM,
        of,
        f"the application's own metric {name}: {how}",
        facets=_HISTOGRAM if how.startswith("p") and how[1:].isdigit() else frozenset(),
        names=frozenset({name}),
        counts=how in ("sum", "per_second", "count"),
        kinds=frozenset(kinds),
    )

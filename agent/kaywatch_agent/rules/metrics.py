"""The metrics of rules: of nodes, runs, model calls, processes, rules and applications.

A metric is computed for all groups of series at once, as an array with one value per
group; NaN where the value is unknown.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.model.series import Kind
from kaywatch_agent.rules import formulas
from kaywatch_agent.rules.formulas import Compute

__all__ = [
    "METRICS",
    "WAYS",
    "NODE_LABELS",
    "Metric",
    "MetricSource",
    "find",
    "is_known",
]


class MetricSource(Enum):
    """The kind of series from which a metric is computed."""

    NODES = "executions of nodes"
    RUNS = "runs of graphs"
    LLM = "calls of models"
    CUSTOM = "custom metrics"
    PROCESSES = "processes"
    RULES = "rules"
    EXPORTS = "exports"

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that its groups can have; custom metrics have others as well."""
        return _LABELS[self]


class Metric(NamedTuple):
    """How a metric is computed.

    Attributes:
        source: the data that it is computed from.
        compute: returns its values by group; None for a metric that buckets don't
            contain, see `live_values`.
        help: a description.
        unit: ratio, seconds, bytes, percent, usd, tokens, runs, per_second or empty.
        dimensions: the dimensions that `compute` needs.
        kinds: the kinds of its series.
        names: the custom metrics that it sums up; empty for others.
        counts: whether it is 0 rather than unknown when nothing happened.
        of_finished: whether it leaves out cancelled executions.
    """

    source: MetricSource
    compute: Compute | None
    help: str
    unit: str = ""
    dimensions: frozenset[Dimension] = frozenset()
    kinds: frozenset[Kind] = frozenset()
    names: frozenset[str] = frozenset()
    counts: bool = False
    of_finished: bool = False


def is_known(name: str) -> bool:
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

NODE_LABELS: Final = ("service", "graph", "node")

_LABELS: Final[Mapping[MetricSource, tuple[str, ...]]] = {
    MetricSource.NODES: NODE_LABELS,
    MetricSource.RUNS: ("service", "graph"),
    MetricSource.LLM: ("service", "graph", "node", "model"),
    MetricSource.CUSTOM: ("service", "graph", "node"),
    MetricSource.PROCESSES: ("service", "host", "pid"),
    MetricSource.RULES: ("rule",),
    MetricSource.EXPORTS: ("server",),
}

_KINDS: Final = {
    MetricSource.NODES: frozenset({Kind.NODE}),
    MetricSource.RUNS: frozenset({Kind.RUN}),
}

_OUTCOMES: Final = frozenset({Dimension.OUTCOME})
_ERRORS: Final = frozenset({Dimension.ERROR, Dimension.OUTCOME})
_HISTOGRAM: Final = frozenset({Dimension.HISTOGRAM})

_CUSTOM: Final = re.compile(
    r"custom\.(?P<name>.+)\.(?P<how>avg|min|max|sum|last|count|per_second|p50|p90|p95|p99)"
)


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
    return Metric(
        source,
        compute,
        help_,
        unit,
        dimensions,
        _KINDS[source],
        counts=counts,
        of_finished=unit == "ratio" and bool(dimensions & {*_OUTCOMES, *_ERRORS}),
    )


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
            formulas.quantile(percent / 100),
            f"seconds that {percent} % of {what} stay below",
            _HISTOGRAM,
        )
        for percent in (50, 90, 95, 99)
    }
    return {
        f"{prefix}avg": latency(formulas.average, f"mean seconds of {what}"),
        f"{prefix}max": latency(formulas.maximum, f"longest {what}, in seconds"),
        **percentiles,
    }


def _llm(names: set[str], unit: str, help_: str, seconds: float = 60.0) -> Metric:
    return Metric(
        MetricSource.LLM,
        formulas.total_per(seconds),
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
        formulas.success_rate,
        "share of executions that did not fail",
        "ratio",
        _OUTCOMES,
    ),
    "error_rate": _executions(
        formulas.outcome_rate(Outcome.ERROR),
        "share of executions that failed",
        "ratio",
        _OUTCOMES,
    ),
    "fallback_rate": _executions(
        formulas.outcome_rate(Outcome.FALLBACK),
        "share of executions that `exec_fallback` answered",
        "ratio",
        _OUTCOMES,
    ),
    "suppressed_rate": _executions(
        formulas.outcome_rate(Outcome.SUPPRESSED),
        "share of executions whose error `on_error` suppressed",
        "ratio",
        _OUTCOMES,
    ),
    "exhausted_rate": _executions(
        formulas.exhausted_rate,
        "share of executions whose last attempt failed, even if a fallback answered",
        "ratio",
        _ERRORS,
    ),
    "masked_rate": _executions(
        formulas.masked_rate,
        "share of attempts that failed and were hidden by a retry, a fallback or"
        " `on_error`",
        "ratio",
        _OUTCOMES,
    ),
    "dead_ends": _executions(
        None,
        "runs that ended after the node, at an action without an edge",
        "runs",
        counts=True,
    ),
    "unreached_runs": _executions(
        None,
        "runs within a day of a graph that has never reached the node",
        "runs",
        counts=True,
    ),
    "executions": _executions(
        formulas.executions, "executions in the window", counts=True
    ),
    "throughput": _executions(
        formulas.per_second, "executions per second", "per_second", counts=True
    ),
    "retries": _executions(
        formulas.retries, "attempts beyond the first of each execution"
    ),
    "retry_rate": _executions(
        formulas.retry_rate, "share of attempts that were retries", "ratio"
    ),
    **_latencies(MetricSource.NODES, "latency_", "executions"),
    "latency_over_usual": _executions(
        None,
        "mean seconds, relative to those in the same hours of yesterday or of a week"
        " ago, whichever took longer; with fewer than 100 executions then, to those in"
        " the 24 hours before, or else in the hour before; 0 below 100 ms, unknown with"
        " fewer than 100 executions in all of these",
    ),
    "action_drift": _executions(
        None,
        "how far the share of an action is from the node's own past, in standard"
        " deviations of its hours; 0 within 10 points, unknown before 24 hours of at"
        " least 20 executions, older than a day",
    ),
    "runs": _runs(formulas.executions, "runs in the window", counts=True),
    "run_throughput": _runs(
        formulas.per_second, "runs per second", "per_second", counts=True
    ),
    "run_success_rate": _runs(
        formulas.success_rate, "share of runs that did not fail", "ratio", _OUTCOMES
    ),
    "run_error_rate": _runs(
        formulas.outcome_rate(Outcome.ERROR),
        "share of runs that failed",
        "ratio",
        _OUTCOMES,
    ),
    "missing_runs": _runs(
        None,
        "runs that the same hours of yesterday and of a week ago let expect since the"
        " last run; 0 for five minutes, and after an orderly end of all processes",
        counts=True,
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
    "visits_over_usual": _executions(
        None,
        "most visits of a node by one run, relative to the most by one run within the"
        " week before, at least 10; to 100 before 20 runs of the graph have ended",
        counts=True,
    ),
    "runaway_factor": _executions(
        None,
        "the same, or one and a half times the visits since the run in progress last"
        " reached a new node, relative to as many",
        counts=True,
    ),
    "run_visits": _runs(formulas.visits, "nodes visited per run, on average"),
    **_latencies(MetricSource.RUNS, "run_latency_", "runs"),
    "cost_over_usual": _runs(
        None,
        "cost of models per run, relative to the same hours of a week ago; 0 below 1"
        " cent, unknown below 20 runs then",
    ),
    "llm_calls_per_minute": _llm({"llm_calls"}, "", "model calls per minute"),
    "llm_errors_per_minute": _llm({"llm_errors"}, "", "failed model calls per minute"),
    "llm_tokens_per_minute": _llm(
        _TOKENS, "tokens", "input and output tokens per minute"
    ),
    "llm_cost_per_minute": _llm(_COST, "usd", "US dollars per minute"),
    "llm_cost_per_hour": _llm(_COST, "usd", "US dollars per hour", 3600.0),
    "llm_wasted_share": Metric(
        MetricSource.LLM,
        None,
        "share of the cost that was spent on failed attempts; 0 below 1 cent, unknown"
        " below 20 calls",
        "ratio",
    ),
    "memory_rss": Metric(
        MetricSource.PROCESSES, None, "resident memory of a process, in bytes", "bytes"
    ),
    "processes_died": Metric(
        MetricSource.PROCESSES,
        None,
        "processes that died in the window, or earlier and have no successor",
        counts=True,
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
    "export_rejected": Metric(
        MetricSource.EXPORTS,
        None,
        "series of the last snapshot that a server of `[export]` rejected",
    ),
}

# The statistics of custom metrics, and the kinds of metrics that have them.
WAYS: Final[Mapping[str, tuple[Compute, set[Kind]]]] = {
    "avg": (formulas.average, {Kind.OBSERVE}),
    "min": (formulas.minimum, {Kind.OBSERVE}),
    "max": (formulas.maximum, {Kind.OBSERVE}),
    "count": (formulas.executions, {Kind.OBSERVE}),
    "p50": (formulas.quantile(0.50), {Kind.OBSERVE}),
    "p90": (formulas.quantile(0.90), {Kind.OBSERVE}),
    "p95": (formulas.quantile(0.95), {Kind.OBSERVE}),
    "p99": (formulas.quantile(0.99), {Kind.OBSERVE}),
    "last": (formulas.last, {Kind.GAUGE}),
    "sum": (formulas.total, {Kind.OBSERVE, Kind.COUNT}),
    "per_second": (formulas.total_per(1.0), {Kind.COUNT}),
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

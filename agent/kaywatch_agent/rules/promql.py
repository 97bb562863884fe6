"""Converts the metrics and comparisons of rules to PromQL, if it can express them.

Strategy: one table from the names of metrics to expressions over the counters on
`/metrics`. `increase` would extrapolate, so counts subtract the value at the start of
the window from the value at its end; a series that is younger began at zero.

Three-valued logic carries over: an unknown value is no sample in PromQL, so that a
comparison with it selects nothing. A negation is therefore moved into the comparisons.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from kaywatch_agent.rules.expression import AllOf, AnyOf, Compare, Not, Predicate
from kaywatch_agent.rules.graph_values import MIN_CALLS, MIN_WASTE
from kaywatch_agent.rules.matchers import Matcher
from kaywatch_agent.rules.metrics import METRICS, MetricSource, find

__all__ = [
    "CLASSIC_BOUNDS",
    "HISTORY",
    "IN_PROGRESS",
    "Histograms",
    "InexpressibleError",
    "Scope",
    "compare",
    "promql_duration",
    "promql_number",
    "slow_executions",
    "with_minimum",
]

Histograms = Literal["native", "classic"]

# The upper bounds of classic histograms on /metrics.
CLASSIC_BOUNDS: Final = tuple(2.0**exponent for exponent in range(-10, 10))

# Floats beyond are not exact as integers.
MAX_WHOLE: Final = 2**53

# The reasons why a metric has no expression.
IN_PROGRESS: Final = "it looks at runs in progress, which are not exported"
CLIENTS: Final = "it looks at the states of clients, which are not exported"
HISTORY: Final = "it compares with what the agent has learned from stored history"
ITSELF: Final = (
    "it is about the agent itself; deploy/prometheus/rules.yml has rules for agents"
)
EXTREME: Final = "the longest or shortest of a window is not exported"
LATEST: Final = "Prometheus does not know which of several series has the latest value"

_REASONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            *("run_visits_max", "node_visits_max"),
            *("visits_over_usual", "runaway_factor"),
        ),
        IN_PROGRESS,
    ),
    **dict.fromkeys(("memory_rss", "cpu_percent", "processes_died"), CLIENTS),
    **dict.fromkeys(
        ("latency_over_usual", "action_drift", "missing_runs", "cost_over_usual"),
        HISTORY,
    ),
    "unreached_runs": "it looks at the nodes of graphs, which are not exported",
    "run_visits": "the number of nodes that a run visits is not exported",
    **dict.fromkeys(("alerts_refused", "export_rejected"), ITSELF),
    **dict.fromkeys(("latency_max", "run_latency_max"), EXTREME),
}
_WAYS: Final[Mapping[str, str]] = {
    "last": LATEST,
    **dict.fromkeys(("min", "max"), EXTREME),
}
_QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}

# Labels that every series has under the same name, on /metrics and in rules.
_SHARED_LABELS: Final = frozenset({"service", "graph", "node", "model"})
# Labels of a user with these names are renamed, on /metrics or by Prometheus.
_RENAMED: Final = frozenset({"metric", "le", "quantile", "job", "instance", "epoch"})
_LABEL: Final = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*")

_OPPOSITE: Final = {
    "<": ">=",
    "<=": ">",
    ">": "<=",
    ">=": "<",
    "==": "!=",
    "!=": "==",
}


class InexpressibleError(ValueError):
    """A rule has no equivalent in Prometheus; the message is the reason."""


@dataclass(frozen=True)
class Scope:
    """The series and the window of an expression.

    Attributes:
        per: there is one result for each combination of these labels.
        match: the series that are included.
        window: in seconds.
        histograms: which histograms the server stores.
    """

    per: tuple[str, ...]
    match: tuple[Matcher, ...]
    window: float
    histograms: Histograms = "native"

    def sum(self, family: str, *matchers: str) -> str:
        """Return by how much a counter has grown in the window, by group."""
        series = self.select(family, *matchers)
        return self._sum(lambda offset: series + offset, self.per)

    def histogram(self, part: str, family: str, *matchers: str) -> str:
        """Return by how much the `count` or the `sum` of a histogram has grown."""
        if self.histograms == "classic":
            return self.sum(f"{family}_{part}", *matchers)
        series = self.select(family, *matchers)
        return self._sum(lambda offset: f"histogram_{part}({series}{offset})", self.per)

    def quantile(self, q: float, family: str, *matchers: str) -> str:
        """Return a quantile of a histogram in the window, by group."""
        if self.histograms == "native":
            return f"histogram_quantile({q:g}, {self.rate(family, *matchers)})"
        buckets = self.select(f"{family}_bucket", *matchers)
        total = self._sum(lambda offset: buckets + offset, (*self.per, "le"))
        return f"histogram_quantile({q:g}, {total})"

    def rate(self, family: str, *matchers: str) -> str:
        """Return the native histogram of a second of the window, by group."""
        series = self.select(family, *matchers)
        return f"{_by(self.per)}(rate({series}[{promql_duration(self.window)}]))"

    def select(self, family: str, *matchers: str) -> str:
        """Return the selector of a family's series."""
        for name in (*self.per, *(matcher.name for matcher in self.match)):
            _check_label(name)
        inner = ",".join((*matchers, *map(_format_matcher, self.match)))
        return f"{family}{{{inner}}}" if inner else family

    def _sum(self, at: Callable[[str], str], per: Sequence[str]) -> str:
        now = at("")
        before = at(f" offset {promql_duration(self.window)}")
        return f"{_by(per)}({now} - ({before} or {now} * 0))"


def compare(predicate: Predicate, scope: Scope, *, negated: bool = False) -> str:
    """Return the groups for which a predicate is true, or false if `negated`.

    Raises:
        InexpressibleError: Prometheus has no such metric.
    """
    match predicate:
        case Not(part):
            return compare(part, scope, negated=not negated)
        case Compare(metric, op, value):
            return _compare(metric, _OPPOSITE[op] if negated else op, value, scope)
        case AllOf(parts) | AnyOf(parts):
            is_all = isinstance(predicate, AllOf) is not negated
            texts = [compare(part, scope, negated=negated) for part in parts]
            joined = (" and " if is_all else " or ").join(texts)
            return f"({joined})"


def with_minimum(metrics: Sequence[str], least: int, scope: Scope) -> str:
    """Return the groups with enough executions behind the values of metrics.

    Raises:
        InexpressibleError: the metrics count different things.
    """
    counts = []
    for name in metrics:
        metric = find(name)
        if metric.source not in _PREFIXES:
            raise InexpressibleError(
                f"min_executions does not count the {metric.source.value} of {name}"
            )
        counted = _finished if metric.of_finished else _executions
        counts.append(f"{counted(scope, _PREFIXES[metric.source])} >= {least}")
    texts = list(dict.fromkeys(counts))
    return texts[0] if len(texts) == 1 else f"({' or '.join(texts)})"


def slow_executions(scope: Scope, seconds: float) -> str:
    """Return how many executions of nodes took longer than some seconds, by group.

    Raises:
        InexpressibleError: no classic bucket ends there.
    """
    family, total = "kaygraph_node_duration_seconds", _executions(scope, _NODES)
    if scope.histograms == "native":
        fast = f"histogram_fraction(0, {promql_number(seconds)}, {scope.rate(family)})"
        return f"(1 - {fast}) * {total}"
    if seconds not in CLASSIC_BOUNDS:
        raise InexpressibleError(
            f"no classic bucket ends at {promql_number(seconds)} s; choose a power of"
            " two, or native histograms"
        )
    # Prometheus writes whole numbers with or without a fraction, by version and format.
    bound = f'le=~"{promql_number(seconds)}|{seconds!r}"'
    return f"({total} - {scope.sum(f'{family}_bucket', bound)})"


def promql_duration(seconds: float) -> str:
    """Return such as `1h30m`; Prometheus has no fractions."""
    rest, parts = round(seconds * 1000), []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def promql_number(value: float) -> str:
    """Return a finite number; a whole one without fraction."""
    whole = float(value).is_integer() and abs(value) < MAX_WHOLE
    return str(int(value)) if whole else repr(float(value))


# -- inside --------------------------------------------------------------------------

_NODES, _RUNS = "kaygraph_node", "kaygraph_graph"
_PREFIXES: Final = {MetricSource.NODES: _NODES, MetricSource.RUNS: _RUNS}

_FINISHED: Final = 'outcome!="cancelled"'


def _format_matcher(matcher: Matcher) -> str:
    op = ("=~" if matcher.is_equal else "!~") if matcher.is_regex else "="
    if not matcher.is_equal and not matcher.is_regex:
        op = "!="
    # The escapes of JSON are escapes of PromQL as well.
    return f"{matcher.name}{op}{json.dumps(matcher.value, ensure_ascii=False)}"


def _by(per: Sequence[str]) -> str:
    return f"sum by ({', '.join(per)}) " if per else "sum"


def _check_label(name: str) -> None:
    is_own = name in _RENAMED or not _LABEL.fullmatch(name)
    if name not in _SHARED_LABELS and is_own:
        raise InexpressibleError(f'the label "{name}" has another name in Prometheus')


def _compare(name: str, op: str, value: float, scope: Scope) -> str:
    # A sample is missing rather than 0 for what has never happened.
    if name in _SPARSE and (op in ("<", "<=") or (op == "==" and value == 0)):
        raise InexpressibleError(f"{name} has no samples while it is 0")
    text = _value(name, scope)
    if op == "!=":
        # NaN differs from every number in PromQL; here it is unknown.
        number = promql_number(value)
        return f"({text} < {number} or {text} > {number})"
    return f"{text} {op} {promql_number(value)}"


def _value(name: str, scope: Scope) -> str:
    if name in _EXPRESSIONS:
        return _EXPRESSIONS[name](scope)
    if name in METRICS:
        raise InexpressibleError(_REASONS[name])
    metric, how = name.removeprefix("custom.").rsplit(".", 1)
    if how in _WAYS:
        raise InexpressibleError(_WAYS[how])
    return _custom(scope, metric, how)


def _custom(scope: Scope, name: str, how: str) -> str:
    metric, observed = _format_matcher(Matcher("metric", name)), "kaygraph_observation"
    if how in _QUANTILES:
        if scope.histograms == "classic":
            raise InexpressibleError("classic histograms lack custom metrics")
        return scope.quantile(_QUANTILES[how], observed, metric)
    if how == "count":
        return scope.histogram("count", observed, metric)
    total = scope.histogram("sum", observed, metric)
    if how == "avg":
        return f"{total} / {scope.histogram('count', observed, metric)}"
    counted = scope.sum("kaygraph_count_total", metric)
    if how == "per_second":
        return f"{counted} / {promql_number(scope.window)}"
    # Of counts or of observations: a name usually has one of the two.
    return _plus(counted, total)


def _plus(one: str, other: str) -> str:
    """Return a sum of which either side may have no sample."""
    return f"({one} + {other} or {one} or {other})"


def _executions(scope: Scope, prefix: str) -> str:
    return scope.sum(f"{prefix}_executions_total")


def _finished(scope: Scope, prefix: str) -> str:
    return scope.sum(f"{prefix}_outcomes_total", _FINISHED)


def _outcomes(matcher: str, prefix: str = _NODES) -> Callable[[Scope], str]:
    """Return the share of finished executions whose outcome matches."""
    return lambda scope: (
        f"{scope.sum(f'{prefix}_outcomes_total', matcher)} / {_finished(scope, prefix)}"
    )


def _per_second(prefix: str) -> Callable[[Scope], str]:
    return lambda scope: f"{_executions(scope, prefix)} / {promql_number(scope.window)}"


def _retries(scope: Scope) -> str:
    return scope.sum("kaygraph_node_retries_total")


def _attempts(scope: Scope) -> str:
    return f"({_executions(scope, _NODES)} + {_retries(scope)})"


def _masked(scope: Scope) -> str:
    hidden = 'outcome=~"fallback|suppressed"'
    failed = f"{_retries(scope)} + {scope.sum('kaygraph_node_outcomes_total', hidden)}"
    return f"({failed}) / {_attempts(scope)}"


def _exhausted(scope: Scope) -> str:
    failed = scope.sum("kaygraph_errors_total", 'phase="exec"')
    return f"{failed} / {_finished(scope, _NODES)}"


def _average(prefix: str) -> Callable[[Scope], str]:
    family = f"{prefix}_duration_seconds"

    return lambda scope: (
        f"{scope.histogram('sum', family)} / {_executions(scope, prefix)}"
    )


def _quantile(percent: int, prefix: str) -> Callable[[Scope], str]:
    return lambda scope: scope.quantile(percent / 100, f"{prefix}_duration_seconds")


def _dead_ends(scope: Scope) -> str:
    return scope.sum("kaygraph_graph_ends_total", 'reason="unmatched_action"')


def _llm(*counts: str, seconds: float = 60.0) -> Callable[[Scope], str]:
    def per(scope: Scope) -> str:
        total, *others = [scope.sum(f"kaygraph_{count}_total") for count in counts]
        for other in others:
            total = _plus(total, other)
        return f"{total} * {promql_number(seconds)} / {promql_number(scope.window)}"

    return per


def _wasted_share(scope: Scope) -> str:
    wasted = scope.sum("kaygraph_llm_wasted_cost_usd_total")
    cost = scope.sum("kaygraph_llm_cost_usd_total")
    calls = scope.sum("kaygraph_llm_calls_total")
    return (
        f"({wasted} / {cost} * ({wasted} >= bool {MIN_WASTE!r})"
        f" and {calls} >= {promql_number(MIN_CALLS)})"
    )


_EXPRESSIONS: Final[Mapping[str, Callable[[Scope], str]]] = {
    # Quotients of counts, as in `formulas.success_rate`.
    "success_rate": _outcomes('outcome!~"error|cancelled"'),
    "error_rate": _outcomes('outcome="error"'),
    "fallback_rate": _outcomes('outcome="fallback"'),
    "suppressed_rate": _outcomes('outcome="suppressed"'),
    "exhausted_rate": _exhausted,
    "masked_rate": _masked,
    "dead_ends": _dead_ends,
    "executions": lambda scope: _executions(scope, _NODES),
    "throughput": _per_second(_NODES),
    "retries": _retries,
    "retry_rate": lambda scope: f"{_retries(scope)} / {_attempts(scope)}",
    "latency_avg": _average(_NODES),
    **{f"latency_p{q}": _quantile(q, _NODES) for q in (50, 90, 95, 99)},
    "runs": lambda scope: _executions(scope, _RUNS),
    "run_throughput": _per_second(_RUNS),
    "run_success_rate": _outcomes('outcome!~"error|cancelled"', _RUNS),
    "run_error_rate": _outcomes('outcome="error"', _RUNS),
    "run_latency_avg": _average(_RUNS),
    **{f"run_latency_p{q}": _quantile(q, _RUNS) for q in (50, 90, 95, 99)},
    "llm_calls_per_minute": _llm("llm_calls"),
    "llm_errors_per_minute": _llm("llm_errors"),
    "llm_tokens_per_minute": _llm("llm_input_tokens", "llm_output_tokens"),
    "llm_cost_per_minute": _llm("llm_cost_usd"),
    "llm_cost_per_hour": _llm("llm_cost_usd", seconds=3600.0),
    "llm_wasted_share": _wasted_share,
}

_SPARSE: Final = frozenset({"dead_ends", "exhausted_rate", "llm_wasted_share"})

"""The families on /metrics: names, types, labels, and where their values come from.

All values are totals since first seen, so that no counter ever decreases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.model.series import Kind, SeriesKey
from kaywatch_agent.web.prometheus.agent_families import (
    write_alerts,
    write_completeness,
)
from kaywatch_agent.web.prometheus.exposition import (
    Exposition,
    escape,
    format_labels,
    format_number,
    label_names,
    samples,
)
from kaywatch_agent.web.snapshot import AgentSnapshot, Window

__all__ = ["LLM_COUNTS", "write"]

# 1 ms to 512 s. Powers of two are bounds of our own buckets: counts are exact.
EXPONENTS: Final = np.arange(-10, 10)

LLM_COUNTS: Final = {
    "llm_calls": "Calls of language models, including failed ones.",
    "llm_errors": "Calls of language models that failed.",
    "llm_rate_limited": "Requests to language models answered with status 429.",
    "llm_input_tokens": "Tokens sent to language models, including cached ones.",
    "llm_output_tokens": "Tokens received from language models.",
    "llm_cached_tokens": "Tokens sent that came from the provider's cache.",
    "llm_cost_usd": "The cost of calls of language models, in US dollars.",
    "llm_wasted_input_tokens": "Tokens sent by attempts that failed.",
    "llm_wasted_output_tokens": "Tokens received by attempts that failed.",
    "llm_wasted_cost_usd": "The cost of calls by attempts that failed, in US dollars.",
    "llm_unpriced_calls": "Calls whose price is unknown.",
    "llm_calls_without_usage": "Calls whose tokens are not all known.",
}
# Stands for the labels of a group in the lines of a `_Template`.
LABELS: Final = "\0"

# The client's metric, the family, and its help text.
LLM_DURATIONS: Final = (
    ("llm_seconds", "kaygraph_llm_duration_seconds", "The duration of LLM calls."),
    (
        "llm_first_token_seconds",
        "kaygraph_llm_first_token_seconds",
        "The time until the first token of a stream.",
    ),
)
LLM_RUN_COST: Final = "llm_run_cost_usd"
LLM_RUN_TOKENS: Final = "llm_run_tokens"

# Metrics with families of their own.
_LLM_METRICS: Final = {
    Kind.COUNT: frozenset(LLM_COUNTS),
    Kind.OBSERVE: frozenset(
        {*(metric for metric, _, _ in LLM_DURATIONS), LLM_RUN_COST, LLM_RUN_TOKENS}
    ),
}
_LLM_LABELS: Final = {"llm_errors": ("model", "type", "status")}


def write(snapshot: AgentSnapshot, exposition: Exposition) -> None:
    """Write all families."""
    _write_nodes(snapshot, exposition)
    _write_graphs(snapshot, exposition)
    _write_llm(snapshot, exposition)
    _write_custom(snapshot, exposition)
    write_completeness(Window(snapshot, None).completeness, exposition)
    write_alerts(snapshot, exposition)
    for metric, values in snapshot.own_metrics:
        lines = samples(metric.name, values, metric.label_names)
        exposition.family(metric.name, metric.type, metric.help, lines)


class _Template:
    """The lines of one group: its labels and a value in each.

    Formatting a group of 23 lines takes a quarter of the time of `str.format`, which
    parses the template each time.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        """Prepare lines.

        Args:
            lines: each with `LABELS` and then `%s`, for the value.
        """
        self._parts = "\n".join(lines).split(LABELS)

    def format(self, labels: str, values: Sequence[object]) -> str:
        """Return the lines with the labels of a group, and one value for each line."""
        return labels.replace("%", "%%").join(self._parts) % (*values,)


class _Families(NamedTuple):
    """Writes families of some series.

    Attributes:
        exposition: where to write.
        stats: the statistics of the series, by group.
        labels: the formatted labels of each group.
    """

    exposition: Exposition
    stats: GroupStats
    labels: list[str]

    def counter(self, name: str, help: str, values: Iterable[object]) -> None:
        """Write a counter with one value per group; None leaves the group out."""
        self._write(name, "counter", help, values)

    def gauge(self, name: str, help: str, values: Iterable[float | None]) -> None:
        """Write a gauge with one value per group; None and NaN leave the group out."""
        self._write(name, "gauge", help, _format_values(values))

    def split(
        self, name: str, help: str, label: str, columns: Mapping[str, Iterable[object]]
    ) -> None:
        """Write a counter with a column for each value of `label`.

        A group with a None in any column is left out.
        """
        template = _Template(
            f'{name}{{{LABELS},{label}="{value}"}} %s' for value in columns
        )
        lines = (
            template.format(labels, values)
            for labels, *values in zip(self.labels, *columns.values(), strict=True)
            if None not in values
        )
        self.exposition.family(name, "counter", help, lines)

    def counted(
        self, name: str, help: str, dimension: Dimension, label: Callable[[int], str]
    ) -> None:
        """Write a counter of a dimension; `label` formats the labels of a number."""
        formatted = cache(label)
        lines = (
            f"{name}{{{self.labels[group]},{formatted(fact)}}} {count}"
            for group, fact, count in self.stats.counted(dimension)
        )
        self.exposition.family(name, "counter", help, lines)

    def histogram(self, name: str, help: str) -> None:
        """Write the distribution of the values."""
        bounds = [repr(2.0**exponent) for exponent in EXPONENTS.tolist()]
        # Prometheus stores le="1" and le="1.0" as different series, and OpenMetrics
        # needs the latter: both formats have it, so that no series changes with them.
        template = _Template(
            [f'{name}_bucket{{{LABELS},le="{bound}"}} %s' for bound in bounds]
            + [
                f'{name}_bucket{{{LABELS},le="+Inf"}} %s',
                f"{name}_count{{{LABELS}}} %s",
                f"{name}_sum{{{LABELS}}} %s",
            ]
        )
        stats = self.stats
        lines = (
            template.format(labels, (*below, count, count, total))
            for labels, count, total, below in zip(
                self.labels,
                stats.executions.tolist(),
                _format_values(stats.total.tolist()),
                zip(*stats.counts_at_most(np.exp2(EXPONENTS)).T.tolist(), strict=True),
                strict=True,
            )
            if total is not None
        )
        self.exposition.family(name, "histogram", help, lines)

    def summary(self, name: str, help: str) -> None:
        """Write the count and the sum of the values.

        A sum of values that may be negative can decrease, which neither a counter nor
        the sum of a summary may (OpenMetrics 1.0, "Summary"): it is left out.
        """
        lines = (
            f"{name}_count{{{labels}}} {count}"
            + (f"\n{name}_sum{{{labels}}} {total}" if (least or 0) >= 0 else "")
            for labels, count, total, least in zip(
                self.labels,
                self.stats.executions.tolist(),
                _format_values(self.stats.total.tolist()),
                self.stats.leasts(),
                strict=True,
            )
            if total is not None
        )
        self.exposition.family(name, "summary", help, lines)

    def durations(self, prefix: str, what: str) -> None:
        """Write the families that nodes and graphs have in common."""
        stats = self.stats
        counts = stats.executions.tolist()
        self.counter(f"{prefix}_executions_total", f"{what}.", counts)
        self.gauge(
            f"{prefix}_success_rate",
            f"{what}: the share that did not fail, without cancelled ones.",
            stats.success_rates(),
        )
        help = f"{what}: their average duration."
        self.gauge(f"{prefix}_avg_duration_seconds", help, stats.averages())
        self.histogram(f"{prefix}_duration_seconds", f"{what}: their duration.")

    def _write(self, name: str, type: str, help: str, values: Iterable[object]) -> None:
        lines = (
            f"{name}{{{labels}}} {value}"
            for labels, value in zip(self.labels, values, strict=True)
            if value is not None
        )
        self.exposition.family(name, type, help, lines)


def _families(
    snapshot: AgentSnapshot,
    exposition: Exposition,
    kind: Kind,
    label: Callable[[SeriesKey], str | None],
) -> _Families:
    groups = snapshot.groups([kind], label)
    stats = Window(snapshot, None).stats(groups)
    return _Families(exposition, stats, groups.names)


def _write_nodes(snapshot: AgentSnapshot, exposition: Exposition) -> None:
    families = _families(snapshot, exposition, Kind.NODE, _node_labels)
    stats = families.stats
    families.durations("kaygraph_node", "Executions of a node")
    families.counter(
        "kaygraph_node_retries_total",
        "Attempts beyond the first of each execution.",
        stats.retries().tolist(),
    )
    outcomes = [outcome.name.lower() for outcome in Outcome]
    families.split(
        "kaygraph_node_outcomes_total",
        "Executions of a node by outcome.",
        "outcome",
        dict(zip(outcomes, stats.outcomes().T.tolist(), strict=True)),
    )
    _write_phases(families)
    families.gauge(
        "kaygraph_node_last_execution_timestamp_seconds",
        "The end of the latest execution, Unix time.",
        np.where(stats.executions > 0, stats.last_time, np.nan).tolist(),
    )
    _write_node_events(snapshot, families)


def _write_phases(families: _Families) -> None:
    phases = families.stats.phases()
    has_phases = phases.executions > 0
    families.split(
        "kaygraph_node_phase_seconds_total",
        "The time of executions by phase; wait is between attempts.",
        "phase",
        {
            name: _format_values(
                np.where(has_phases, getattr(phases, name), np.nan).tolist()
            )
            for name in ("prep", "exec", "wait", "post")
        },
    )
    families.counter(
        "kaygraph_node_items_total",
        "Items that a batch node processed.",
        [count or None for count in phases.items.tolist()],
    )


def _write_node_events(snapshot: AgentSnapshot, families: _Families) -> None:
    actions = snapshot.view.registry.actions.values
    errors = snapshot.view.registry.errors.values
    families.counted(
        "kaygraph_transitions_total",
        "Executions of a node by the action that they returned.",
        Dimension.ACTION,
        lambda number: format_labels([("action", actions[number])]),
    )
    families.counted(
        "kaygraph_errors_total",
        "Executions with an exception, including suppressed ones and fallbacks.",
        Dimension.ERROR,
        lambda number: format_labels(
            [("type", errors[number].type), ("phase", errors[number].phase)]
        ),
    )


def _write_graphs(snapshot: AgentSnapshot, exposition: Exposition) -> None:
    ends = snapshot.view.registry.ends.values
    families = _families(snapshot, exposition, Kind.RUN, _graph_labels)
    families.durations("kaygraph_graph", "Ended runs of a graph")
    families.counted(
        "kaygraph_graph_ends_total",
        "Ended runs of a graph by reason, last node and last action.",
        Dimension.ACTION,
        lambda number: format_labels(ends[number]._asdict().items()),
    )


def _write_llm(snapshot: AgentSnapshot, exposition: Exposition) -> None:
    def families(kind: Kind, label: Callable[[SeriesKey], str | None]) -> _Families:
        return _families(snapshot, exposition, kind, label)

    for metric, help in LLM_COUNTS.items():
        counts = families(Kind.COUNT, _llm_labels(metric))
        totals = _format_values(counts.stats.total.tolist())
        counts.counter(f"kaygraph_{metric}_total", help, totals)
    for metric, name, help in LLM_DURATIONS:
        families(Kind.OBSERVE, _llm_labels(metric)).histogram(name, help)
    cost = families(Kind.OBSERVE, _run_labels(LLM_RUN_COST))
    cost.histogram("kaygraph_llm_run_cost_usd", "The cost of a run's LLM calls.")
    tokens = families(Kind.OBSERVE, _run_labels(LLM_RUN_TOKENS))
    tokens.summary("kaygraph_llm_run_tokens", "The tokens of a run, in and out.")


def _write_custom(snapshot: AgentSnapshot, exposition: Exposition) -> None:
    counts = _families(snapshot, exposition, Kind.COUNT, _custom_labels)
    totals = _format_values(counts.stats.total.tolist())
    help = "The sums of kaywatch.count, by metric."
    counts.counter("kaygraph_count_total", help, totals)
    gauges = _families(snapshot, exposition, Kind.GAUGE, _custom_labels)
    help = "The last values of kaywatch.gauge, by metric."
    gauges.gauge("kaygraph_last_value", help, gauges.stats.lasts())
    observed = _families(snapshot, exposition, Kind.OBSERVE, _custom_labels)
    observed.summary("kaygraph_observation", "Values of kaywatch.observe, by metric.")


def _graph_labels(key: SeriesKey) -> str:
    return f'service="{escape(key.service)}",graph="{escape(key.graph)}"'


def _node_labels(key: SeriesKey) -> str:
    return f'{_graph_labels(key)},node="{escape(key.node)}"'


def _llm_labels(metric: str) -> Callable[[SeriesKey], str | None]:
    own = _LLM_LABELS.get(metric, ("model",))

    def label(key: SeriesKey) -> str | None:
        if key.metric != metric:
            return None
        labels: dict[str, Any] = dict(key.labels)
        first = [(name, labels.pop(name, "")) for name in own]
        rest = label_names(sorted(labels.items()), own)
        return f"{_node_labels(key)},{format_labels([*first, *rest])}"

    return label


def _run_labels(metric: str) -> Callable[[SeriesKey], str | None]:
    return lambda key: _graph_labels(key) if key.metric == metric else None


def _custom_labels(key: SeriesKey) -> str | None:
    if key.metric in _LLM_METRICS.get(key.kind, ()):
        return None
    labels = [("metric", key.metric), *label_names(key.labels)]
    return f"{_node_labels(key)},{format_labels(labels)}"


def _format_values(values: Iterable[float | None]) -> Iterator[str | None]:
    """Yield formatted numbers; None for a missing or infinite one, and for NaN."""
    for value in values:
        if value is None or not math.isfinite(value):
            yield None
        else:
            yield format_number(value)

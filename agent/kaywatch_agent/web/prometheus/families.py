"""The families on /metrics: names, types, labels, and where their values come from.

All values are totals since first seen, as far as they are durable: no counter ever
decreases, even if the agent is killed and counts its last second again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.model.series import Kind, Labels, SeriesKey
from kaywatch_agent.web.prometheus.agent_families import (
    write_alerts,
    write_completeness,
    write_own_metrics,
)
from kaywatch_agent.web.prometheus.exemplars import FailureExemplars, node_labels
from kaywatch_agent.web.prometheus.exposition import (
    Exposition,
    GroupWriter,
    SeriesTable,
    label_names,
)
from kaywatch_agent.web.snapshot import AgentSnapshot

__all__ = ["LLM_COUNTS", "write"]

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
    write_completeness(snapshot, exposition)
    write_alerts(snapshot, exposition)
    write_own_metrics(snapshot, exposition)


class _Families(NamedTuple):
    """What writes the families of some series, and the statistics of these."""

    writer: GroupWriter
    stats: GroupStats

    def durations(self, prefix: str, what: str) -> None:
        """Write the families that nodes and graphs have in common."""
        stats, write = self.stats, self.writer
        counts = stats.executions.tolist()
        write.counter(f"{prefix}_executions_total", f"{what}.", counts)
        write.gauge(
            f"{prefix}_success_rate",
            f"{what}: the share that did not fail, without cancelled ones.",
            stats.success_rates(),
        )
        help = f"{what}: their average duration."
        write.gauge(f"{prefix}_avg_duration_seconds", help, stats.averages())
        write.histogram(f"{prefix}_duration_seconds", f"{what}: their duration.")
        outcomes = [outcome.name.lower() for outcome in Outcome]
        write.split(
            f"{prefix}_outcomes_total",
            f"{what} by outcome.",
            "outcome",
            dict(zip(outcomes, stats.outcomes().T.tolist(), strict=True)),
        )


def _families(
    snapshot: AgentSnapshot,
    exposition: Exposition,
    kind: Kind,
    label: Callable[[SeriesKey], Labels | None],
) -> _Families:
    groups = snapshot.remember(
        ("labels", kind, label), lambda: snapshot.groups([kind], label)
    )
    stats = GroupStats(groups.numbers, len(groups))
    stats.add(snapshot.view.durable_totals)
    created = snapshot.first_seen(groups).tolist()
    exemplars = FailureExemplars({}, {})
    if kind is Kind.NODE:
        errors = snapshot.view.registry.errors.values
        failures = snapshot.view.failures
        exemplars = FailureExemplars.of(failures, dict(groups.items()), errors)
    table = SeriesTable(groups.names, stats, created, *exemplars)
    return _Families(exposition.groups(table), stats)


def _write_nodes(snapshot: AgentSnapshot, exposition: Exposition) -> None:
    families = _families(snapshot, exposition, Kind.NODE, node_labels)
    write, stats = families.writer, families.stats
    families.durations("kaygraph_node", "Executions of a node")
    write.counter(
        "kaygraph_node_retries_total",
        "Attempts beyond the first of each execution.",
        stats.retries().tolist(),
    )
    _write_phases(families)
    write.gauge(
        "kaygraph_node_last_execution_timestamp_seconds",
        "The end of the latest execution, Unix time.",
        np.where(stats.executions > 0, stats.last_time, np.nan).tolist(),
    )
    _write_node_events(snapshot, write)


def _write_phases(families: _Families) -> None:
    phases = families.stats.phases()
    has_phases = phases.executions > 0
    families.writer.split(
        "kaygraph_node_phase_seconds_total",
        "The time of executions by phase; wait is between attempts.",
        "phase",
        {
            name: np.where(has_phases, getattr(phases, name), np.nan).tolist()
            for name in ("prep", "exec", "wait", "post")
        },
    )
    families.writer.counter(
        "kaygraph_node_items_total",
        "Items that a batch node processed.",
        [count or None for count in phases.items.tolist()],
    )


def _write_node_events(snapshot: AgentSnapshot, write: GroupWriter) -> None:
    actions = snapshot.view.registry.actions.values
    errors = snapshot.view.registry.errors.values
    write.counted(
        "kaygraph_transitions_total",
        "Executions of a node by the action that they returned.",
        Dimension.ACTION,
        lambda number: (("action", actions[number]),),
    )
    write.counted(
        "kaygraph_errors_total",
        "Executions with an exception, including suppressed ones and fallbacks.",
        Dimension.ERROR,
        lambda number: (
            ("type", errors[number].type),
            ("phase", errors[number].phase),
        ),
    )


def _write_graphs(snapshot: AgentSnapshot, exposition: Exposition) -> None:
    ends = snapshot.view.registry.ends.values
    families = _families(snapshot, exposition, Kind.RUN, _graph_labels)
    families.durations("kaygraph_graph", "Ended runs of a graph")
    families.writer.counted(
        "kaygraph_graph_ends_total",
        "Ended runs of a graph by reason, last node and last action.",
        Dimension.ACTION,
        lambda number: tuple(ends[number]._asdict().items()),
    )


def _write_llm(snapshot: AgentSnapshot, exposition: Exposition) -> None:
    def families(kind: Kind, label: Callable[[SeriesKey], Labels | None]) -> _Families:
        return _families(snapshot, exposition, kind, label)

    for metric, help in LLM_COUNTS.items():
        counts = families(Kind.COUNT, _llm_labels(metric))
        totals = counts.stats.total.tolist()
        counts.writer.counter(f"kaygraph_{metric}_total", help, totals)
    for metric, name, help in LLM_DURATIONS:
        families(Kind.OBSERVE, _llm_labels(metric)).writer.histogram(name, help)
    cost = families(Kind.OBSERVE, _run_labels(LLM_RUN_COST)).writer
    cost.histogram("kaygraph_llm_run_cost_usd", "The cost of a run's LLM calls.")
    tokens = families(Kind.OBSERVE, _run_labels(LLM_RUN_TOKENS)).writer
    tokens.summary("kaygraph_llm_run_tokens", "The tokens of a run, in and out.")


def _write_custom(snapshot: AgentSnapshot, exposition: Exposition) -> None:
    counts = _families(snapshot, exposition, Kind.COUNT, _custom_labels)
    totals = counts.stats.total.tolist()
    help = "The sums of kaywatch.count, by metric."
    counts.writer.counter("kaygraph_count_total", help, totals)
    gauges = _families(snapshot, exposition, Kind.GAUGE, _custom_labels)
    help = "The last values of kaywatch.gauge, by metric."
    gauges.writer.gauge("kaygraph_last_value", help, gauges.stats.lasts())
    observed = _families(snapshot, exposition, Kind.OBSERVE, _custom_labels).writer
    observed.summary("kaygraph_observation", "Values of kaywatch.observe, by metric.")


def _graph_labels(key: SeriesKey) -> Labels:
    return (("service", key.service), ("graph", key.graph))


@cache  # its groups are remembered by the function
def _llm_labels(metric: str) -> Callable[[SeriesKey], Labels | None]:
    own = _LLM_LABELS.get(metric, ("model",))

    def label(key: SeriesKey) -> Labels | None:
        if key.metric != metric:
            return None
        labels: dict[str, Any] = dict(key.labels)
        first = [(name, labels.pop(name, "")) for name in own]
        rest = label_names(sorted(labels.items()), own)
        return (*node_labels(key), *first, *rest)

    return label


@cache  # its groups are remembered by the function
def _run_labels(metric: str) -> Callable[[SeriesKey], Labels | None]:
    return lambda key: _graph_labels(key) if key.metric == metric else None


def _custom_labels(key: SeriesKey) -> Labels | None:
    if key.metric in _LLM_METRICS.get(key.kind, ()):
        return None
    return (*node_labels(key), ("metric", key.metric), *label_names(key.labels))

"""What is on /metrics: every family, its name, its labels, and where it comes from.

All figures are since first seen, so no counter ever goes back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Final, NamedTuple, cast

import numpy as np

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.completeness import Completeness
from kaywatch_agent.aggregate.group_stats import GroupStats, Numbers
from kaywatch_agent.model.alerts import SEVERITIES, Severity
from kaywatch_agent.model.series import Kind, SeriesKey
from kaywatch_agent.web.prometheus.exposition import (
    Exposition,
    escape,
    label_names,
    labels_text,
    number,
    samples,
)
from kaywatch_agent.web.reading import Reading, Window

__all__ = ["write"]

# 1 ms to 512 s. Powers of two are exact bounds of our buckets: no count is estimated.
EXPONENTS: Final = np.arange(-10, 10)

LLM_COUNTS: Final = {
    "llm_calls": "Calls of language models, failed ones included.",
    "llm_errors": "Calls of language models that failed.",
    "llm_rate_limited": "Requests to language models answered with status 429.",
    "llm_input_tokens": "Tokens sent to language models, cached ones included.",
    "llm_output_tokens": "Tokens that language models answered with.",
    "llm_cached_tokens": "Tokens sent that came from the provider's cache.",
    "llm_cost_usd": "What calls of language models cost, in US dollars.",
    "llm_wasted_input_tokens": "Tokens sent by attempts that failed.",
    "llm_wasted_output_tokens": "Tokens answered to attempts that failed.",
    "llm_wasted_cost_usd": "What calls by attempts that failed cost, in US dollars.",
    "llm_unpriced_calls": "Calls of which the price is not known.",
    "llm_calls_without_usage": "Calls of which not all tokens are known.",
}
# The client's metric, the family, and what it says.
LLM_TIMES: Final = (
    ("llm_seconds", "kaygraph_llm_duration_seconds", "How long LLM calls took."),
    (
        "llm_first_token_seconds",
        "kaygraph_llm_first_token_seconds",
        "How long streams took until their first token.",
    ),
)
LLM_RUN_COST: Final = "llm_run_cost_usd"
LLM_RUN_TOKENS: Final = "llm_run_tokens"

# Alerts that fire and are on /metrics; all are counted in kaywatch_alerts.
MAX_ALERTS: Final = 1_000

# Which have families of their own.
_LLM_METRICS: Final = {
    Kind.COUNT: frozenset(LLM_COUNTS),
    Kind.OBSERVE: frozenset(
        {*(metric for metric, _, _ in LLM_TIMES), LLM_RUN_COST, LLM_RUN_TOKENS}
    ),
}
_LLM_LABELS: Final = {"llm_errors": ("model", "type", "status")}


def write(reading: Reading, exposition: Exposition) -> None:
    """Write all families."""
    _nodes(reading, exposition)
    _graphs(reading, exposition)
    _llm(reading, exposition)
    _custom(reading, exposition)
    complete = Window(reading, None).completeness
    shares = {(name,): complete.of([name]).ratio for name in complete.services}
    exposition.family(
        "kaywatch_series_completeness",
        "gauge",
        "The share of what a service's clients recorded that has arrived.",
        samples(
            "kaywatch_series_completeness",
            {key: share for key, share in shares.items() if share is not None},
            ("service",),
        ),
    )
    _accounts(complete, exposition)
    _alerts(reading, exposition)
    for metric, values in reading.own:
        lines = samples(metric.name, values, metric.label_names)
        exposition.family(metric.name, metric.type, metric.help, lines)


def _accounts(complete: Completeness, exposition: Exposition) -> None:
    """Write what became of all events, by service."""
    received: dict[tuple[str, ...], float] = {}
    dropped: dict[tuple[str, ...], float] = {}
    late: dict[tuple[str, ...], float] = {}
    overflow: dict[tuple[str, ...], float] = {}
    for name in complete.services:
        account = complete.of([name])
        received[name,] = float(account.received)
        late[name,], overflow[name,] = float(account.late), float(account.overflow)
        for reason, count in account.dropped.items():
            dropped[name, reason] = float(count)
    for metric, values, help in (
        ("received", received, "Events of a service's clients that are counted."),
        ("dropped", dropped, "Events that a service's clients lost."),
        ("late", late, "Events received too late for a window: in the totals alone."),
        ("overflow", overflow, "Events received that are counted under __other__."),
    ):
        family = f"kaywatch_series_{metric}_total"
        labels = ("service", "reason") if metric == "dropped" else ("service",)
        exposition.family(family, "counter", help, samples(family, values, labels))


class _Source(NamedTuple):
    """Some series with their figures, and their labels as written, by group."""

    exposition: Exposition
    figures: GroupStats
    labels: list[str]

    def one(self, name: str, type: str, help: str, values: Iterable[object]) -> None:
        """Write a family with a value per series; None leaves a series out."""
        lines = (
            f"{name}{{{labels}}} {value}"
            for labels, value in zip(self.labels, values, strict=True)
            if value is not None
        )
        self.exposition.family(name, type, help, lines)

    def split(
        self, name: str, help: str, label: str, columns: Mapping[str, Iterable[object]]
    ) -> None:
        """Write a counter with a column for each value of `label`.

        None leaves a series out.
        """
        template = "\n".join(
            f'{name}{{{{{{0}},{label}="{word}"}}}} {{{at}}}'
            for at, word in enumerate(columns, 1)
        )
        lines = (
            template.format(*values)
            for values in zip(self.labels, *columns.values(), strict=True)
            if None not in values
        )
        self.exposition.family(name, "counter", help, lines)

    def counted(
        self, name: str, help: str, facet: Dimension, label: Callable[[int], str]
    ) -> None:
        """Write a counter of a facet; `label` returns a fact's labels by number."""
        written = cache(label)
        lines = (
            f"{name}{{{self.labels[group]},{written(fact)}}} {count}"
            for group, fact, count in self.figures.counted(facet)
        )
        self.exposition.family(name, "counter", help, lines)

    def histogram(self, name: str, help: str) -> None:
        """Write the distribution of the values."""
        bounds = [repr(2.0**exponent) for exponent in EXPONENTS.tolist()]
        # One format operation per series writes its 23 lines: 4 us.
        template = "\n".join(
            [f'{name}_bucket{{{{{{0}},le="{bound}"}}}} {{{at}}}' for at, bound in
             enumerate(bounds, 3)]
            + [
                f'{name}_bucket{{{{{{0}},le="+Inf"}}}} {{1}}',
                f"{name}_count{{{{{{0}}}}}} {{1}}",
                f"{name}_sum{{{{{{0}}}}}} {{2}}",
            ]
        )  # fmt: skip
        figures = self.figures
        lines = (
            template.format(labels, count, total, *below)
            for labels, count, total, below in zip(
                self.labels,
                figures.executions.tolist(),
                _written(figures.total.tolist()),
                zip(
                    *figures.counts_at_most(np.exp2(EXPONENTS)).T.tolist(), strict=True
                ),
                strict=True,
            )
            if total is not None
        )
        self.exposition.family(name, "histogram", help, lines)


def _source(
    reading: Reading,
    exposition: Exposition,
    kind: Kind,
    label: Callable[[SeriesKey], str | None],
) -> _Source:
    groups = reading.groups([kind], label)
    figures = Window(reading, None).figures(groups)
    return _Source(exposition, figures, groups.names)


def _nodes(reading: Reading, exposition: Exposition) -> None:
    actions = reading.view.registry.actions.values
    errors = reading.view.registry.errors.values
    source = _source(reading, exposition, Kind.NODE, _node_labels)
    figures = source.figures
    source.one(
        "kaygraph_node_executions_total",
        "counter",
        "Executions of a node.",
        figures.executions.tolist(),
    )
    source.one(
        "kaygraph_node_success_rate",
        "gauge",
        "The share of executions that did not end in error, cancelled ones left out.",
        _written(figures.success_rates()),
    )
    source.one(
        "kaygraph_node_avg_duration_seconds",
        "gauge",
        "The average time of an execution.",
        _written(figures.averages()),
    )
    source.histogram(
        "kaygraph_node_duration_seconds", "How long executions of a node took."
    )
    source.one(
        "kaygraph_node_retries_total",
        "counter",
        "Attempts beyond the first of each execution.",
        figures.retries().tolist(),
    )
    _outcomes(source)
    _phases(source)
    times = np.where(figures.executions > 0, figures.last_time, np.nan).tolist()
    source.one(
        "kaygraph_node_last_execution_timestamp_seconds",
        "gauge",
        "When the latest execution ended, Unix time.",
        _written(times),
    )
    source.counted(
        "kaygraph_transitions_total",
        "Executions of a node that ended with an action.",
        Dimension.ACTION,
        lambda number: labels_text([("action", actions[number])]),
    )
    source.counted(
        "kaygraph_errors_total",
        "Errors that ended, or were answered in, an execution.",
        Dimension.ERROR,
        lambda number: labels_text(
            [("type", errors[number].type), ("phase", errors[number].phase)]
        ),
    )


def _outcomes(source: _Source) -> None:
    words = [outcome.name.lower() for outcome in Outcome]
    columns = source.figures.outcomes().T.tolist()
    source.split(
        "kaygraph_node_outcomes_total",
        "Executions of a node by outcome.",
        "outcome",
        dict(zip(words, columns, strict=True)),
    )


def _phases(source: _Source) -> None:
    phases = source.figures.phases()
    known = phases.executions > 0
    source.split(
        "kaygraph_node_phase_seconds_total",
        "The time of executions by where it went; wait is between attempts.",
        "phase",
        {
            name: _written(np.where(known, getattr(phases, name), np.nan).tolist())
            for name in ("prep", "exec", "wait", "post")
        },
    )
    source.one(
        "kaygraph_node_items_total",
        "counter",
        "Items that a batch node worked on.",
        [count or None for count in phases.items.tolist()],
    )


def _graphs(reading: Reading, exposition: Exposition) -> None:
    ends = reading.view.registry.ends.values

    source = _source(reading, exposition, Kind.RUN, _graph_labels)
    figures = source.figures
    source.one(
        "kaygraph_graph_executions_total",
        "counter",
        "Runs of a graph that ended.",
        figures.executions.tolist(),
    )
    source.one(
        "kaygraph_graph_success_rate",
        "gauge",
        "The share of runs that did not end in error, cancelled ones left out.",
        _written(figures.success_rates()),
    )
    source.one(
        "kaygraph_graph_avg_duration_seconds",
        "gauge",
        "The average time of a run.",
        _written(figures.averages()),
    )
    source.histogram(
        "kaygraph_graph_duration_seconds", "How long runs of a graph took."
    )
    source.counted(
        "kaygraph_graph_ends_total",
        "Runs of a graph by why, at which node and with which action they ended.",
        Dimension.ACTION,
        lambda number: labels_text(ends[number]._asdict().items()),
    )


def _llm(reading: Reading, exposition: Exposition) -> None:
    for metric, help in LLM_COUNTS.items():
        source = _source(reading, exposition, Kind.COUNT, _llm_labels(metric))
        totals = _written(source.figures.total.tolist())
        source.one(f"kaygraph_{metric}_total", "counter", help, totals)
    for metric, name, help in LLM_TIMES:
        source = _source(reading, exposition, Kind.OBSERVE, _llm_labels(metric))
        source.histogram(name, help)
    cost = _source(reading, exposition, Kind.OBSERVE, _run_labels(LLM_RUN_COST))
    cost.histogram("kaygraph_llm_run_cost_usd", "What the LLM calls of a run cost.")
    tokens = _source(reading, exposition, Kind.OBSERVE, _run_labels(LLM_RUN_TOKENS))
    _summary(tokens, "kaygraph_llm_run_tokens", "Tokens, in and out, of a run.")


def _custom(reading: Reading, exposition: Exposition) -> None:
    counts = _source(reading, exposition, Kind.COUNT, _custom_labels)
    counts.one(
        "kaygraph_count_total",
        "counter",
        "What kaywatch.count was given, by metric.",
        _written(counts.figures.total.tolist()),
    )
    gauges = _source(reading, exposition, Kind.GAUGE, _custom_labels)
    gauges.one(
        "kaygraph_last_value",
        "gauge",
        "What kaywatch.gauge was last given, by metric.",
        _written(gauges.figures.lasts()),
    )
    observed = _source(reading, exposition, Kind.OBSERVE, _custom_labels)
    help = "What kaywatch.observe was given, by metric."
    _summary(observed, "kaygraph_observation", help)


def _alerts(reading: Reading, exposition: Exposition) -> None:
    """Write the alerts that fire, one sample each, the worst first."""
    picture = reading.picture() if any(reading.alerts.values()) else None
    found = []
    for instance in picture.alerts if picture else ():
        if instance.lifecycle.is_firing and picture:
            labels = picture.labels(instance)
            worst = SEVERITIES.index(cast("Severity", labels["severity"]))
            found.append((-worst, instance.lifecycle.fired, labels))
    found.sort(key=lambda alert: alert[:2])
    names = ("alertname", "severity", "service", "graph", "node")
    values: dict[tuple[str, ...], float] = {}
    for _, _, labels in found[:MAX_ALERTS]:
        # Alerts that differ in other labels, such as pid, are counted together.
        key = tuple([labels.get(name, "") for name in names])
        values[key] = values.get(key, 0.0) + 1.0
    exposition.family(
        "kaywatch_alerts_firing",
        "gauge",
        "Alerts that fire, by rule and what they are about.",
        samples("kaywatch_alerts_firing", values, names),
    )


def _summary(source: _Source, name: str, help: str) -> None:
    lines = (
        f"{name}_count{{{labels}}} {count}\n{name}_sum{{{labels}}} {total}"
        for labels, count, total in zip(
            source.labels,
            source.figures.executions.tolist(),
            _written(source.figures.total.tolist()),
            strict=True,
        )
        if total is not None
    )
    source.exposition.family(name, "summary", help, lines)


def _graph_labels(key: SeriesKey) -> str:
    return f'service="{escape(key.service)}",graph="{escape(key.graph)}"'


def _node_labels(key: SeriesKey) -> str:
    return f'{_graph_labels(key)},node="{escape(key.node)}"'


def _llm_labels(metric: str) -> Callable[[SeriesKey], str | None]:
    ours = _LLM_LABELS.get(metric, ("model",))

    def label(key: SeriesKey) -> str | None:
        if key.metric != metric:
            return None
        given: dict[str, Any] = dict(key.labels)
        usual = [(name, given.pop(name, "")) for name in ours]
        rest = label_names(sorted(given.items()), ours)
        return f"{_node_labels(key)},{labels_text([*usual, *rest])}"

    return label


def _run_labels(metric: str) -> Callable[[SeriesKey], str | None]:
    return lambda key: _graph_labels(key) if key.metric == metric else None


def _custom_labels(key: SeriesKey) -> str | None:
    if key.metric in _LLM_METRICS.get(key.kind, ()):
        return None
    labels = [("metric", key.metric), *label_names(key.labels)]
    return f"{_node_labels(key)},{labels_text(labels)}"


def _written(values: Numbers | list[float]) -> Iterator[str | None]:
    """Yield numbers as written; None for those that there are not."""
    for value in values:
        if value is None or not math.isfinite(value):
            yield None
        else:
            yield number(value)

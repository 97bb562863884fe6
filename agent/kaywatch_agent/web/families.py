"""What is on /metrics: every family, its name, its labels, and where it comes from.

All figures are since first seen, so no counter ever goes back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.step import Facet
from kaywatch_agent.model import Kind, SeriesKey
from kaywatch_agent.web.exposition import (
    Exposition,
    escape,
    label_names,
    labels_text,
    number,
    samples,
)
from kaywatch_agent.web.figures import Figures, Numbers
from kaywatch_agent.web.reading import Reading, Window

__all__ = ["write"]

# 1 ms to 512 s. Powers of two are exact bounds of our buckets: no count is estimated.
EXPONENTS: Final = np.arange(-10, 10, dtype=np.int64)

LLM: Final = {
    "llm_calls": "Calls of language models.",
    "llm_input_tokens": "Tokens sent to language models.",
    "llm_output_tokens": "Tokens that language models answered with.",
    "llm_cost_usd": "What calls of language models cost, in US dollars.",
}


def write(reading: Reading, exposition: Exposition) -> None:
    """Write all families."""
    _nodes(reading, exposition)
    _graphs(reading, exposition)
    _custom(reading, exposition)
    complete = Window(reading, None).completeness
    shares = {(name,): complete.of([name]) for name in complete.services}
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
    for metric, values in reading.own:
        lines = samples(metric.name, values, metric.labels)
        exposition.family(metric.name, metric.type, metric.help, lines)


class _Source(NamedTuple):
    """Some series with their figures, and their labels as written, by group."""

    exposition: Exposition
    figures: Figures
    labels: list[str]

    def one(self, name: str, type: str, help: str, values: Iterable[object]) -> None:
        """Write a family with a value per series; None leaves a series out."""
        lines = (
            f"{name}{{{labels}}} {value}"
            for labels, value in zip(self.labels, values, strict=True)
            if value is not None
        )
        self.exposition.family(name, type, help, lines)

    def counted(
        self, name: str, help: str, facet: Facet, label: Callable[[int], str]
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
                zip(*figures.counts_below(EXPONENTS).T.tolist(), strict=True),
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
        Facet.ACTION,
        lambda number: labels_text([("action", actions[number])]),
    )
    source.counted(
        "kaygraph_errors_total",
        "Errors that ended, or were answered in, an execution.",
        Facet.ERROR,
        lambda number: labels_text(
            [("type", errors[number].type), ("phase", errors[number].phase)]
        ),
    )


def _outcomes(source: _Source) -> None:
    name = "kaygraph_node_outcomes_total"
    words = [outcome.name.lower() for outcome in Outcome]
    template = "\n".join(
        f'{name}{{{{{{0}},outcome="{word}"}}}} {{{at}}}'
        for at, word in enumerate(words, 1)
    )
    columns = source.figures.outcomes().T.tolist()
    lines = [
        template.format(*columns)
        for columns in zip(source.labels, *columns, strict=True)
    ]
    source.exposition.family(name, "counter", "Executions of a node by outcome.", lines)


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
        Facet.ACTION,
        lambda number: labels_text(ends[number]._asdict().items()),
    )


def _custom(reading: Reading, exposition: Exposition) -> None:
    for metric, help in LLM.items():
        source = _source(reading, exposition, Kind.COUNT, _llm_labels(metric))
        totals = _written(source.figures.total.tolist())
        source.one(f"kaygraph_{metric}_total", "counter", help, totals)
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
    _observations(_source(reading, exposition, Kind.OBSERVE, _custom_labels))


def _observations(source: _Source) -> None:
    name = "kaygraph_observation"
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
    help = "What kaywatch.observe was given, by metric."
    source.exposition.family(name, "summary", help, lines)


def _graph_labels(key: SeriesKey) -> str:
    return f'service="{escape(key.service)}",graph="{escape(key.graph)}"'


def _node_labels(key: SeriesKey) -> str:
    return f'{_graph_labels(key)},node="{escape(key.node)}"'


def _llm_labels(metric: str) -> Callable[[SeriesKey], str | None]:
    def label(key: SeriesKey) -> str | None:
        if key.metric != metric:
            return None
        given: dict[str, Any] = dict(key.labels)
        model = ("model", given.pop("model", ""))
        rest = label_names(sorted(given.items()), ["model"])
        return f"{_node_labels(key)},{labels_text([model, *rest])}"

    return label


def _custom_labels(key: SeriesKey) -> str | None:
    if key.kind is Kind.COUNT and key.metric in LLM:
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

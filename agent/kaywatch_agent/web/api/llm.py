"""Answers about calls of language models: in all, by model, by node and by graph."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final, Generic, TypeVar

from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.model.series import Kind, SeriesKey
from kaywatch_agent.web.api import llm_shapes
from kaywatch_agent.web.api.parameters import LlmQuery, window_seconds
from kaywatch_agent.web.reading import Reading, Window, matching

__all__ = ["llm"]

T = TypeVar("T", bound=Hashable)

# The client's metrics, and the keys that their sums become.
COUNTS: Final = {
    "llm_calls": "calls",
    "llm_errors": "errors",
    "llm_rate_limited": "rate_limited",
    "llm_input_tokens": "input_tokens",
    "llm_output_tokens": "output_tokens",
    "llm_cached_tokens": "cached_tokens",
    "llm_wasted_input_tokens": "wasted_input_tokens",
    "llm_wasted_output_tokens": "wasted_output_tokens",
    "llm_unpriced_calls": "unpriced_calls",
    "llm_calls_without_usage": "calls_without_usage",
}
DOLLARS: Final = {
    "llm_cost_usd": "cost_usd",
    "llm_wasted_cost_usd": "wasted_cost_usd",
}
TIMES: Final = {
    "llm_seconds": "seconds",
    "llm_first_token_seconds": "first_token_seconds",
}
PER_RUN: Final = {"llm_run_cost_usd": "cost_usd", "llm_run_tokens": "tokens"}

_KINDS: Final = {
    **dict.fromkeys((*COUNTS, *DOLLARS), Kind.COUNT),
    **dict.fromkeys((*TIMES, *PER_RUN), Kind.OBSERVE),
}

_NOTHING: Final[dict[str, Any]] = {
    "count": 0,
    **dict.fromkeys(("avg", "p50", "p95", "p99", "max")),
}


def llm(reading: Reading, query: LlmQuery) -> llm_shapes.LlmAnswer:
    """Return what calls of language models cost, took and wasted."""
    window = Window(reading, window_seconds(query.window))

    def sorted_by(name: Callable[[SeriesKey], T | None]) -> _Table[T]:
        return _Table(reading, window, query, name)

    whole = sorted_by(lambda _: "")
    models = sorted_by(_model)
    nodes = sorted_by(lambda key: (key.graph, key.node) if _model(key) else None)
    graphs = sorted_by(lambda key: key.graph)
    services = {k.service for k in reading.of(Kind.COUNT) if k.metric == "llm_calls"}
    wanted = services if query.service is None else {query.service}
    return llm_shapes.LlmAnswer(
        timestamp=reading.now,
        window=window.seconds,
        completeness=window.completeness.of(sorted(services & wanted)).ratio,
        totals=llm_shapes.LlmTotals(**whole.figures(""), per_run=whole.per_run("")),
        models=[
            llm_shapes.LlmModel(model=name, **models.figures(name))
            for name in models.dearest()
        ],
        nodes=[
            llm_shapes.LlmNode(graph=at[0], node=at[1], **nodes.figures(at))
            for at in nodes.dearest()
        ],
        graphs=[
            llm_shapes.LlmGraph(
                graph=name, **graphs.figures(name), per_run=graphs.per_run(name)
            )
            for name in graphs.dearest()
        ],
    )


class _Sums:
    """The metrics of one row, by name."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = defaultdict(float)
        self.errors: dict[str, int] = {}
        self.spreads: dict[str, dict[str, Any]] = {}


class _Table(Generic[T]):
    """The metrics of LLM calls, by whatever `name` returns for a series."""

    def __init__(
        self,
        reading: Reading,
        window: Window,
        query: LlmQuery,
        name: Callable[[SeriesKey], T | None],
    ) -> None:
        matches = matching(service=query.service, graph=query.graph, node=query.node)

        def group(key: SeriesKey) -> tuple[T, str, str] | None:
            if _KINDS.get(key.metric) is not key.kind or not matches(key):
                return None
            row = name(key)
            type = (
                dict(key.labels).get("type", "") if key.metric == "llm_errors" else ""
            )
            return None if row is None else (row, key.metric, type)

        groups = reading.groups([Kind.COUNT, Kind.OBSERVE], group)
        figures = window.figures(groups, {Dimension.HISTOGRAM})
        spreads = _spreads(figures)
        self._rows: dict[T, _Sums] = {}
        for (row, metric, type), number in groups.items():
            if not figures.executions[number]:
                continue
            sums = self._rows.setdefault(row, _Sums())
            total = float(figures.total[number])
            sums.totals[metric] += total
            sums.spreads[metric] = spreads[number]
            if metric == "llm_errors":
                sums.errors[type] = _whole(total)

    def dearest(self) -> list[T]:
        """Return the rows, those that cost most first."""

        def rank(row: T) -> tuple[float, float, str]:
            totals = self._rows[row].totals
            return -totals["llm_cost_usd"], -totals["llm_calls"], str(row)

        return sorted(self._rows, key=rank)

    def figures(self, row: T) -> dict[str, Any]:
        """Return the keys of LlmFigures."""
        sums = self._rows.get(row, _Sums())
        totals: Mapping[str, float] = sums.totals
        errors = sorted(sums.errors.items(), key=lambda item: (-item[1], item[0]))
        return {
            **{key: _whole(totals.get(name, 0)) for name, key in COUNTS.items()},
            **{key: _dollars(totals.get(name, 0)) for name, key in DOLLARS.items()},
            **{key: _times(sums.spreads.get(name)) for name, key in TIMES.items()},
            "error_breakdown": dict(errors),
        }

    def per_run(self, row: T) -> llm_shapes.LlmRuns:
        """Return what the runs cost, each as a whole."""
        spreads = self._rows.get(row, _Sums()).spreads
        return llm_shapes.LlmRuns(
            **{
                key: llm_shapes.LlmSpread(**spreads.get(name, _NOTHING))
                for name, key in PER_RUN.items()
            }
        )


def _model(key: SeriesKey) -> str | None:
    """Return the model of a call's series; None for one of runs."""
    if key.metric in PER_RUN:
        return None
    return dict(key.labels).get("model", "unknown")


def _spreads(figures: GroupStats) -> list[dict[str, Any]]:
    """Return the distribution of each group's values."""
    p50, p95, p99 = figures.quantiles(0.5, 0.95, 0.99)
    columns = {
        "count": figures.executions.tolist(),
        "avg": figures.averages(),
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "max": figures.mosts(),
    }
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _times(spread: dict[str, Any] | None) -> llm_shapes.LlmTimes:
    found = spread or _NOTHING
    names = llm_shapes.LlmTimes.__struct_fields__
    return llm_shapes.LlmTimes(**{name: found[name] for name in names})


def _whole(total: float) -> int:
    """Return a sum that a client may have sent anything for."""
    return round(_dollars(total))


def _dollars(total: float) -> float:
    return total if 0 <= total < math.inf else 0.0

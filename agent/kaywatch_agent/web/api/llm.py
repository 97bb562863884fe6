"""Calls of language models: in total, by model, by node and by graph."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Annotated, Any, Final, Generic, TypeVar

from msgspec import Meta

from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.model.bounds import Count, Moment, Rate
from kaywatch_agent.model.series import Kind, SeriesKey
from kaywatch_agent.web.api.parameters import Node, ScopeQuery
from kaywatch_agent.web.api.schema import ResponseBody, WindowSeconds
from kaywatch_agent.web.series_filter import SeriesFilter
from kaywatch_agent.web.snapshot import AgentSnapshot, Window

__all__ = ["COUNTS", "DISTRIBUTIONS", "DOLLARS", "PER_RUN", "llm"]

T = TypeVar("T", bound=Hashable)

Dollars = Annotated[float, Meta(ge=0, description="US dollars")]

# The client's metrics, and the keys of the response that have their sums.
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
DISTRIBUTIONS: Final = {
    "llm_seconds": "seconds",
    "llm_first_token_seconds": "first_token_seconds",
}
PER_RUN: Final = {"llm_run_cost_usd": "cost_usd", "llm_run_tokens": "tokens"}

_KINDS: Final = {
    **dict.fromkeys((*COUNTS, *DOLLARS), Kind.COUNT),
    **dict.fromkeys((*DISTRIBUTIONS, *PER_RUN), Kind.OBSERVE),
}


class LlmQuery(ScopeQuery, frozen=True):
    """Filters of calls, and a window."""

    node: Node | None = None


class Distribution(ResponseBody):
    """The distribution of a value over calls or runs, and their number."""

    count: Count = 0
    avg: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


class LlmStats(ResponseBody):
    """Calls of language models.

    `errors` are the calls that failed. `rate_limited` counts responses with status
    429, also those after which an SDK retried. Input tokens include cached ones.
    `wasted` is the usage of attempts that raised an exception; the keys without
    `wasted` include it. `cost_usd` does not include unpriced calls.
    """

    calls: Count
    errors: Count
    error_breakdown: dict[str, int]
    rate_limited: Count
    input_tokens: Count
    output_tokens: Count
    cached_tokens: Count
    cost_usd: Dollars
    wasted_input_tokens: Count
    wasted_output_tokens: Count
    wasted_cost_usd: Dollars
    unpriced_calls: Count
    calls_without_usage: Count
    seconds: Distribution
    first_token_seconds: Distribution


class LlmPerRun(ResponseBody):
    """The cost of runs with calls in US dollars, and their tokens in and out."""

    cost_usd: Distribution
    tokens: Distribution


class LlmModel(LlmStats):
    """The calls of one model."""

    model: str


class LlmNode(LlmStats):
    """The calls of a node of a service; outside any node, graph and node are empty."""

    service: str
    graph: str
    node: str


class LlmGraph(LlmStats):
    """The calls of the nodes of one graph."""

    graph: str
    per_run: LlmPerRun


class LlmTotals(LlmStats):
    """All calls."""

    per_run: LlmPerRun


class LlmResponse(ResponseBody):
    """Calls of language models; the lists start with the highest cost."""

    timestamp: Moment
    window: WindowSeconds | None
    completeness: Rate | None
    totals: LlmTotals
    models: list[LlmModel]
    nodes: list[LlmNode]
    graphs: list[LlmGraph]


def llm(snapshot: AgentSnapshot, query: LlmQuery) -> LlmResponse:
    """Return the cost, duration, errors and waste of calls of language models."""
    matches = SeriesFilter(service=query.service, graph=query.graph, node=query.node)
    window = Window(snapshot, query.window, query.end, matches=matches)

    def group_by(name: Callable[[SeriesKey], T | None]) -> _CallTable[T]:
        return _CallTable(snapshot, window, query, name)

    total = group_by(lambda _: "")
    models = group_by(_model)
    nodes = group_by(_place)
    graphs = group_by(lambda key: key.graph)
    calls = (k for k in snapshot.series(Kind.COUNT) if k.metric == "llm_calls")
    services = {k.service for k in calls if query.service in (None, k.service)}
    return LlmResponse(
        timestamp=snapshot.now,
        window=window.seconds,
        completeness=window.completeness.of(sorted(services)).ratio,
        totals=LlmTotals(**total.stats(""), per_run=total.per_run("")),
        models=[
            LlmModel(model=name, **models.stats(name)) for name in models.sort_by_cost()
        ],
        nodes=[
            LlmNode(
                service=place[0], graph=place[1], node=place[2], **nodes.stats(place)
            )
            for place in nodes.sort_by_cost()
        ],
        graphs=[
            LlmGraph(graph=name, **graphs.stats(name), per_run=graphs.per_run(name))
            for name in graphs.sort_by_cost()
        ],
    )


class _ModelRow:
    """The metrics of one row, by name."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = defaultdict(float)
        self.errors: dict[str, int] = {}
        self.distributions: dict[str, Distribution] = defaultdict(Distribution)


class _CallTable(Generic[T]):
    """The metrics of calls; `name` returns the row of a series."""

    def __init__(
        self,
        snapshot: AgentSnapshot,
        window: Window,
        query: LlmQuery,
        name: Callable[[SeriesKey], T | None],
    ) -> None:
        matches = SeriesFilter(
            service=query.service, graph=query.graph, node=query.node
        )

        def group(key: SeriesKey) -> tuple[T, str, str] | None:
            if _KINDS.get(key.metric) is not key.kind:
                return None
            row = name(key)
            is_error = key.metric == "llm_errors"
            type = dict(key.labels).get("type", "") if is_error else ""
            return None if row is None else (row, key.metric, type)

        groups = snapshot.groups([Kind.COUNT, Kind.OBSERVE], group, matches=matches)
        stats = window.stats(groups, {Dimension.HISTOGRAM})
        distributions = _distributions(stats)
        self._rows: defaultdict[T, _ModelRow] = defaultdict(_ModelRow)
        for (name_of_row, metric, type), number in groups.items():
            # The series has calls, but none in this window.
            if not stats.executions[number]:
                continue
            row = self._rows[name_of_row]
            total = float(stats.total[number])
            row.totals[metric] += total
            row.distributions[metric] = distributions[number]
            if metric == "llm_errors":
                row.errors[type] = _count(total)

    def sort_by_cost(self) -> list[T]:
        """Return the names of the rows, the highest cost first."""

        def rank(name: T) -> tuple[float, float, str]:
            totals = self._rows[name].totals
            return -totals["llm_cost_usd"], -totals["llm_calls"], str(name)

        return sorted(self._rows, key=rank)

    def stats(self, name: T) -> dict[str, Any]:
        """Return the keys of `LlmStats` of a row."""
        row = self._rows[name]
        totals = row.totals
        errors = sorted(row.errors.items(), key=lambda item: (-item[1], item[0]))
        return {
            **{key: _count(totals[metric]) for metric, key in COUNTS.items()},
            **{key: _dollars(totals[metric]) for metric, key in DOLLARS.items()},
            **{key: row.distributions[m] for m, key in DISTRIBUTIONS.items()},
            "error_breakdown": dict(errors),
        }

    def per_run(self, name: T) -> LlmPerRun:
        """Return the cost and the tokens of the runs of a row."""
        distributions = self._rows[name].distributions
        keys = {key: distributions[metric] for metric, key in PER_RUN.items()}
        return LlmPerRun(**keys)


def _model(key: SeriesKey) -> str | None:
    """Return the model of a call's series; None for a series of runs."""
    if key.metric in PER_RUN:
        return None
    # Clients of other languages may leave the label out.
    return dict(key.labels).get("model", "unknown")


def _place(key: SeriesKey) -> tuple[str, str, str] | None:
    """Return where a call was made; None for a series of runs."""
    return (key.service, key.graph, key.node) if _model(key) else None


def _distributions(stats: GroupStats) -> list[Distribution]:
    """Return the distribution of each group's values."""
    p50, p95, p99 = stats.quantiles(0.5, 0.95, 0.99)
    columns = {
        "count": stats.executions.tolist(),
        "avg": stats.averages(),
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "max": stats.mosts(),
    }
    rows = zip(*columns.values(), strict=True)
    return [Distribution(**dict(zip(columns, row, strict=True))) for row in rows]


def _count(total: float) -> int:
    return round(_dollars(total))


def _dollars(total: float) -> float:
    """Return a sum; 0 if it is not finite, because clients may send any number."""
    return total if 0 <= total < math.inf else 0.0

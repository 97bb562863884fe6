"""The shapes of answers about calls of language models; see `schema`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from kaywatch_agent.model.bounds import Count, Moment, Rate, Seconds
from kaywatch_agent.web.api.schema import Body, Span

__all__ = [
    "LlmAnswer",
    "LlmFigures",
    "LlmGraph",
    "LlmModel",
    "LlmNode",
    "LlmRuns",
    "LlmSpread",
    "LlmTimes",
    "LlmTotals",
]

Dollars = Annotated[float, Meta(ge=0, description="US dollars")]


class LlmTimes(Body):
    """How long calls of language models took."""

    avg: Seconds | None
    p50: Seconds | None
    p95: Seconds | None
    p99: Seconds | None


class LlmFigures(Body):
    """Calls of language models.

    `calls` are all, `errors` those of them that failed; `rate_limited` are answers
    "too many requests", those among them that an SDK retried. Input tokens include
    cached ones. What attempts used that an exception left is wasted; it is part of
    the figures without `wasted`. `cost_usd` leaves out unpriced calls.
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
    seconds: LlmTimes
    first_token_seconds: LlmTimes


class LlmSpread(Body):
    """An amount by run: of how many runs, and how it is distributed."""

    count: Count
    avg: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None


class LlmRuns(Body):
    """What a run costs: US dollars, and tokens in and out, of runs that had any."""

    cost_usd: LlmSpread
    tokens: LlmSpread


class LlmModel(LlmFigures):
    """The calls of one model."""

    model: str


class LlmNode(LlmFigures):
    """The calls that one node made; outside any, with empty names."""

    graph: str
    node: str


class LlmGraph(LlmFigures):
    """The calls that the nodes of one graph made."""

    graph: str
    per_run: LlmRuns


class LlmTotals(LlmFigures):
    """All calls."""

    per_run: LlmRuns


class LlmAnswer(Body):
    """Calls of language models, in all and by what made them, the dearest first."""

    timestamp: Moment
    window: Span | None
    completeness: Rate | None
    totals: LlmTotals
    models: list[LlmModel]
    nodes: list[LlmNode]
    graphs: list[LlmGraph]

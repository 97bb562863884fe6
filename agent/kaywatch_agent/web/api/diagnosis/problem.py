"""A problem, as responses describe it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from kaywatch_agent.model.alerts import Severity
from kaywatch_agent.model.bounds import Count, Moment
from kaywatch_agent.web.api.schema import ResponseBody

__all__ = ["AlertRef", "Place", "ProblemKind", "ProblemView", "share_text"]

# Service, graph and node; the node of a whole graph is empty.
Place = tuple[str, str, str]

ProblemKind = Literal[
    "failing",
    "low_traffic",
    "slow",
    "memory",
    "process_died",
    "silent",
    "dead_end",
    "never_reached",
    "runaway",
    "stuck",
    "masked_failures",
    "drift",
    "wasted_spend",
    "cost_per_run",
    "alert",
]


class AlertRef(ResponseBody):
    """The id of an alert, the name of its rule, and its node, if it is about one."""

    id: str
    rule: str
    node: str


class ProblemView(ResponseBody):
    """One problem.

    `text` goes on after the names of service, graph and node, which are empty where
    they do not apply, and `details` are further facts. `since` is null if the problem
    is older than an hour, or its beginning is unknown. `count` is the number of events
    since then: failures, dead ends, slow executions. `cost_usd` is the cost of failed
    attempts since then; null without calls of models. `alerts` fire for the
    same place.
    """

    kind: ProblemKind
    severity: Severity
    service: str
    graph: str
    node: str
    text: str
    details: list[str]
    since: Moment | None
    count: Count | None
    cost_usd: Annotated[float, Meta(ge=0)] | None
    run: str = ""
    alerts: list[AlertRef] = field(default_factory=list)


def share_text(share: float) -> str:
    """Return a share in whole percent; only 0 is shown as 0, and only 1 as 100."""
    if 0 < share < 0.005:
        return "<1 %"
    if 0.995 <= share < 1:
        return ">99 %"
    return f"{share * 100:.0f} %"

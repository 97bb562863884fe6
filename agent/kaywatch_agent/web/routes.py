"""Every path there is, in one table: its parameters, its answer and its errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Literal

from msgspec import Struct

from kaywatch_agent.model.records import ExecutionRecord, RunRecord
from kaywatch_agent.notify.delivery import Delivery
from kaywatch_agent.rules.loop import Alerting
from kaywatch_agent.runtime.health import Readiness
from kaywatch_agent.web.api import (
    alert_shapes,
    alerts,
    events,
    graphs,
    lists,
    live_shapes,
    llm,
    llm_shapes,
    nodes,
    notifications,
    openapi,
    parameters,
    recent,
    schema,
    series,
    silences,
    story,
)
from kaywatch_agent.web.api.parameters import NoQuery
from kaywatch_agent.web.pages import page, silence_page
from kaywatch_agent.web.prometheus import exposition, families
from kaywatch_agent.web.reading import Reading
from kaywatch_agent.web.reply import JSON, Reply, as_json
from kaywatch_agent.web.view import AgentView

__all__ = ["ROUTES", "Route"]


def _alerting(agent: AgentView) -> Alerting:
    return agent.alerting


def _delivery(agent: AgentView) -> Delivery:
    return agent.delivery


@dataclass(frozen=True)
class Route:
    """One path with one method; GET is answered to HEAD, too.

    Attributes:
        path: with {names} in place of what varies.
        summary: a line about it.
        answer: makes the answer; a pure function, called in another thread.
        parameters: what can be asked for; those named in the path come from there.
        shape: what the answer is in JSON; None for other media.
        media: the answer's media types, where it isn't JSON.
        errors: the error statuses of its own, beside those that are everybody's.
        also: further statuses with a shape of their own.
        inline: answered at once in the loop, however busy the agent is.
        clients: whether it needs the clients described.
        letters: whether it needs messages and receivers.
        events: of a stream, the events by name. `answer` makes the first of them.
        method: GET, or one that changes something; see `change`.
        body: of such a one, what is to be sent; None for nothing.
        change: does it, in the loop; `answer` gets what it returns.
        desk: returns the part of the agent that `change` is done with.
    """

    path: str
    summary: str
    answer: Callable[[Reading, Any], Struct | Reply]
    parameters: type[Struct] = NoQuery
    shape: type[Struct] | None = None
    media: tuple[str, ...] = ()
    errors: tuple[int, ...] = (503,)
    also: Mapping[int, type[Struct]] = field(default_factory=dict)
    inline: bool = False
    clients: bool = False
    letters: bool = False
    events: Mapping[str, type[Struct]] = field(default_factory=dict)
    method: Literal["GET", "POST", "DELETE"] = "GET"
    body: type[Struct] | None = None
    change: Callable[[Any, float, Any, Any], Struct] | None = None
    desk: Callable[[AgentView], Any] = _alerting

    @property
    def name(self) -> str:
        """A name for programs, from the path."""
        words = self.path.replace("{", "").replace("}", "").split("/")
        words = [word for word in words if word not in ("", "api", "v1")]
        if self.method != "GET":
            words.insert(0, self.method.lower())
        return "_".join(words).replace(".", "_") or "index"


def _index(reading: Reading, _: NoQuery) -> Reply:
    listed = [(route.path, route.summary) for route in ROUTES if route.method == "GET"]
    return Reply("text/html; charset=utf-8", [page.html(reading.version, listed)])


def _health(reading: Reading, _: NoQuery) -> Reply:
    unhealthy = reading.health.status is Readiness.UNHEALTHY
    return as_json(lists.health(reading), 503 if unhealthy else 200)


def _metrics(reading: Reading, _: NoQuery) -> Reply:
    format = exposition.negotiate(reading.accept)
    written = exposition.Exposition(format, gzip=reading.gzip)
    families.write(reading, written)
    encoding = "gzip" if reading.gzip else ""
    return Reply(format.content_type, written.chunks(), encoding=encoding)


def _openapi(reading: Reading, _: NoQuery) -> Reply:
    return Reply(JSON, [_described(reading.version)])


@cache
def _described(version: str) -> bytes:
    """Return the document; it takes 20 to 50 ms to make, and is always the same."""
    return openapi.document(ROUTES, version)


ROUTES: Final = (
    Route(
        "/",
        "This page.",
        _index,
        media=("text/html",),
        errors=(),
        inline=True,
    ),
    Route(
        "/health",
        "Whether the agent does its work, stage by stage; 503 when it doesn't.",
        _health,
        shape=schema.HealthAnswer,
        errors=(),
        also={503: schema.HealthAnswer},
        inline=True,
    ),
    Route(
        "/metrics",
        "Everything since first seen, for Prometheus: text or OpenMetrics.",
        _metrics,
        media=(exposition.TEXT.media_type, exposition.OPENMETRICS.media_type),
    ),
    Route(
        "/api/v1/export",
        "All nodes and graphs by name, as KayGraph's MetricsExporter gives them.",
        graphs.export,
        parameters.ExportQuery,
        schema.Export,
    ),
    Route(
        "/api/v1/nodes",
        "The nodes known, with their figures.",
        nodes.node_list,
        parameters.NodesQuery,
        schema.NodeList,
    ),
    Route(
        "/api/v1/nodes/{node}/stats",
        "One node: its figures, errors and custom metrics.",
        nodes.node_stats,
        parameters.NodeStatsQuery,
        schema.NodeStats,
        errors=(404, 503),
    ),
    Route(
        "/api/v1/graphs",
        "The graphs known, with their figures.",
        graphs.graph_list,
        parameters.GraphsQuery,
        schema.GraphList,
    ),
    Route(
        "/api/v1/graphs/{graph}/stats",
        "One graph: its figures, where its runs end, and its wiring.",
        graphs.graph_stats,
        parameters.GraphStatsQuery,
        schema.GraphStats,
        errors=(404, 503),
    ),
    Route(
        "/api/v1/llm",
        "Calls of language models: tokens, cost, time, errors, and what was wasted.",
        llm.llm,
        parameters.LlmQuery,
        llm_shapes.LlmAnswer,
    ),
    Route(
        "/api/v1/query",
        "One metric over time.",
        series.query,
        parameters.SeriesQuery,
        schema.QueryAnswer,
        errors=(404, 503),
    ),
    Route(
        "/api/v1/failures",
        "The latest failures, the newest first.",
        lists.failure_list,
        parameters.FailuresQuery,
        schema.FailureList,
    ),
    Route(
        "/api/v1/clients",
        "The processes that send, and those that left within the hour.",
        lists.client_list,
        parameters.ClientsQuery,
        schema.ClientList,
        clients=True,
    ),
    Route(
        "/api/v1/completeness",
        "How much of what clients recorded has arrived, and why the rest has not.",
        lists.completeness,
        parameters.CompletenessQuery,
        schema.CompletenessAnswer,
    ),
    Route(
        "/api/v1/alerts",
        "The alerts, the worst first: what fires, and what ended within a day.",
        alerts.alert_list,
        parameters.AlertsQuery,
        alert_shapes.AlertList,
    ),
    Route(
        "/api/v1/alerts/{id}",
        "One alert: its story, what was seen when it fired, who was told, and how.",
        story.alert_story,
        parameters.AlertQuery,
        story.AlertStory,
        errors=(404, 503),
        letters=True,
    ),
    Route(
        "/api/v1/rules",
        "The rules: what each looks for, and how many alerts it has.",
        alerts.rule_list,
        parameters.RulesQuery,
        alert_shapes.RuleList,
    ),
    Route(
        "/api/v1/rules/{rule}",
        "One rule: its alerts, and what is nearest to firing, and why it is quiet.",
        alerts.rule_story,
        parameters.RuleQuery,
        alert_shapes.RuleStory,
        errors=(404, 503),
    ),
    Route(
        "/api/v1/rule_metrics",
        "The metrics that a rule can use.",
        alerts.metric_list,
        shape=alert_shapes.MetricList,
    ),
    Route(
        "/api/v1/silences",
        "The silences, those that hold first.",
        alerts.silence_list,
        parameters.SilencesQuery,
        alert_shapes.SilenceList,
    ),
    Route(
        "/api/v1/silences",
        "Make a silence, or with its `id` change one.",
        silences.silenced,
        shape=alert_shapes.Silenced,
        errors=(404, 408, 413, 415, 503),
        method="POST",
        body=alert_shapes.SilenceBody,
        change=silences.make,
    ),
    Route(
        "/api/v1/silences/{id}",
        "End a silence.",
        silences.silenced,
        parameters.SilenceQuery,
        alert_shapes.Silenced,
        errors=(404, 503),
        method="DELETE",
        change=silences.end,
    ),
    Route(
        "/silence",
        "How an alert is silenced: where the links in messages lead to.",
        silence_page.silence_page,
        parameters.SilencePageQuery,
        media=("text/html",),
        errors=(404, 503),
    ),
    Route(
        "/api/v1/notifications",
        "Messages to receivers, and what became of them, the newest first.",
        notifications.message_list,
        parameters.NotificationsQuery,
        notifications.MessageList,
        letters=True,
    ),
    Route(
        "/api/v1/notifications/retry",
        "Send dead messages again.",
        notifications.done,
        shape=notifications.Done,
        errors=(404, 408, 413, 415, 503),
        method="POST",
        body=notifications.Some,
        change=notifications.retry,
        desk=_delivery,
    ),
    Route(
        "/api/v1/notifications/purge",
        "Forget dead messages.",
        notifications.done,
        shape=notifications.Done,
        errors=(404, 408, 413, 415, 503),
        method="POST",
        body=notifications.Some,
        change=notifications.purge,
        desk=_delivery,
    ),
    Route(
        "/api/v1/receivers",
        "The receivers, and whether they are reached.",
        notifications.receiver_list,
        shape=notifications.ReceiverList,
        letters=True,
    ),
    Route(
        "/api/v1/receivers/{receiver}/test",
        "Send a receiver a test: that something fires, and that it is over.",
        notifications.done,
        parameters.ReceiverQuery,
        notifications.Done,
        errors=(404, 415, 503),
        method="POST",
        change=notifications.test,
        desk=_delivery,
    ),
    Route(
        "/api/v1/stream",
        "Server-sent events: a `snapshot` each second, an `alert` when one changes.",
        recent.snapshot,
        parameters.StreamQuery,
        live_shapes.Snapshot,
        media=("text/event-stream",),
        events={"snapshot": live_shapes.Snapshot, "alert": alert_shapes.AlertRow},
    ),
    Route(
        "/api/v1/events",
        "Server-sent events: single executions, and runs, as they arrive.",
        events.listening,
        parameters.EventsQuery,
        live_shapes.Listening,
        media=("text/event-stream",),
        events={
            "listening": live_shapes.Listening,
            "execution": ExecutionRecord,
            "run": RunRecord,
            "missed": live_shapes.Missed,
        },
    ),
    Route(
        "/openapi.json",
        "This interface, described.",
        _openapi,
        media=("application/json",),
        errors=(),
        inline=True,
    ),
)

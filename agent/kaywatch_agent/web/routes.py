"""All endpoints, in one table."""

from __future__ import annotations

from functools import cache
from typing import Final

from kaywatch_agent.model.records import ExecutionRecord, RunRecord
from kaywatch_agent.web.api import (
    alerts,
    changes,
    clients,
    episodes,
    events,
    graph_list,
    graphs,
    health,
    heatmap,
    live,
    llm,
    node_list,
    nodes,
    notifications,
    openapi,
    query,
    reload,
    rule_backtest,
    rules,
    run_list,
    silences,
    topology,
)
from kaywatch_agent.web.api.diagnosis import problem_list
from kaywatch_agent.web.api.parameters import AnyQuery, NoQuery
from kaywatch_agent.web.endpoint import Endpoint, change, get
from kaywatch_agent.web.pages import dashboard, silence_page
from kaywatch_agent.web.prometheus import exposition, families
from kaywatch_agent.web.prometheus.text_format import TextExposition
from kaywatch_agent.web.responses import JSON, EncodedResponse
from kaywatch_agent.web.snapshot import AgentSnapshot

__all__ = ["ENDPOINTS", "LIVE_STREAM"]


def _metrics(snapshot: AgentSnapshot, _: AnyQuery) -> EncodedResponse:
    format = exposition.negotiate(snapshot.accept)
    writer: exposition.Exposition
    if format is exposition.PROTOBUF:
        # It takes 5 MB and 30 ms to import, which most agents never need.
        from kaywatch_agent.web.prometheus.protobuf_format import ProtobufExposition

        classic = snapshot.classic_histograms
        writer = ProtobufExposition(classic=classic, gzip=snapshot.gzip)
    else:
        is_openmetrics = format is exposition.OPENMETRICS
        writer = TextExposition(openmetrics=is_openmetrics, gzip=snapshot.gzip)
    families.write(snapshot, writer)
    encoding = "gzip" if snapshot.gzip else ""
    return EncodedResponse(format.content_type, writer.chunks(), encoding=encoding)


def _openapi(snapshot: AgentSnapshot, _: NoQuery) -> EncodedResponse:
    return EncodedResponse(JSON, [_document(snapshot.version)])


@cache
def _document(version: str) -> bytes:
    # It takes 20 to 50 ms to build, and never changes.
    return openapi.document(ENDPOINTS, version)


LIVE_STREAM: Final = get(
    "/api/v1/live",
    "Server-sent events: first everything, then at each tick what has changed.",
    live.first_update,
    media_types=("text/event-stream",),
    events={"full": live.LiveUpdate, "changes": live.LiveUpdate},
)

ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    get(
        "/",
        "The web page.",
        dashboard.index,
        media_types=("text/html",),
        inline=True,
        is_public=True,
    ),
    get(
        "/assets/{name}",
        "A script or a style sheet of the web page.",
        dashboard.asset,
        media_types=("text/javascript", "text/css", "text/plain"),
        inline=True,
        is_public=True,
    ),
    get(
        "/health",
        "The state of the agent and of each stage; 503 if it is unhealthy.",
        health.health,
        is_failure=health.is_unhealthy,
        inline=True,
    ),
    get(
        "/metrics",
        "Everything since first seen, for Prometheus: text, OpenMetrics or protobuf.",
        _metrics,
        media_types=tuple(
            format.media_type
            for format in (exposition.TEXT, exposition.OPENMETRICS, exposition.PROTOBUF)
        ),
    ),
    get(
        "/api/v1/export",
        "All nodes and graphs by name, in the form of KayGraph's MetricsExporter.",
        graphs.export,
    ),
    get(
        "/api/v1/nodes",
        "Statistics of all nodes, or of a page of them.",
        node_list.list_nodes,
        may_miss=True,
    ),
    get(
        "/api/v1/nodes/{node}/stats",
        "One node: its statistics, errors and custom metrics.",
        nodes.node_stats,
    ),
    get(
        "/api/v1/graphs",
        "Statistics of all graphs, or of a page of them.",
        graph_list.list_graphs,
        may_miss=True,
    ),
    get(
        "/api/v1/graphs/{graph}/stats",
        "One graph: its statistics, the ends of its runs, and its topology.",
        graphs.graph_stats,
    ),
    get(
        "/api/v1/topology",
        "One graph: its nodes and edges, and what happened on them.",
        topology.topology,
        may_miss=True,
    ),
    get(
        "/api/v1/runs",
        "Runs in progress, those in trouble first; failed ones, and how runs ended.",
        run_list.list_runs,
    ),
    get(
        "/api/v1/changes",
        "What is different from before: alerts, processes, versions, nodes, errors.",
        changes.list_changes,
        needs_clients=True,
    ),
    get(
        "/api/v1/episodes",
        "When alerts fired: the episodes of all alerts within a period.",
        episodes.list_episodes,
    ),
    get(
        "/api/v1/problems",
        "What is wrong now: since when, where, and what it cost.",
        problem_list.list_problems,
        needs_clients=True,
    ),
    get(
        "/api/v1/llm",
        "Calls of language models: tokens, cost, duration, errors and waste.",
        llm.llm,
    ),
    get(
        "/api/v1/query",
        "One metric over time.",
        query.query_metric,
        may_miss=True,
    ),
    get(
        "/api/v1/heatmap",
        "How long executions took over time, as a table of counts.",
        heatmap.heatmap,
        may_miss=True,
    ),
    get(
        "/api/v1/failures",
        "The latest failures, the newest first.",
        clients.list_failures,
    ),
    get(
        "/api/v1/clients",
        "The processes that send, and processes that left within the hour.",
        clients.list_clients,
        needs_clients=True,
    ),
    get(
        "/api/v1/completeness",
        "The share of recorded events that arrived, and what became of the rest.",
        clients.completeness,
    ),
    get(
        "/api/v1/alerts",
        "Alerts, the most urgent first, including alerts that ended within a day.",
        alerts.list_alerts,
    ),
    get(
        "/api/v1/alerts/{id}",
        "One alert: its timeline, what was known when it fired, its notifications.",
        alerts.alert_details,
        needs_messages=True,
    ),
    get(
        "/api/v1/rules",
        "The rules: what each evaluates, and how many alerts it has.",
        rules.list_rules,
    ),
    get(
        "/api/v1/rules/{rule}",
        "One rule: its alerts, and the groups that are nearest to firing.",
        rules.rule_details,
    ),
    change(
        "POST",
        "/api/v1/rules/{rule}/backtest",
        "What a rule, or it with another threshold, would have done.",
        rule_backtest.check_backtest,
        rule_backtest.run_backtest,
        durable=False,
    ),
    get(
        "/api/v1/rule_metrics",
        "The metrics that rules can use.",
        rules.list_metrics,
    ),
    get(
        "/api/v1/silences",
        "The silences, active ones first.",
        silences.list_silences,
    ),
    change(
        "POST",
        "/api/v1/silences",
        "Add a silence, or change the one with its `id`.",
        silences.add_silence,
        silences.changed_silence,
    ),
    change(
        "DELETE",
        "/api/v1/silences/{id}",
        "Expire a silence.",
        silences.expire_silence,
        silences.changed_silence,
    ),
    get(
        "/silence",
        "How to silence an alert: the target of links in notifications.",
        silence_page.silence_page,
        media_types=("text/html",),
        may_miss=True,
    ),
    get(
        "/api/v1/notifications",
        "Messages to receivers with their status, the newest first.",
        notifications.list_messages,
        needs_messages=True,
    ),
    change(
        "POST",
        "/api/v1/notifications/retry",
        "Send dead messages again.",
        notifications.retry_messages,
    ),
    change(
        "POST",
        "/api/v1/notifications/purge",
        "Delete dead messages.",
        notifications.purge_messages,
    ),
    get(
        "/api/v1/receivers",
        "The receivers, and whether they can be reached.",
        notifications.list_receivers,
        needs_messages=True,
    ),
    change(
        "POST",
        "/api/v1/receivers/{receiver}/test",
        "Send a receiver two test messages: an alert fires, and it is resolved.",
        notifications.send_test,
    ),
    change(
        "POST",
        "/-/reload",
        "Reload the configuration, as SIGHUP does.",
        reload.reload,
        durable=False,
    ),
    LIVE_STREAM,
    get(
        "/api/v1/events",
        "Server-sent events: single executions and runs, as they arrive.",
        events.first_event,
        media_types=("text/event-stream",),
        events={
            "subscribed": events.Subscribed,
            "execution": ExecutionRecord,
            "run": RunRecord,
            "missed": events.MissedEvents,
        },
    ),
    get(
        "/openapi.json",
        "The description of this interface.",
        _openapi,
        inline=True,
    ),
)

"""Runs: those in progress, in trouble first; failed ones; and how runs ended.

The agent knows single runs by the details of their failures. So a run that completed is
known if one of its failures was hidden by a retry, a fallback or `on_error`.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from kaywatch.wire import EndReason
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.model.bounds import Count, Moment, Name, OutcomeName, Seconds
from kaywatch_agent.model.records import FailureRecord, TraceId
from kaywatch_agent.model.series import Kind
from kaywatch_agent.web.api.parameters import (
    EndText,
    Graph,
    Limit,
    Service,
    WindowText,
)
from kaywatch_agent.web.api.runs import RunInProgress, list_in_progress
from kaywatch_agent.web.api.schema import ResponseBody
from kaywatch_agent.web.series_filter import SeriesFilter
from kaywatch_agent.web.snapshot import AgentSnapshot, Window

__all__ = ["list_runs"]


class RunsQuery(Struct, frozen=True):
    """Filters of runs, and a period."""

    service: Service | None = None
    graph: Graph | None = None
    run: Annotated[Name, Meta(description="Only this run.")] | None = None
    run_prefix: (
        Annotated[
            Name,
            Meta(description="Only runs whose id begins with this.", examples=["5f3a"]),
        ]
        | None
    ) = None
    window: WindowText | None = None
    end: EndText | None = None
    limit: Limit = 100


class EndedRun(ResponseBody):
    """One run, as its last failure describes it; `path` ends with the failed node.

    `outcome` is that of the failure. Unless it is `error`, the run went on after it, so
    `reason` is `unknown`.

    `path_visits` has the visits of each node of `path`; it is empty if each was visited
    once. The failed node is last again if it was visited before, and counted only once.
    """

    service: str
    graph: str
    run: str
    time: Moment
    seconds: Seconds
    outcome: OutcomeName
    reason: EndReason
    node: str
    action: str
    visits: Count
    path: list[str]
    path_visits: list[Count]
    trace_id: TraceId


class RunEndCount(ResponseBody):
    """The number of runs that ended at a node, with an action, for a reason."""

    service: str
    graph: str
    reason: str
    node: str
    action: str
    count: Count


class GraphVisits(ResponseBody):
    """How many nodes the runs of a graph visited.

    `most` is the maximum of one run that ended within the last hour; null if unknown.
    """

    service: str
    graph: str
    runs: Count
    average: Annotated[float, Meta(ge=0)]
    most: Count | None


class RunList(ResponseBody):
    """Runs in progress, failed ones of a period, and how all of the period ended."""

    time: Moment
    in_progress: list[RunInProgress]
    ended: list[EndedRun]
    ends: list[RunEndCount]
    visits: list[GraphVisits]


def list_runs(snapshot: AgentSnapshot, query: RunsQuery) -> RunList:
    """Return runs in progress, failed ones, and how runs ended."""
    matches = SeriesFilter(service=query.service, graph=query.graph)
    window = Window(snapshot, query.window, query.end, matches=matches)
    return RunList(
        time=snapshot.now,
        in_progress=[
            run
            for run in list_in_progress(snapshot)
            if _matches(query, run.service, run.graph, run.run)
        ],
        ended=_list_ended_runs(snapshot, window, query),
        ends=_ends(snapshot, window, query),
        visits=_visits(snapshot, window, query),
    )


# -- inside --------------------------------------------------------------------------


def _matches(query: RunsQuery, service: str, graph: str, run: str) -> bool:
    return (
        query.service in (None, service)
        and query.graph in (None, graph)
        and query.run in (None, run)
        and run.startswith(query.run_prefix or "")
    )


def _list_ended_runs(
    snapshot: AgentSnapshot, window: Window, query: RunsQuery
) -> list[EndedRun]:
    """Return failed runs, the latest first; by id also runs that went on."""
    by_id = query.run is not None or query.run_prefix is not None
    failures = [
        failure
        for failure in snapshot.view.failures
        # An execution outside any run has no run to list.
        if failure.run
        and (by_id or failure.outcome == "error")
        and (window.seconds is None or window.start <= failure.time < window.end)
        and _matches(query, failure.service, failure.graph, failure.run)
    ]
    # Of several failures of one run, an error ended it, or else the last one counts.
    failures.sort(key=lambda failure: failure.outcome == "error")
    runs = {
        (failure.client, failure.graph, failure.run): failure for failure in failures
    }
    in_progress = _in_progress(snapshot) if by_id else set()
    ended = [
        failure
        for key, failure in runs.items()
        if failure.outcome == "error" or key not in in_progress
    ]
    ended.sort(key=lambda failure: -failure.time)
    return [_ended(failure) for failure in ended[: query.limit]]


def _in_progress(snapshot: AgentSnapshot) -> set[tuple[str, str, str]]:
    """Return the client, the graph and the id of each run in progress."""
    return {
        (activity.client, execution.graph, execution.run)
        for activity in snapshot.activities
        for execution in activity.in_flight
    }


def _ended(failure: FailureRecord) -> EndedRun:
    # Clients of other languages may not report the start of the run: then at least its
    # last node counts.
    start = failure.run_start or failure.time - failure.seconds
    return EndedRun(
        service=failure.service,
        graph=failure.graph,
        run=failure.run,
        time=failure.time,
        seconds=max(0.0, failure.time - start),
        outcome=failure.outcome,
        reason=EndReason.ERROR if failure.outcome == "error" else EndReason.UNKNOWN,
        node=failure.node,
        action="",
        visits=max(1, failure.visits),
        path=_path(failure),
        path_visits=list(failure.path_visits),
        trace_id=failure.trace_id,
    )


def _path(failure: FailureRecord) -> list[str]:
    """Return the visited nodes; the failed node is last, even if visited before."""
    path = list(failure.path)
    return path if path[-1:] == [failure.node] else [*path, failure.node]


def _ends(
    snapshot: AgentSnapshot, window: Window, query: RunsQuery
) -> list[RunEndCount]:
    """Return how runs ended, the most frequent first."""
    matches = SeriesFilter(service=query.service, graph=query.graph)
    groups = snapshot.groups(
        [Kind.RUN], lambda key: (key.service, key.graph), matches=matches
    )
    stats = window.stats(groups, {Dimension.ACTION})
    values = snapshot.view.registry.ends.values
    ends = [
        RunEndCount(
            service=groups.names[group][0],
            graph=groups.names[group][1],
            **values[number]._asdict(),
            count=count,
        )
        for group, number, count in stats.counted(Dimension.ACTION)
    ]
    return sorted(ends, key=lambda end: (-end.count, end.service, end.graph, end.node))


def _visits(
    snapshot: AgentSnapshot, window: Window, query: RunsQuery
) -> list[GraphVisits]:
    matches = SeriesFilter(service=query.service, graph=query.graph)
    groups = snapshot.groups(
        [Kind.RUN], lambda key: (key.service, key.graph), matches=matches
    )
    stats = window.stats(groups, ())
    most: dict[tuple[str, str], int] = {}
    for rows in snapshot.view.longest.values():
        for row, visits in rows.items():
            key = snapshot.keys[row]
            if key.kind is Kind.RUN:
                name = (key.service, key.graph)
                most[name] = max(most.get(name, 0), visits)
    return [
        GraphVisits(
            service=name[0],
            graph=name[1],
            runs=int(stats.executions[n]),
            average=float(stats.attempts[n] / stats.executions[n]),
            most=most.get(name),
        )
        for name, n in sorted(groups.items())
        if stats.executions[n]
    ]

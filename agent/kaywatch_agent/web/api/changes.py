"""Recent changes: alerts, processes, versions, topologies and errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Final, Literal

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from kaywatch_agent.aggregate.bucket import (
    DIMENSION_SHIFT,
    NUMBER_MASK,
    ROW_SHIFT,
    Bucket,
    Dimension,
)
from kaywatch_agent.aggregate.view import BUCKET_SECONDS, DAY
from kaywatch_agent.model.alerts import NO_DATA, AlertDetails
from kaywatch_agent.model.bounds import Moment
from kaywatch_agent.model.series import OTHER, ClientState, Kind
from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.units import DURATION_PATTERN, parse_duration
from kaywatch_agent.web.api.episodes import episodes_of
from kaywatch_agent.web.api.parameters import DURATION_TEXT, Service
from kaywatch_agent.web.api.schema import ClientDetails, ResponseBody
from kaywatch_agent.web.snapshot import AgentSnapshot

__all__ = ["list_changes"]

MAX_CHANGES: Final = 200

ChangeKind = Literal[
    "alert",
    "process_started",
    "process_ended",
    "process_died",
    "version",
    "topology",
    "new_graph",
    "new_node",
    "new_error",
]


class ChangesQuery(Struct, frozen=True):
    """A period that ends now, and a service."""

    since: Annotated[
        str,
        Meta(
            pattern=rf"^(?=.*[1-9]){DURATION_PATTERN}$",
            description="How long ago the period starts; longer than a day counts as"
            " a day.",
            examples=["1h"],
            extra={"allowed": DURATION_TEXT},
        ),
    ] = "1h"
    service: Service | None = None


class ChangeView(ResponseBody):
    """One change; the names and the severity are empty where they do not apply."""

    time: Moment
    kind: ChangeKind
    service: str
    graph: str
    node: str
    text: str
    severity: str


class ChangeList(ResponseBody):
    """Changes, the latest first; at most 200."""

    time: Moment
    changes: list[ChangeView]


def list_changes(snapshot: AgentSnapshot, query: ChangesQuery) -> ChangeList:
    """Return recent changes."""
    # Buckets of a minute are kept for a day; earlier first events have no time.
    start = snapshot.now - min(DAY, parse_duration(query.since))
    changes = [
        change
        for source in (_alerts, _processes, _versions, _topologies, _first_events)
        for change in source(snapshot, start)
        if change.time >= start and query.service in (None, change.service)
    ]
    changes.sort(key=lambda change: -change.time)
    return ChangeList(time=snapshot.now, changes=changes[:MAX_CHANGES])


# -- inside --------------------------------------------------------------------------


def _change(
    time: float,
    kind: ChangeKind,
    text: str,
    service: str,
    graph: str = "",
    node: str = "",
    severity: str = "",
) -> ChangeView:
    return ChangeView(
        time=time,
        kind=kind,
        service=service,
        graph=graph,
        node=node,
        text=text,
        severity=severity,
    )


def _alerts(snapshot: AgentSnapshot, start: float) -> Iterator[ChangeView]:
    alerts = snapshot.alerts()
    for alert in alerts.alerts:
        life = alert.lifecycle
        # Checked first, because rendering a summary takes longer.
        if max(life.fired, life.ended or 0.0) < start:
            continue
        facts = alerts.describe(alert)
        place = [facts.labels.get(name, "") for name in ("service", "graph", "node")]
        subject = *place, facts.severity
        if life.fired >= start:
            text = f"fired: {_reason(alert, facts, place)}"
            yield _change(life.fired, "alert", text, *subject)
        if life.ended:
            word = "no data" if life.reason == NO_DATA else "resolved"
            yield _change(life.ended, "alert", f"{word}: {facts.summary}", *subject)


def _reason(alert: Alert, facts: AlertDetails, place: Sequence[str]) -> str:
    """Return why an alert fired; that of its end is another."""
    episodes = episodes_of(alert, facts)
    if alert.lifecycle.ended is None or not episodes:
        return facts.summary
    where = " / ".join(filter(None, place))
    return f"{where}: {alert.rule}, {episodes[-1].text}"


def _processes(snapshot: AgentSnapshot, _: float) -> Iterator[ChangeView]:
    ended: dict[ClientState, ChangeKind] = {
        ClientState.ENDED: "process_ended",
        ClientState.DIED: "process_died",
    }
    for client in snapshot.clients:
        name = f"process {client.pid}" + (f" on {client.host}" if client.host else "")
        text = f"{name} started"
        yield _change(client.first_seen, "process_started", text, client.service)
        kind = ended.get(client.state)
        if kind is not None:
            text = f"{name} {'died' if kind == 'process_died' else 'ended'}"
            yield _change(client.since, kind, text, client.service)


def _versions(snapshot: AgentSnapshot, _: float) -> Iterator[ChangeView]:
    """Yield each process whose version differs from the one before in its service."""
    versions: dict[str, str] = {}
    clients: list[ClientDetails] = [*snapshot.clients]
    # A deployment replaces processes one by one: only the first of a version is a
    # change.
    for client in sorted(clients, key=lambda client: client.first_seen):
        # Only the application knows its version, and may send it as a tag.
        version = client.tags.get("version")
        if version is None:
            continue
        before = versions.get(client.service, version)
        versions[client.service] = version
        if version != before:
            text = f"version {version}, before {before}"
            yield _change(client.first_seen, "version", text, client.service)


def _topologies(snapshot: AgentSnapshot, _: float) -> Iterator[ChangeView]:
    for (service, graph), record in snapshot.view.topologies.items():
        # The first report of a topology is not a change.
        if record.changed > record.since:
            text = f"{graph}: nodes or edges changed"
            yield _change(record.changed, "topology", text, service, graph)


def _first_events(snapshot: AgentSnapshot, start: float) -> Iterator[ChangeView]:
    """Yield graphs, nodes and errors whose events are all within the period."""
    view = snapshot.view
    period = start, view.now + BUCKET_SECONDS
    recent = view.merged(*period)
    rows, facts = _only_in(recent, view.totals)
    if not len(rows) and not len(facts):
        return
    times = _first_times(snapshot, start, rows, facts)
    yield from _first_executions(snapshot, rows, times)
    errors = view.registry.errors.values
    for fact in facts.tolist():
        row = fact >> ROW_SHIFT
        if row < len(snapshot.keys):
            key, error = snapshot.keys[row], errors[fact & NUMBER_MASK]
            text = f"{key.node}: first {error.type} in {error.phase or 'it'}"
            place = (key.service, key.graph)
            yield _change(times[fact], "new_error", text, *place, key.node)


def _first_executions(
    snapshot: AgentSnapshot, rows: NDArray[np.int64], times: Mapping[int, float]
) -> Iterator[ChangeView]:
    """Yield the new graphs, and the new nodes of other graphs."""
    old = {
        (key.service, key.graph)
        for row in set(snapshot.view.totals.rows.tolist()).difference(rows.tolist())
        if row < len(snapshot.keys) and (key := snapshot.keys[row]).kind is Kind.NODE
    }
    graphs: dict[tuple[str, str], float] = {}
    for row in rows.tolist():
        key = snapshot.keys[row] if row < len(snapshot.keys) else None
        # `__other__` stands for many names, none of which is known to be new.
        if key is None or key.kind is not Kind.NODE or OTHER in key:
            continue
        place, time = (key.service, key.graph), times[row << ROW_SHIFT]
        # All nodes of a new graph are new, so one change for the graph is enough.
        if not key.graph or place in old:
            text = f"{key.node}: first execution"
            yield _change(time, "new_node", text, *place, key.node)
        else:
            graphs[place] = min(graphs.get(place, time), time)
    for (service, graph), time in graphs.items():
        yield _change(time, "new_graph", f"{graph}: first run", service, graph)


def _only_in(
    recent: Bucket, totals: Bucket
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows, and the facts about errors, with all their events in a bucket.

    A late event is in the totals only, so its row does not count as new.
    """
    totals_of = _lookup(totals.rows, totals.executions, recent.rows)
    rows = recent.rows[totals_of == recent.executions]
    is_error = (recent.fact_keys >> DIMENSION_SHIFT) & 15 == int(Dimension.ERROR)
    keys, counts = recent.fact_keys[is_error], recent.fact_counts[is_error]
    totals_of = _lookup(totals.fact_keys, totals.fact_counts, keys)
    return rows, keys[totals_of == counts]


def _lookup(
    keys: NDArray[np.int64], values: NDArray[np.int64], wanted: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the values of sorted keys; all wanted ones are among them."""
    selected: NDArray[np.int64] = values[np.searchsorted(keys, wanted)]
    return selected


def _first_times(
    snapshot: AgentSnapshot,
    start: float,
    rows: NDArray[np.int64],
    facts: NDArray[np.int64],
) -> dict[int, float]:
    """Return when the buckets begin in which rows (shifted) and facts are first."""
    times: dict[int, float] = {}
    view = snapshot.view
    for begin, bucket in view.between(start, view.now + BUCKET_SECONDS):
        time = float(max(begin, start))
        rows, present = _split(rows, bucket.rows)
        times.update(dict.fromkeys((present << ROW_SHIFT).tolist(), time))
        facts, present = _split(facts, bucket.fact_keys)
        times.update(dict.fromkeys(present.tolist(), time))
        if not len(rows) and not len(facts):
            break
    return times


def _split(
    wanted: NDArray[np.int64], keys: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the wanted keys that sorted keys lack, and the keys that they have."""
    if not len(keys):
        return wanted, keys
    at = np.searchsorted(keys, wanted)
    present = keys[np.minimum(at, len(keys) - 1)] == wanted
    return wanted[~present], wanted[present]

"""Metrics that no bucket contains: of processes, of single runs, and of rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from kaywatch_agent.aggregate.view import BUCKET_SECONDS
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.records import NodeRevisits
from kaywatch_agent.model.series import ClientState, Kind, SeriesKey
from kaywatch_agent.rules import metrics
from kaywatch_agent.rules.matchers import matches
from kaywatch_agent.rules.rule import Rule
from kaywatch_agent.rules.windows import (
    Group,
    SeriesSelector,
    WindowCache,
    client_labels,
    select,
)

__all__ = ["live_values", "run_notes"]

_GONE: Final = (ClientState.ENDED, ClientState.DIED)


def live_values(rule: Rule, windows: WindowCache, metric: str) -> dict[Group, float]:
    """Return the values of a metric without `compute`, by group; NaN for unknown."""
    if metric == "alerts_refused":
        return _alerts_refused(rule, windows)
    if metric in _OF_CLIENT:
        return _client_values(rule, windows, metric)
    return _visits(rule, windows, metric)


def run_notes(
    rule: Rule, windows: WindowCache, metric: str, limit: float
) -> dict[Group, str]:
    """Return which run in progress exceeds a limit of visits, by group."""
    selector = select(metrics.find(metric), rule.per, rule.match)
    runs = _runs_in_progress(selector, windows.input.clients)
    return {group: text for group, (visits, text) in runs.items() if visits > limit}


# -- inside --------------------------------------------------------------------------


def _alerts_refused(rule: Rule, windows: WindowCache) -> dict[Group, float]:
    values: dict[Group, float] = {}
    for name, count in windows.input.refused.items():
        if matches(rule.match, {"rule": name}):
            group = (name,) if rule.per else ()
            values[group] = values.get(group, 0.0) + count
    return values


def _client_values(rule: Rule, windows: WindowCache, metric: str) -> dict[Group, float]:
    value_of = _OF_CLIENT[metric]
    since = windows.input.now - rule.window
    values: dict[Group, float] = {}
    for client in windows.input.clients:
        labels = client_labels(client)
        if not matches(rule.match, labels):
            continue
        group = tuple([labels.get(label, "") for label in rule.per])
        value, known = value_of(client, since), values.get(group, math.nan)
        if math.isnan(known):
            values[group] = value
        elif not math.isnan(value):
            # Deaths add up; memory and CPU are those of the largest process.
            counts = metrics.METRICS[metric].counts
            values[group] = known + value if counts else max(known, value)
    return values


def _memory(client: Client, _: float) -> float:
    if client.state in _GONE:
        return 0.0
    return math.nan if client.sample is None else float(client.sample.rss_bytes)


def _cpu(client: Client, _: float) -> float:
    if client.state in _GONE:
        return 0.0
    return math.nan if client.cpu_percent is None else client.cpu_percent


def _died(client: Client, since: float) -> float:
    return float(client.state is ClientState.DIED and client.since >= since)


_OF_CLIENT: Final[Mapping[str, Callable[[Client, float], float]]] = {
    "memory_rss": _memory,
    "cpu_percent": _cpu,
    "processes_died": _died,
}


def _visits(rule: Rule, windows: WindowCache, metric: str) -> dict[Group, float]:
    """Return the most visits by one run, ended in the window or in progress."""
    data = windows.input
    selector = select(metrics.find(metric), rule.per, rule.match)
    groups = windows.groups(selector)
    values = dict.fromkeys(groups.names, 0.0)
    first = int((data.now - rule.window) // BUCKET_SECONDS)
    for bucket, visits_by_row in data.view.longest.items():
        for row, visits in visits_by_row.items():
            number = groups.numbers[row] if row < len(groups.numbers) else -1
            if bucket >= first and number >= 0:
                name = groups.names[number]
                values[name] = max(values[name], visits)
    for group, (visits, _) in _runs_in_progress(selector, data.clients).items():
        values[group] = max(values.get(group, 0.0), visits)
    return values


def _runs_in_progress(
    selector: SeriesSelector, clients: Iterable[Client]
) -> dict[Group, tuple[int, str]]:
    """Return the most visits by a run in progress, and which run it is, by group."""
    most: dict[Group, tuple[int, str]] = {}
    for client in clients:
        if client.state is not ClientState.CONNECTED:
            continue
        runs = [NodeRevisits(f.graph, "", f.visits, f.run) for f in client.in_flight]
        for seen in (*runs, *client.loops):
            kind = Kind.NODE if seen.node else Kind.RUN
            key = SeriesKey(kind, client.service, seen.graph, seen.node)
            group = selector.group(key)
            if group is not None and seen.visits > most.get(group, (0, ""))[0]:
                text = f"pid {client.pid} on {client.host}, run {seen.run}"
                most[group] = seen.visits, text
    return most

"""Metrics of processes, single runs and rules, which no bucket contains."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from kaywatch_agent.model.client import Client
from kaywatch_agent.model.series import ClientState
from kaywatch_agent.rules.departures import Departure, departure, has_departed
from kaywatch_agent.rules.drift import action_drift
from kaywatch_agent.rules.graph_values import GRAPH_VALUES
from kaywatch_agent.rules.matchers import matches
from kaywatch_agent.rules.rhythm import missing_runs
from kaywatch_agent.rules.rule import Rule
from kaywatch_agent.rules.visits import most_visits, relative_visits
from kaywatch_agent.rules.windows import (
    Group,
    LiveValue,
    WindowCache,
    client_labels,
)
from kaywatch_agent.units import duration

__all__ = ["live_values"]

_GONE: Final = (ClientState.ENDED, ClientState.DIED)

# A note names at most this many of the nodes that a process was running when it died.
MAX_IN_FLIGHT: Final = 3


def live_values(
    rule: Rule, windows: WindowCache, metric: str
) -> Mapping[Group, LiveValue]:
    """Return the values of a metric without `compute`, by group; NaN for unknown."""
    if metric in GRAPH_VALUES:
        return GRAPH_VALUES[metric](rule, windows)
    match metric:
        case "alerts_refused":
            return _alerts_refused(rule, windows)
        case "export_rejected":
            return _export_rejected(rule, windows)
        case "processes_died":
            return _deaths(rule, windows)
        case "memory_rss":
            return _largest(rule, windows, _memory)
        case "cpu_percent":
            return _largest(rule, windows, _cpu)
        case "missing_runs":
            return missing_runs(rule, windows)
        case "visits_over_usual" | "runaway_factor":
            return relative_visits(rule, windows, metric)
        case "action_drift":
            return action_drift(rule, windows)
    return most_visits(rule, windows, metric)


# -- inside --------------------------------------------------------------------------


def _alerts_refused(rule: Rule, windows: WindowCache) -> Mapping[Group, LiveValue]:
    counts: Counter[Group] = Counter()
    for name, count in windows.input.refused.items():
        if matches(rule.match, {"rule": name}):
            counts[(name,) if rule.per else ()] += count
    return {group: LiveValue(float(count)) for group, count in counts.items()}


def _export_rejected(rule: Rule, windows: WindowCache) -> Mapping[Group, LiveValue]:
    counts: dict[Group, Counter[str]] = {}
    for server, reasons in windows.input.rejected.items():
        if matches(rule.match, {"server": server}):
            counts.setdefault((server,) if rule.per else (), Counter()).update(reasons)
    return {
        group: LiveValue(
            float(reasons.total()),
            ", ".join(f"{count} {reason}" for reason, count in reasons.items()),
        )
        for group, reasons in counts.items()
    }


def _grouped_clients(
    rule: Rule, windows: WindowCache
) -> Iterator[tuple[Group, Client]]:
    """Yield the matching clients, with their groups."""
    for client in windows.input.clients:
        labels = client_labels(client)
        if matches(rule.match, labels):
            yield tuple([labels.get(label, "") for label in rule.per]), client


def _largest(
    rule: Rule, windows: WindowCache, value_of: Callable[[Client], float]
) -> dict[Group, LiveValue]:
    """Return the largest value of a process, with a note that names the process."""
    values: dict[Group, LiveValue] = {}
    departed: dict[Group, list[Departure]] = {}
    for group, client in _grouped_clients(rule, windows):
        value, known = value_of(client), values.get(group)
        if has_departed(client):
            departed.setdefault(group, []).append(departure(client, value))
        if client.state is not ClientState.CONNECTED:
            # An ended process uses nothing: its alert resolves instead of waiting for
            # data. Of a disconnected one, only the past is known.
            value = 0.0 if client.state in _GONE else math.nan
        if known is None or math.isnan(known.value) or value > known.value:
            values[group] = LiveValue(value, f"pid {client.pid} on {client.host}")
    for group, several in departed.items():
        values[group] = values[group]._replace(departed=tuple(several))
    return values


def _memory(client: Client) -> float:
    if client.sample is not None:
        return float(client.sample.rss_bytes)
    # The agent was restarted; only the most is stored.
    return float(client.peak_rss_bytes) if has_departed(client) else math.nan


def _cpu(client: Client) -> float:
    return math.nan if client.cpu_percent is None else client.cpu_percent


def _deaths(rule: Rule, windows: WindowCache) -> dict[Group, LiveValue]:
    """Return how many processes died in the window, or earlier without a successor."""
    now = windows.input.now
    newest: dict[str, float] = {}
    for client in windows.input.clients:
        if client.state is ClientState.CONNECTED:
            first = max(client.first_seen, newest.get(client.service, 0.0))
            newest[client.service] = first
    dead: dict[Group, list[Client]] = {}
    for group, client in _grouped_clients(rule, windows):
        known = dead.setdefault(group, [])
        is_replaced = newest.get(client.service, 0.0) >= client.since
        is_recent = client.since >= now - rule.window
        if client.state is ClientState.DIED and (is_recent or not is_replaced):
            known.append(client)
    return {
        group: LiveValue(float(len(clients)), _deaths_note(clients, newest))
        for group, clients in dead.items()
    }


def _deaths_note(dead: list[Client], newest: Mapping[str, float]) -> str:
    """Return which process died last, what it was running, and whether others run."""
    if not dead:
        return ""
    last = max(dead, key=lambda client: client.since)
    text = _death_note(last)
    if len(dead) > 1:
        text = f"{len(dead):,} processes have died; the last: {text}"
    if last.service not in newest:
        text += "; no process of the service is connected"
    return text


def _death_note(client: Client) -> str:
    text = f"pid {client.pid} on {client.host} died"
    # The time of what was running is lost with it.
    running = [
        f"{flight.graph} / {flight.node}"
        + (f" for {duration(client.since - flight.start)}" if flight.start else "")
        for flight in client.in_flight
    ]
    if not running:
        return text
    more = len(running) - MAX_IN_FLIGHT
    named = ", ".join(running[:MAX_IN_FLIGHT]) + (
        f" and {more} more" if more > 0 else ""
    )
    return f"{text} while running {named}"

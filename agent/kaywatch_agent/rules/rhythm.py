"""Graphs that stopped running: how many runs their own rhythm lets expect by now.

Strategy: the runs of yesterday and of a week ago, each in the hours of the present
pause, are what the pause should have had; the smaller number counts. A graph that rests
at night rested last night, and one that rests on Sundays rested a week ago. Before a
week is known, only graphs that ran in every hour so far are judged.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from kaywatch_agent.aggregate.view import DAY, HOUR
from kaywatch_agent.model.series import ClientState, Kind
from kaywatch_agent.rules.past_hours import HOURS
from kaywatch_agent.rules.result import Floats, Ints
from kaywatch_agent.rules.rule import Rule
from kaywatch_agent.rules.windows import Group, LiveValue, SeriesSelector, WindowCache
from kaywatch_agent.units import duration

__all__ = ["missing_runs"]

# A deployment or a restart may pause a busy graph for this many seconds.
MIN_PAUSE: Final = 300.0


def missing_runs(rule: Rule, windows: WindowCache) -> dict[Group, LiveValue]:
    """Return how many runs are missing since the last one, by graph."""
    selector = SeriesSelector(frozenset({Kind.RUN}), frozenset(), rule.per, rule.match)
    groups, stats = windows.stats(selector, math.inf)
    values = dict.fromkeys(groups, LiveValue(0.0))
    now = windows.input.now
    # What happened before the agent's start is unknown: it may have been down.
    begin = np.maximum(stats.last_time, now - windows.input.covered)
    paused = np.flatnonzero(now - begin > MIN_PAUSE)
    if not len(paused):
        return values
    hourly = windows.past.executions(
        selector, windows.groups(selector), windows.input.view
    )
    expected = _expected(hourly[paused], begin[paused], now)
    resting = _resting_services(windows)
    excused = _running_graphs(windows) | _inner_graphs(windows)
    for n, count in zip(paused.tolist(), expected.tolist(), strict=True):
        labels = dict(zip(rule.per, groups[n], strict=True))
        service, graph = labels.get("service", ""), labels.get("graph", "")
        if service not in resting and (service, graph) not in excused:
            pause = f"no run for {duration(now - begin[n])}"
            note = f"{pause}; about {count:,.0f} are usual in this time"
            values[groups[n]] = LiveValue(count, note)
    return values


# -- inside --------------------------------------------------------------------------


def _expected(runs: Ints, begin: Floats, now: float) -> Floats:
    """Return how many runs the pauses that began at `begin` should have had.

    Args:
        runs: by group and hour, as `PastHours.executions` returns them.
        begin: Unix seconds, by group.
        now: Unix seconds.
    """
    first = (now // HOUR - HOURS) * HOUR
    # In hours from the first one.
    start, end = (np.maximum(begin, now - DAY) - first) / HOUR, (now - first) / HOUR
    yesterday = _runs_between(runs, start - 24, end - 24)
    last_week = _runs_between(runs, start - 7 * 24, end - 7 * 24)
    earliest = np.where(runs.any(axis=1), (runs > 0).argmax(axis=1), HOURS)
    last = np.clip(start, 0, HOURS).astype(np.int64)
    active = (runs > 0) & (np.arange(HOURS + 1) <= last[:, None])
    is_steady = (active.sum(axis=1) == last - earliest + 1) & (last - earliest >= 24)
    steady = np.where(is_steady, yesterday, 0.0)
    knows_week = earliest <= start - 7 * 24
    return np.where(knows_week, np.minimum(yesterday, last_week), steady)


def _runs_between(runs: Ints, start: Floats, end: float) -> Floats:
    """Return the runs between two times, in hours from the first one."""
    rows = np.arange(len(runs))
    before, last = np.clip(start, 0, HOURS).astype(np.int64), int(max(0.0, end))
    total = np.concatenate([np.zeros((len(runs), 1)), runs.cumsum(axis=1)], axis=1)
    whole = total[:, last] - total[rows, np.minimum(before + 1, last)]
    # When the runs of an hour began or stopped is unknown, so a part of an hour counts
    # only if there were runs in the hours around it.
    around = np.pad(runs, ((0, 0), (1, 1)))
    steady = np.minimum(runs, 2 * np.minimum(around[:, :-2], around[:, 2:]))
    is_one_hour = before == last
    ends = np.where(is_one_hour, end - start, end - last) * steady[:, last]
    starts = np.where(is_one_hour, 0.0, before + 1 - start) * steady[rows, before]
    return np.where(start < 0, 0.0, whole + ends + starts)


def _resting_services(windows: WindowCache) -> set[str]:
    """Return the services whose processes all ended in an orderly way."""
    states: dict[str, set[ClientState]] = {}
    for client in windows.input.clients:
        states.setdefault(client.service, set()).add(client.state)
    return {name for name, known in states.items() if known == {ClientState.ENDED}}


def _running_graphs(windows: WindowCache) -> set[tuple[str, str]]:
    """Return the service and name of each graph that runs at the moment."""
    return {
        (client.service, one.graph)
        for client in windows.input.clients
        if client.state is ClientState.CONNECTED
        for one in client.in_flight
    }


def _inner_graphs(windows: WindowCache) -> set[tuple[str, str]]:
    """Return the service and name of each graph inside a node.

    It runs when the outer graph does, whose silence is enough.
    """
    keys = windows.input.view.registry.keys
    return {(key.service, key.node) for key in keys if key.kind is Kind.NODE}

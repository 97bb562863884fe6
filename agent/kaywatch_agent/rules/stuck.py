"""Finds nodes that have been in flight for many times as long as they usually take.

Strategy: only the nodes in flight are compared with their past, a few at a time. The
cost of an evaluation depends neither on the number of series nor on how many histogram
buckets all of them have: with 5,000 series of 700 each, it took 0.6 s and 200 MB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from kaywatch_agent.aggregate.bucket import Dimension, select
from kaywatch_agent.aggregate.group_stats import GroupStats, SeriesGroups
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.records import InFlight
from kaywatch_agent.model.series import ClientState
from kaywatch_agent.rules.departures import (
    Departure,
    departure,
    has_departed,
    newest,
)
from kaywatch_agent.rules.result import Floats, RuleResult, make_result
from kaywatch_agent.rules.rule import Rule, Stuck
from kaywatch_agent.rules.windows import (
    Group,
    SeriesSelector,
    WindowCache,
    select_nodes,
)
from kaywatch_agent.units import duration

__all__ = ["evaluate_stuck"]

# The groups whose histograms are added up at a time. Each series of them has at most
# 700 facts of 16 bytes, so these take 3 MB, and as much again while they are sorted.
CHUNK: Final = 256


def evaluate_stuck(rule: Rule, windows: WindowCache, condition: Stuck) -> RuleResult:
    """Return the longest time in flight by group; the limit of others is unknown."""
    selector = select_nodes(rule.per, rule.match)
    known = windows.groups(selector)
    oldest = _oldest_in_flight(selector, windows)
    departed = _departed(selector, windows)
    groups = list(dict.fromkeys([*known.names, *oldest, *departed]))
    p99 = np.full(len(groups), np.nan)
    wanted = {*oldest, *departed}
    at = [n for n, group in enumerate(known.names) if group in wanted]
    p99[at] = _percentiles(windows, known, at, rule.min_executions)
    # A busy machine delays a fast node by more than ten times its percentile.
    limit = np.maximum(p99 * condition.factor, condition.at_least)
    if condition.max_age is not None:
        # `fmin` ignores NaN: the fixed limit needs no percentile.
        limit = np.fmin(limit, condition.max_age)
    # With nothing in flight, the age is 0, so that the condition is clear.
    age = np.array([oldest.get(group, (0.0, ""))[0] for group in groups])
    result = make_result(
        rule,
        groups,
        breach=age > limit,
        unknown=np.isnan(limit) & (age > 0),
        value=age,
        threshold=limit,
    )
    for n in result.breaching:
        beyond = ""
        if not math.isnan(p99[n]):
            beyond = f"{duration(age[n] - p99[n])} longer than 99 % of executions; "
        result.notes[n] = beyond + oldest[groups[n]][1]
    result.departed = _newest_beyond(dict(zip(groups, limit, strict=True)), departed)
    return result


# -- inside --------------------------------------------------------------------------


def _oldest_in_flight(
    selector: SeriesSelector, windows: WindowCache
) -> dict[Group, tuple[float, str]]:
    """Return the longest time in flight in seconds, and where it is, by group."""
    oldest: dict[Group, tuple[float, str]] = {}
    for client in windows.input.clients:
        # When a process died, its nodes in flight went away with it.
        if client.state is not ClientState.CONNECTED:
            continue
        for group, flight in _in_flight(selector, client):
            age = windows.input.now - flight.start
            if age > oldest.get(group, (-1.0, ""))[0]:
                text = f"pid {client.pid} on {client.host}, run {flight.run}"
                oldest[group] = age, text
    return oldest


def _departed(
    selector: SeriesSelector, windows: WindowCache
) -> dict[Group, list[Departure]]:
    """Return what was in flight in processes that are gone, by group."""
    departed: dict[Group, list[Departure]] = {}
    for client in filter(has_departed, windows.input.clients):
        for group, flight in _in_flight(selector, client):
            age = client.since - flight.start
            departed.setdefault(group, []).append(departure(client, age))
    return departed


def _newest_beyond(
    limits: Mapping[Group, float], departed: Mapping[Group, list[Departure]]
) -> dict[Group, Departure]:
    """Return what went away last in each group, of what was beyond its limit."""
    beyond = {
        group: [one for one in several if one.value > limits[group]]
        for group, several in departed.items()
    }
    return {group: newest(several) for group, several in beyond.items() if several}


def _in_flight(
    selector: SeriesSelector, client: Client
) -> Iterator[tuple[Group, InFlight]]:
    """Yield the selected nodes in flight of a client whose start is known."""
    for flight in client.in_flight:
        group = selector.group_of(
            {"service": client.service, "graph": flight.graph, "node": flight.node}
        )
        if flight.start and group is not None:
            yield group, flight


def _percentiles(
    windows: WindowCache, groups: SeriesGroups[Group], wanted: list[int], least: int
) -> Floats:
    """Return the 99th percentiles of groups since first seen.

    Args:
        windows: the input.
        groups: all groups.
        wanted: the numbers of some of them.
        least: a group with fewer executions has NaN instead of a percentile.
    """
    totals = windows.input.view.totals
    results: list[Floats] = [np.zeros(0)]
    for start in range(0, len(wanted), CHUNK):
        some = wanted[start : start + CHUNK]
        place = np.full(len(groups) + 1, -1)  # the last one is of series without group
        place[some] = np.arange(len(some))
        numbers = place[groups.numbers]
        stats = GroupStats(numbers, len(some), {Dimension.HISTOGRAM})
        stats.add(select(totals, np.flatnonzero(numbers >= 0)))
        p99 = np.array(stats.quantiles(0.99)[0], np.float64)
        results.append(np.where(stats.executions >= least, p99, np.nan))
    return np.concatenate(results)

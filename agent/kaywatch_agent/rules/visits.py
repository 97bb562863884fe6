"""Visits of one run: the most within a window, also compared with the usual most.

Strategy: a loop is a run that visits a node more often than any earlier run did. The
usual most is learned from runs that ended before the window, and survives restarts. A
run that reaches no new node meanwhile, such as A-B-A-B, is sooner out of hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from kaywatch_agent.aggregate.view import BUCKET_SECONDS, DAY, View
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.records import NodeRevisits
from kaywatch_agent.model.series import ClientState, Kind, SeriesKey
from kaywatch_agent.rules import metrics
from kaywatch_agent.rules.cost import MeanCost, mean_costs
from kaywatch_agent.rules.departures import Departure, departure, has_departed
from kaywatch_agent.rules.rule import Rule
from kaywatch_agent.rules.windows import (
    Group,
    LiveValue,
    NodePlace,
    SeriesSelector,
    WindowCache,
    select,
    select_nodes,
)

__all__ = ["UsualVisits", "most_visits", "relative_visits"]

# A node that is visited this often in one run is usual in any graph: OpenClaw warns
# at as many equal calls.
MIN_USUAL: Final = 10

# Before this many runs of a graph have ended, its usual most is unknown. A polling loop
# may visit a node a hundred times.
MIN_RUNS: Final = 20
UNKNOWN_USUAL: Final = 100

# Visits since the run last reached a new node: 20 of them are as serious as 30 others.
# OpenClaw blocks at 20 equal calls.
CYCLE_WEIGHT: Final = 1.5

# A run that loops is not learned in full when it has ended, or the next loop would be
# usual; a workload that has grown is learned in a few runs.
MAX_GROWTH: Final = 3

# Runs are learned once they ended this long ago, so that a rule compares a run with
# earlier ones. Afterwards the most of a week counts.
SETTLED_SECONDS: Final = 600.0
FORGET_SECONDS: Final = 7 * DAY
MAX_PLACES: Final = 10_000


class _Most(msgspec.Struct, array_like=True):
    """The usual most visits of a node, and when a run had as many."""

    visits: int
    at: float


class UsualVisits:
    """The most visits of each node by one run within a week.

    Attributes:
        most: by service, graph and node.
    """

    def __init__(self) -> None:
        self.most: Mapping[NodePlace, int] = {}
        self._known: dict[NodePlace, _Most] = {}
        self._next = 0  # the number of the first bucket that was not learned yet
        self._is_changed = False

    def learn(self, view: View) -> None:
        """Learn from runs that ended before `SETTLED_SECONDS`."""
        end = int((view.now - SETTLED_SECONDS) // BUCKET_SECONDS)
        if end <= self._next:
            return
        new = {n: rows for n, rows in view.longest.items() if self._next <= n < end}
        self._next = end
        for number in sorted(new):
            for row, visits in new[number].items():
                key = view.registry.keys[row]
                if key.kind is Kind.NODE:
                    place = key.service, key.graph, key.node
                    self._learn(place, visits, number * BUCKET_SECONDS)
        if new:
            self.most = {place: most.visits for place, most in self._known.items()}

    def restore(self, data: bytes) -> None:
        """Restore the visits that were learned before a restart."""
        rows = msgspec.json.decode(data, type=list[tuple[str, str, str, int, float]])
        for service, graph, node, visits, at in rows:
            self._known[service, graph, node] = _Most(visits, at)
        self.most = {place: most.visits for place, most in self._known.items()}

    def document(self, *, full: bool = False) -> bytes | None:
        """Return the learned visits if they have changed since the last call."""
        if not (self._is_changed or (full and self._known)):
            return None
        self._is_changed = False
        rows = [(*place, most.visits, most.at) for place, most in self._known.items()]
        return msgspec.json.encode(rows)

    def _learn(self, place: NodePlace, visits: int, at: float) -> None:
        known = self._known.get(place)
        is_old = known is not None and at - known.at > FORGET_SECONDS
        if known is not None and not is_old and visits < known.visits:
            return
        limit = MAX_GROWTH * max(MIN_USUAL, known.visits if known else 0)
        # The latest are last, so the oldest are dropped first.
        self._known.pop(place, None)
        self._known[place] = _Most(min(visits, limit), at)
        if len(self._known) > MAX_PLACES:
            del self._known[next(iter(self._known))]
        self._is_changed = True


def relative_visits(
    rule: Rule, windows: WindowCache, metric: str
) -> dict[Group, LiveValue]:
    """Return the most visits of a node by one run, relative to the usual most.

    In a runaway factor, visits without a new node count `CYCLE_WEIGHT` times.
    """
    cycle_weight = CYCLE_WEIGHT if metric == "runaway_factor" else 0.0
    nodes = select_nodes(rule.per, rule.match)
    runs = _ended_runs(windows)
    most: dict[Group, tuple[float, int, _RunVisits]] = {}
    departed: dict[Group, list[Departure]] = {}
    for seen in _visits_of_nodes(rule, windows):
        labels = dict(zip(metrics.NODE_LABELS, seen.place, strict=True))
        group = nodes.group_of(labels)
        if group is None:
            continue
        usual = max(MIN_USUAL, windows.input.usual_visits.get(seen.place, 0))
        if runs.get(seen.place[:2], 0) < MIN_RUNS:
            usual = max(UNKNOWN_USUAL, usual)
        value = max(seen.visits, seen.cycle * cycle_weight) / usual
        if seen.client is not None and has_departed(seen.client):
            departed.setdefault(group, []).append(departure(seen.client, value))
            continue
        if group not in most or value > most[group][0]:
            most[group] = value, usual, seen
    # Costs are only looked up for a loop: nearly always, there is none.
    is_looping = any(seen.visits > usual for _, usual, seen in most.values())
    costs = mean_costs(nodes, rule.window, windows) if is_looping else {}
    values = dict.fromkeys(windows.groups(nodes).names, LiveValue(0.0))
    for group, (value, usual, seen) in most.items():
        text = seen.text(usual, cycle_weight, costs.get(group))
        values[group] = LiveValue(value, text, usual=float(usual))
    return _with_departures(values, departed)


def most_visits(
    rule: Rule, windows: WindowCache, metric: str
) -> dict[Group, LiveValue]:
    """Return the most visits by one run, ended in the window or in progress."""
    data = windows.input
    selector = select(metrics.find(metric), rule.per, rule.match)
    groups = windows.groups(selector)
    values = dict.fromkeys(groups.names, LiveValue(0.0))
    first = int((data.now - rule.window) // BUCKET_SECONDS)
    for bucket, visits_by_row in data.view.longest.items():
        for row, visits in visits_by_row.items():
            # Rows may be newer than the groups.
            number = groups.numbers[row] if row < len(groups.numbers) else -1
            if bucket >= first and number >= 0:
                name = groups.names[number]
                if visits > values[name].value:
                    values[name] = LiveValue(float(visits))
    for group, run in _runs_in_progress(selector, data.clients).items():
        if run.visits >= values.get(group, LiveValue(0.0)).value:
            values[group] = LiveValue(float(run.visits), run.note)
    return _with_departures(values, _departed_runs(selector, data.clients))


# -- inside --------------------------------------------------------------------------


class _RunVisits(NamedTuple):
    """How often one run has visited a node.

    Attributes:
        place: the node.
        visits: all of them.
        cycle: those since the run last reached a new node; 0 if the run has ended.
        note: which run it is, if it is in progress.
        client: the process of a run that has not ended, as far as it is known.
    """

    place: NodePlace
    visits: int
    cycle: int = 0
    note: str = ""
    client: Client | None = None

    def text(self, usual: int, weight: float, cost: MeanCost | None) -> str:
        """Return a sentence on the visits, and what those beyond the usual cost."""
        text = (
            f"one run has visited it {self.visits:,} times, usually at most {usual:,}"
        )
        if self.cycle * weight > self.visits:
            text += f", and reached no new node for the last {self.cycle:,}"
        if self.note:
            text += f": {self.note}"
        extra = self.visits - usual
        spent = cost.of(extra) if cost is not None and extra > 0 else ""
        visits = "visit" if extra == 1 else f"{extra:,} visits"
        return f"{text}; the {visits} beyond that took {spent}" if spent else text


class _LongestRun(NamedTuple):
    """The run in progress with the most visits in a group."""

    visits: int
    note: str


def _runs_in_progress(
    selector: SeriesSelector, clients: Iterable[Client]
) -> dict[Group, _LongestRun]:
    longest: dict[Group, _LongestRun] = {}
    for client in clients:
        # The runs of a process that died went away with it.
        if client.state is not ClientState.CONNECTED:
            continue
        for group, seen in _runs_of(selector, client):
            known = longest.get(group)
            if known is None or seen.visits > known.visits:
                note = f"pid {client.pid} on {client.host}, run {seen.run}"
                longest[group] = _LongestRun(seen.visits, note)
    return longest


def _departed_runs(
    selector: SeriesSelector, clients: Iterable[Client]
) -> dict[Group, list[Departure]]:
    departed: dict[Group, list[Departure]] = {}
    for client in filter(has_departed, clients):
        for group, seen in _runs_of(selector, client):
            departed.setdefault(group, []).append(departure(client, seen.visits))
    return departed


def _runs_of(
    selector: SeriesSelector, client: Client
) -> Iterator[tuple[Group, NodeRevisits]]:
    """Yield the visits of a client's runs that have not ended, by group."""
    runs = [NodeRevisits(f.graph, "", f.visits, f.run) for f in client.in_flight]
    for seen in (*runs, *client.loops):
        kind = Kind.NODE if seen.node else Kind.RUN
        key = SeriesKey(kind, client.service, seen.graph, seen.node)
        group = selector.group(key)
        if group is not None:
            yield group, seen


def _with_departures(
    values: dict[Group, LiveValue], departed: Mapping[Group, list[Departure]]
) -> dict[Group, LiveValue]:
    """Return the values, with what went away in each group."""
    for group, several in departed.items():
        known = values.get(group, LiveValue(0.0))
        values[group] = known._replace(departed=tuple(several))
    return values


def _visits_of_nodes(rule: Rule, windows: WindowCache) -> Iterator[_RunVisits]:
    """Yield nodes that one run has visited again: how often, and which run.

    The runs of processes that went away are among them.
    """
    data = windows.input
    first = int((data.now - rule.window) // BUCKET_SECONDS)
    for bucket, visits_by_row in data.view.longest.items():
        for row, visits in visits_by_row.items() if bucket >= first else ():
            key = data.view.registry.keys[row]
            if key.kind is Kind.NODE:
                yield _RunVisits((key.service, key.graph, key.node), visits)
    for client in data.clients:
        # An orderly end is the end of its runs.
        for loop in client.loops if client.state is not ClientState.ENDED else ():
            if loop.node:
                place = client.service, loop.graph, loop.node
                note = f"pid {client.pid} on {client.host}, run {loop.run}"
                yield _RunVisits(place, loop.visits, loop.cycle, note, client)


def _ended_runs(windows: WindowCache) -> dict[Group, int]:
    """Return how many runs of each graph have ended since first seen."""
    selector = SeriesSelector(
        frozenset({Kind.RUN}), frozenset(), ("service", "graph"), ()
    )
    graphs, stats = windows.stats(selector, float("inf"))
    return dict(zip(graphs, stats.executions.tolist(), strict=True))

"""Metrics that combine several series: dead ends, unreached nodes, costs.

Each function returns the values by group of the rule's labels, and a note that
explains each value.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Final

from kaywatch.wire import EndReason
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.view import DAY, HOUR
from kaywatch_agent.model.series import Kind
from kaywatch_agent.rules.cost import WASTED_TOKENS, mean_costs, sums
from kaywatch_agent.rules.departures import Departure, unobserved
from kaywatch_agent.rules.past_hours import LAST_WEEK
from kaywatch_agent.rules.rule import Rule
from kaywatch_agent.rules.windows import (
    Group,
    LiveValue,
    SeriesSelector,
    WindowCache,
    select_nodes,
)
from kaywatch_agent.units import duration, money, quantity

__all__ = ["GRAPH_VALUES", "MIN_CALLS", "MIN_WASTE"]

_GRAPH: Final = ("service", "graph")

# With fewer calls of models in the window, a share of their cost is not meaningful.
MIN_CALLS: Final = 20

# A note names at most this many actions without an edge; a node rarely has several.
MAX_ACTIONS: Final = 3

# With fewer runs a week ago, the usual cost of a run is unknown.
MIN_RUNS: Final = 20

# Below this many US dollars, waste is not worth a notification.
MIN_WASTE: Final = 0.01


def _dead_ends(rule: Rule, windows: WindowCache) -> dict[Group, LiveValue]:
    """Return how many runs ended at an action without an edge, by their last node."""
    nodes = select_nodes(rule.per, rule.match)
    values = dict.fromkeys(windows.groups(nodes).names, LiveValue(0.0))
    graphs, stats = windows.stats(_runs(), rule.window, Dimension.ACTION)
    ends = windows.input.view.registry.ends.values
    actions: dict[Group, Counter[str]] = defaultdict(Counter)
    runs: Counter[Group] = Counter()
    places: dict[Group, Group] = {}  # the graph of each
    for graph, number, count in stats.counted(Dimension.ACTION):
        end = ends[number]
        if end.reason != EndReason.UNMATCHED_ACTION:
            continue
        place = dict(zip(_GRAPH, graphs[graph], strict=True))
        group = nodes.group_of({**place, "node": end.node})
        if group is not None:
            actions[group][end.action] += count
            places[group] = graphs[graph]
            runs[group] = max(runs[group], int(stats.executions[graph]))
    costs = mean_costs(_runs(), rule.window, windows) if actions else {}
    for group, counts in actions.items():
        total = counts.total()
        note = (
            f"{total:,} of {runs[group]:,} runs in {duration(rule.window)} ended"
            f" early: {_missing_edges(counts)}"
        )
        cost = costs.get(places[group])
        if cost is not None and (spent := cost.of(total)):
            note += f"; {'it' if total == 1 else 'they'} took {spent}"
        values[group] = LiveValue(float(total), note)
    stopped = unobserved(
        windows.input.now, f"no run of its graph in {duration(rule.window)}"
    )
    for group in _former_dead_ends(nodes, rule.window, windows) - actions.keys():
        values[group] = LiveValue(0.0, departed=(stopped,))
    return values


def _unreached_runs(rule: Rule, windows: WindowCache) -> dict[Group, LiveValue]:
    """Return how many runs a graph had without ever reaching a wired node.

    Runs before the last change of the topology do not count, as the node may be new.
    Once the change is an hour old, the runs of the last hour are counted; once it is a
    day old, the runs of the last day. If it has never changed, all runs count.
    """
    nodes = select_nodes(rule.per, rule.match)
    values = dict.fromkeys(windows.groups(nodes).names, LiveValue(0.0))
    counts = _RunCounts(windows)
    for (service, graph), names in _unreached_nodes(windows).items():
        groups = [
            nodes.group_of({"service": service, "graph": graph, "node": node})
            for node in names
        ]
        runs = counts.since_change(service, graph) if any(groups) else 0
        missing = (_missing_runs(service, graph, windows),)
        for group in groups:
            if group is not None:
                values[group] = LiveValue(float(runs), departed=missing)
    return values


def _wasted_share(rule: Rule, windows: WindowCache) -> dict[Group, LiveValue]:
    """Return the share of the cost of models that was spent on failed attempts."""
    cost, wasted, calls = (
        sums(rule, windows, metric)
        for metric in ("llm_cost_usd", "llm_wasted_cost_usd", "llm_calls")
    )
    tokens = sums(rule, windows, *WASTED_TOKENS)
    values = {}
    for group, total in cost.items():
        waste, wasted_tokens = wasted.get(group, 0.0), tokens.get(group, 0.0)
        enough = calls.get(group, 0.0) >= MIN_CALLS and total > 0
        share = waste / total if enough and waste >= MIN_WASTE else 0.0
        spent = f"{money(waste)} of {money(total)}"
        if wasted_tokens:
            spent += f" ({quantity(wasted_tokens, 'tokens')})"
        note = f"{spent} was spent on failed attempts"
        values[group] = LiveValue(share if enough else math.nan, note)
    return values


def _cost_over_usual(rule: Rule, windows: WindowCache) -> dict[Group, LiveValue]:
    """Return the cost per run, relative to the same hours of a week ago."""
    cost, cost_before = _now_and_before(rule, windows, Kind.COUNT, "llm_cost_usd")
    # Without models, the runs need not even be counted.
    runs, runs_before = _now_and_before(rule, windows, Kind.RUN) if cost else ({}, {})
    values = {}
    for group, count in runs.items():
        before, spent_before = runs_before[group], cost_before.get(group, 0.0)
        if not count or before < MIN_RUNS or not spent_before > 0:
            values[group] = LiveValue(math.nan, executions=int(count))
            continue
        spent = cost.get(group, 0.0)
        now, usual = spent / count, spent_before / before
        note = (
            f"a run costs {money(now)} instead of {money(usual)} {LAST_WEEK.name};"
            f" the runs of {duration(rule.window)} cost"
            f" {money(max(0.0, spent - usual * count))} more"
        )
        value = now / usual if spent >= MIN_WASTE else 0.0
        values[group] = LiveValue(value, note, int(count), usual)
    return values


# -- inside --------------------------------------------------------------------------


def _former_dead_ends(
    nodes: SeriesSelector, window: float, windows: WindowCache
) -> set[Group]:
    """Return where runs ever ended early, if no run of the graph ended in the window.

    Only a run shows that an edge was added.
    """
    _, recent = windows.stats(_runs(), window, Dimension.ACTION)
    graphs, ever = windows.stats(_runs(), math.inf, Dimension.ACTION)
    ends = windows.input.view.registry.ends.values
    groups = set()
    for graph, number, _ in ever.counted(Dimension.ACTION):
        end = ends[number]
        stopped = not recent.executions[graph]
        if stopped and end.reason == EndReason.UNMATCHED_ACTION:
            place = dict(zip(_GRAPH, graphs[graph], strict=True))
            group = nodes.group_of({**place, "node": end.node})
            if group is not None:
                groups.add(group)
    return groups


def _missing_edges(actions: Counter[str]) -> str:
    """Return a text that names the actions without an edge, the most frequent first."""
    if len(actions) == 1:
        return f'no node follows action "{next(iter(actions))}"'
    counted = [f'"{a}" ({n:,} times)' for a, n in actions.most_common(MAX_ACTIONS)]
    return f"no node follows actions {', '.join(counted)}"


def _runs() -> SeriesSelector:
    return SeriesSelector(frozenset({Kind.RUN}), frozenset(), _GRAPH, ())


def _now_and_before(
    rule: Rule, windows: WindowCache, kind: Kind, *metrics: str
) -> tuple[dict[Group, float], dict[Group, float]]:
    """Return the sums of the window, and of the same hours of a week ago.

    They are those of a metric, or the numbers of runs.
    """
    names = frozenset(metrics)
    selector = SeriesSelector(frozenset({kind}), names, rule.per, rule.match)
    groups, stats = windows.stats(selector, rule.window)
    executions, total = windows.past.sums(
        selector, LAST_WEEK, windows.groups(selector), windows.input.view
    )
    is_run = kind is Kind.RUN
    now = stats.executions if is_run else stats.total
    before = executions if is_run else total
    return (
        dict(zip(groups, now.tolist(), strict=True)),
        dict(zip(groups, before.tolist(), strict=True)),
    )


def _unreached_nodes(windows: WindowCache) -> dict[tuple[str, str], list[str]]:
    """Return the wired nodes of each graph that were never executed."""
    view = windows.input.view
    reached = {key[1:4] for key in view.registry.keys if key.kind is Kind.NODE}
    unreached: dict[tuple[str, str], list[str]] = {}
    for place, topology in view.topologies.items():
        names = [name for name in topology.nodes if (*place, name) not in reached]
        if names:
            unreached[place] = names
    return unreached


def _missing_runs(service: str, graph: str, windows: WindowCache) -> Departure:
    """Return why too few runs of a graph do not mean that a node was reached."""
    now, topology = windows.input.now, windows.input.view.topologies[service, graph]
    if topology.changed != topology.since and now - topology.changed < HOUR:
        text = "the graph has changed"
        return Departure(math.inf, topology.changed, text, is_final=True)
    return unobserved(now)


class _RunCounts:
    """The ended runs of graphs; each period is counted when it is first needed."""

    def __init__(self, windows: WindowCache) -> None:
        self._windows = windows

    def since_change(self, service: str, graph: str) -> int:
        """Return the runs that are certainly newer than the topology's last change."""
        data = self._windows.input
        topology = data.view.topologies[service, graph]
        age = data.now - topology.changed
        if topology.changed == topology.since:
            return self._ever.get((service, graph), 0)
        if age >= DAY:
            return self._day.get((service, graph), 0)
        return self._hour.get((service, graph), 0) if age >= HOUR else 0

    @cached_property
    def _ever(self) -> dict[Group, int]:
        return self._count(math.inf)

    @cached_property
    def _hour(self) -> dict[Group, int]:
        return self._count(HOUR)

    @cached_property
    def _day(self) -> dict[Group, int]:
        """The runs of the last 23 whole hours, which are counted once an hour."""
        windows, selector = self._windows, _runs()
        groups = windows.groups(selector)
        hourly = windows.past.executions(selector, groups, windows.input.view)
        counts = hourly[:, -24:-1].sum(axis=1).tolist()
        return dict(zip(groups.names, counts, strict=True))

    def _count(self, seconds: float) -> dict[Group, int]:
        graphs, stats = self._windows.stats(_runs(), seconds)
        return dict(zip(graphs, stats.executions.tolist(), strict=True))


GRAPH_VALUES: Final[
    Mapping[str, Callable[[Rule, WindowCache], Mapping[Group, LiveValue]]]
] = {
    "dead_ends": _dead_ends,
    "unreached_runs": _unreached_runs,
    "llm_wasted_share": _wasted_share,
    "cost_over_usual": _cost_over_usual,
}

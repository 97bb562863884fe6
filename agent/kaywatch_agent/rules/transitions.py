"""Evaluates rules about actions: their share of a node's executions, new and lost ones.

All groups are evaluated at once with array operations. Unknown values are NaN.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.rules.result import Floats, Ints, RuleResult, make_result
from kaywatch_agent.rules.rule import Rule, Transition
from kaywatch_agent.rules.windows import Group, WindowCache, select_nodes

__all__ = ["evaluate_change", "evaluate_share"]

# An action is reported as vanished only if at least this many were expected.
MIN_EXPECTED: Final = 10.0


def evaluate_change(
    rule: Rule, windows: WindowCache, condition: Transition
) -> RuleResult:
    """Evaluate whether an action is new or has vanished; a group has one action."""
    counts = _count_actions(rule, windows, condition)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(counts.executions > 0, counts.now / counts.executions, 0.0)
    if condition.change == "new":
        breach = (counts.now > 0) & (counts.before == 0)
        # Every action of a node that has hardly run is new.
        unknown = counts.earlier < rule.min_executions
    else:
        breach = (counts.now == 0) & (counts.expected() >= MIN_EXPECTED)
        # Without history there is no expected share.
        unknown = (counts.executions < rule.min_executions) | (counts.earlier <= 0)
    return make_result(
        rule,
        counts.groups,
        breach=breach,
        unknown=unknown,
        value=share,
        threshold=math.nan,
        executions=counts.executions,
        labels=(*rule.per, "action"),
    )


def evaluate_share(
    rule: Rule, windows: WindowCache, condition: Transition
) -> RuleResult:
    """Evaluate the share of an action in the executions of each group."""
    groups, stats = windows.stats(select_nodes(rule.per, rule.match), rule.window)
    actions = windows.input.view.registry.actions.values
    taken = np.zeros(len(groups))
    for group, action, count in stats.counted(Dimension.ACTION):
        if actions[action] == condition.action:
            taken[group] += count
    with np.errstate(divide="ignore", invalid="ignore"):
        share = taken / stats.executions
    above = math.nan if condition.above is None else condition.above
    below = math.nan if condition.below is None else condition.below
    too_high, too_low = share > above, share < below  # false for NaN
    return make_result(
        rule,
        [(*group, condition.action) for group in groups],
        breach=too_high | too_low,
        unknown=stats.executions < rule.min_executions,
        value=share,
        threshold=np.where(too_high | math.isnan(below), above, below),
        executions=stats.executions,
        labels=(*rule.per, "action"),
    )


# -- inside --------------------------------------------------------------------------


class _ActionCounts(NamedTuple):
    """How often each action was returned, and executions of its node.

    Attributes:
        groups: the labels of the nodes, each with an action.
        now, before: how often it was returned within the window, and before.
        executions, earlier: of the node within the window, and before.
    """

    groups: list[Group]
    now: Ints
    before: Ints
    executions: Ints
    earlier: Ints

    def expected(self) -> Floats:
        """Return how often each action would be returned with its earlier share."""
        with np.errstate(divide="ignore", invalid="ignore"):
            expected = self.before / self.earlier * self.executions
        return np.where(self.earlier > 0, expected, 0.0)


def _count_actions(
    rule: Rule, windows: WindowCache, condition: Transition
) -> _ActionCounts:
    selector = select_nodes(rule.per, rule.match)
    nodes, recent = windows.stats(selector, rule.window)
    _, ever = windows.stats(selector, math.inf)
    actions = windows.input.view.registry.actions.values
    total = {
        (n, a): count
        for n, a, count in ever.counted(Dimension.ACTION)
        if condition.action in ("", actions[a])
    }
    counts = {(n, a): count for n, a, count in recent.counted(Dimension.ACTION)}
    now = np.array([counts.get(key, 0) for key in total], np.int64)
    node = np.array([n for n, _ in total], np.int64)
    executions = recent.executions[node]
    return _ActionCounts(
        groups=[(*nodes[n], actions[action]) for n, action in total],
        now=now,
        # `ever` includes the window.
        before=np.array(list(total.values()), np.int64) - now,
        executions=executions,
        earlier=ever.executions[node] - executions,
    )

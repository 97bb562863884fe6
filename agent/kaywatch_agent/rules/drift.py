"""Whether a node takes an action more or less often than in its own past.

Strategy: the share of an action varies from hour to hour, by chance and with the rhythm
of the work. The deviation of both is learned from the hours of a week; a share that is
many deviations away from their mean has changed.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from kaywatch_agent.aggregate.bucket import NUMBER_MASK, ROW_SHIFT, Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.aggregate.view import View
from kaywatch_agent.rules.past_hours import ActionSums, count_actions
from kaywatch_agent.rules.result import Floats, Ints
from kaywatch_agent.rules.rule import Rule
from kaywatch_agent.rules.windows import Group, LiveValue, WindowCache, select_nodes
from kaywatch_agent.units import duration, quantity

__all__ = ["action_drift"]

# With fewer hours, what varies between them is not known.
MIN_HOURS: Final = 24

# A smaller difference of shares is not worth a notification, however certain it is.
MIN_POINTS: Final = 0.1


def action_drift(rule: Rule, windows: WindowCache) -> dict[Group, LiveValue]:
    """Return by how many standard deviations the share of an action has changed.

    The action that has changed most counts.
    """
    selector, view = select_nodes(rule.per, rule.match), windows.input.view
    groups = windows.groups(selector)
    past = windows.past.actions(selector, groups, view)
    values = dict.fromkeys(groups.names, LiveValue(math.nan))
    # The actions of a window are only added up if there is something to compare.
    if past is None or not (past.hours >= MIN_HOURS).any():
        return values
    _, stats = windows.stats(selector, rule.window, Dimension.ACTION)
    shares = _Shares(stats, past, view)
    for n in shares.most_changed():
        group = groups.names[shares.groups[n]]
        executions = int(shares.executions[n])
        values[group] = LiveValue(shares.deviations[n], executions=executions)
        if shares.deviations[n] > 0:
            note = (
                f"{shares.text(n)} in {duration(rule.window)}; {shares.usual_text(n)}"
            )
            values[group] = values[group]._replace(note=note)
    return values


# -- inside --------------------------------------------------------------------------


class _Shares:
    """The shares of actions now and before; all arrays are by node and action.

    Attributes:
        groups: the node's number.
        executions: of the node, within the window.
        deviations: how many standard deviations lie between the two shares.
    """

    def __init__(self, stats: GroupStats, past: ActionSums, view: View) -> None:
        now_keys, counts, executions = count_actions(stats, view)
        keys = np.union1d(now_keys, past.keys)
        groups: Ints = keys >> ROW_SHIFT
        self._hours = _by_group(past.hours, len(stats))[groups]
        known = self._hours >= MIN_HOURS
        keys, groups = keys[known], groups[known]
        self._hours, self.groups = self._hours[known], groups
        self._names, self._numbers = view.registry.actions.values, keys & NUMBER_MASK
        self.executions = executions[groups]
        taken = np.zeros(len(keys))
        is_now = np.isin(keys, now_keys)
        taken[is_now] = counts[np.isin(now_keys, keys)]
        with np.errstate(divide="ignore", invalid="ignore"):
            self._share = taken / self.executions
        before = _by_group(past.executions, len(stats))[groups]
        inverse = _by_group(past.inverse, len(stats))[groups] / self._hours
        count, share, square = past.aligned(keys)
        self._usual = count / before
        mean = share / self._hours
        chance = inverse * self._usual * (1.0 - self._usual)
        rhythm = np.maximum(0.0, square / self._hours - mean**2 - chance)
        pooled = (taken + count) / (self.executions + before)
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = pooled * (1.0 - pooled) * (1.0 / self.executions + 1.0 / before)
            change = np.abs(self._share - self._usual)
            deviations = change / np.sqrt(errors + rhythm)
        self.deviations: Floats = np.where(change >= MIN_POINTS, deviations, 0.0)

    def most_changed(self) -> list[int]:
        """Return the number of the most changed action of each node.

        Among equals, it is the one that is taken more often, the cause of the other.
        """
        rise = np.nan_to_num(self._share - self._usual)
        order = np.lexsort((rise, self.deviations.round(9), self.groups))
        last = np.append(self.groups[order][1:] != self.groups[order][:-1], True)
        chosen: list[int] = order[last[: len(order)]].tolist()
        return chosen

    def text(self, n: int) -> str:
        """Describe the share of an action."""
        share, action = quantity(self._share[n], "ratio"), self._names[self._numbers[n]]
        return f'returns "{action}" in {share} of {self.executions[n]:,} executions'

    def usual_text(self, n: int) -> str:
        """Describe the usual share of an action."""
        usual = quantity(self._usual[n], "ratio")
        return f"{usual} in {self._hours[n]:,.0f} hours of the week before"


def _by_group(sums: Floats, size: int) -> Floats:
    """Return sums for all groups; the new ones have no past."""
    return np.pad(sums, (0, size - len(sums)))

"""Whether a node takes longer than it usually does at this time.

Strategy: an average over everything since a node was first seen never forgets. A node
that was fast for months would be slow forever, and one that is slow each night would be
reported each night. So the average of the window is compared with that of the same
hours of yesterday and of a week ago, and the slower one counts. A node that did too
little then is compared with the 24 hours before, or else with the hour before.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.view import HOUR
from kaywatch_agent.rules.cost import sums
from kaywatch_agent.rules.metric_values import MetricValues
from kaywatch_agent.rules.past_hours import LAST_DAY, LAST_WEEK, YESTERDAY, Period
from kaywatch_agent.rules.result import Bools, Floats, Ints
from kaywatch_agent.rules.rule import Rule, Threshold
from kaywatch_agent.rules.windows import SeriesSelector, WindowCache, select_nodes
from kaywatch_agent.units import duration

__all__ = ["latency_over_usual", "limits_of_models"]

# An average below this many seconds is not slow, whatever is usual: a fast node is
# delayed by anything on its machine.
MIN_SLOW: Final = 0.1

# With fewer executions in a period, its average is not known.
MIN_COMPARED: Final = 100

# A smaller difference is chance, and not worth a sentence.
NOTABLE: Final = 1.2

# Of the first two, the slower one counts; the last one is for nodes that did too little
# then.
_PERIODS: Final = (YESTERDAY, LAST_WEEK, LAST_DAY)


def latency_over_usual(rule: Rule, windows: WindowCache) -> MetricValues:
    """Return the average of the window, relative to what is usual at this time."""
    selector = select_nodes(rule.per, rule.match)
    groups, recent = windows.stats(selector, rule.window, Dimension.OUTCOME)
    with np.errstate(divide="ignore", invalid="ignore"):
        average = recent.total / recent.executions
    usual = _usual(rule, windows, average >= MIN_SLOW)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where(average < MIN_SLOW, 0.0, average / usual.seconds)
    notes, usual_by_group = {}, {}
    for n in np.flatnonzero(values > NOTABLE).tolist():
        seconds = float(usual.seconds[n])
        usual_by_group[groups[n]] = seconds
        notes[groups[n]] = (
            f"{duration(average[n])} on average instead of {duration(seconds)}"
            f" {usual.periods[usual.period[n]]}"
        )
    errors = recent.outcomes()[:, Outcome.ERROR]
    return MetricValues(
        groups, values, recent.executions, errors, notes, usual_by_group
    )


def limits_of_models(
    rule: Rule, windows: WindowCache, condition: Threshold, values: Floats
) -> Floats | None:
    """Return the limit of each node, which is higher where a model usually takes long.

    None if the threshold is the limit of all nodes.
    """
    is_high = values > (condition.clear_at or condition.threshold)
    if not condition.model_factor or not is_high.any():
        return None
    selector = select_nodes(rule.per, rule.match)
    calls = sums(rule, windows, "llm_calls")
    groups = windows.groups(selector).names
    calls_models = np.array([calls.get(group, 0.0) > 0 for group in groups])
    usual = _usual(rule, windows, is_high).seconds * condition.model_factor
    # `fmax` ignores NaN: until it is known what is usual, the threshold counts.
    return np.fmax(np.where(calls_models, usual, np.nan), condition.threshold)


# -- inside --------------------------------------------------------------------------


class _UsualSeconds(NamedTuple):
    """What is usual, by group.

    Attributes:
        seconds: the average; NaN where it is unknown.
        period: the number of the period that it is the average of.
        periods: the periods in words.
    """

    seconds: Floats
    period: Ints
    periods: tuple[str, ...]


def _usual(rule: Rule, windows: WindowCache, relevant: Bools) -> _UsualSeconds:
    """Return what is usual for the relevant groups; others may be unknown."""
    selector, span = select_nodes(rule.per, rule.match), max(HOUR, 2 * rule.window)
    # An agent that started lately has less than the span.
    earlier = f"earlier in the last {'hour' if span == HOUR else duration(span)}"
    periods = (*[period.name for period in _PERIODS], earlier)
    size = len(windows.groups(selector))
    # The past is only read once something could be slow.
    if not relevant.any():
        return _UsualSeconds(np.full(size, np.nan), np.zeros(size, np.int64), periods)
    yesterday, week, day = (_past_average(selector, p, windows) for p in _PERIODS)
    # `fmax` ignores NaN: either period is enough.
    seconds = np.fmax(yesterday, week)
    period = np.where(seconds == yesterday, 0, 1)
    is_new = np.isnan(seconds)
    seconds, period = np.where(is_new, day, seconds), np.where(is_new, 2, period)
    is_newer = np.isnan(seconds)
    if (is_newer & relevant).any():
        hour = _average_before(selector, rule.window, span, windows)
        seconds, period = (
            np.where(is_newer, hour, seconds),
            np.where(is_newer, 3, period),
        )
    return _UsualSeconds(seconds, period, periods)


def _average_before(
    selector: SeriesSelector, window: float, span: float, windows: WindowCache
) -> Floats:
    """Return the averages of the last `span` seconds, without those of the window."""
    _, recent = windows.stats(selector, window)
    _, longer = windows.stats(selector, span)
    executions = longer.executions - recent.executions
    return _average(executions, longer.total - recent.total)


def _past_average(
    selector: SeriesSelector, period: Period, windows: WindowCache
) -> Floats:
    executions, total = windows.past.sums(
        selector, period, windows.groups(selector), windows.input.view
    )
    return _average(executions, total)


def _average(executions: Ints, total: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        average = total / executions
    return np.where(executions < MIN_COMPARED, np.nan, average)

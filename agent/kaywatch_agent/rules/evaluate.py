"""Evaluates one rule: the status of its condition for each group, and the values.

All groups are evaluated at once with array operations. Unknown values are NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.rules import expression
from kaywatch_agent.rules.cost import sums
from kaywatch_agent.rules.departures import (
    Departure,
    lost_services,
    newest,
    unobserved,
)
from kaywatch_agent.rules.live_values import live_values
from kaywatch_agent.rules.metric_values import MetricValues
from kaywatch_agent.rules.metrics import Metric, MetricSource
from kaywatch_agent.rules.result import (
    Floats,
    Ints,
    RuleResult,
    make_result,
)
from kaywatch_agent.rules.rule import (
    Absence,
    BurnRate,
    Rule,
    Stuck,
    Threshold,
    Transition,
)
from kaywatch_agent.rules.slowness import latency_over_usual, limits_of_models
from kaywatch_agent.rules.stuck import evaluate_stuck
from kaywatch_agent.rules.transitions import evaluate_change, evaluate_share
from kaywatch_agent.rules.windows import (
    Group,
    SeriesSelector,
    WindowCache,
    select,
    select_nodes,
)

__all__ = ["budgets_left", "evaluate", "prepare"]

_SOURCES_WITH_OUTCOMES: Final = (MetricSource.NODES, MetricSource.RUNS)

# Of no groups: most applications have nothing that some of the rules are about.
_NO_VALUES: Final = np.zeros(0)
_NOWHERE: Final = np.zeros(0, bool)


def prepare(rule: Rule, windows: WindowCache) -> None:
    """Announce the statistics that a rule needs."""
    nodes = _nodes(rule)
    match rule.condition:
        case Threshold() as condition:
            for metric in condition.metrics.values():
                if metric.compute is not None:
                    selector = select(metric, rule.per, rule.match)
                    windows.expect(selector, rule.window, _dimensions(metric))
        case BurnRate() as condition:
            for window in (condition.long, condition.short):
                dimension = _budget_dimension(condition)
                windows.expect(nodes, window, frozenset({dimension}))
        case Transition():
            for window in (rule.window, math.inf):
                windows.expect(nodes, window, frozenset({Dimension.ACTION}))
        case Absence():
            windows.expect(nodes, math.inf, frozenset())


def evaluate(rule: Rule, windows: WindowCache) -> RuleResult:
    """Return the result of a rule for the input of `windows`."""
    match rule.condition:
        case Threshold() as condition:
            return _threshold(rule, windows, condition)
        case Absence() as condition:
            return _absence(rule, windows, condition)
        case BurnRate() as condition:
            return _burn_rate(rule, windows, condition)
        case Transition(change="share") as condition:
            return evaluate_share(rule, windows, condition)
        case Transition() as condition:
            return evaluate_change(rule, windows, condition)
        case Stuck() as condition:
            return evaluate_stuck(rule, windows, condition)


def budgets_left(rule: Rule, windows: WindowCache) -> dict[Group, float]:
    """Return the remaining share of each group's error budget; negative if exceeded.

    The period is that of the objective, as far as buckets are stored. Rules without an
    error budget have none.
    """
    condition = rule.condition
    if not isinstance(condition, BurnRate):
        return {}
    dimension = _budget_dimension(condition)
    groups, stats = windows.stats(_nodes(rule), condition.slo_window, dimension)
    bad, total = _count_bad(stats, condition)
    some = np.flatnonzero(total).tolist()
    remaining = 1.0 - bad[some] / (total[some] * (1.0 - condition.objective))
    return dict(zip([groups[n] for n in some], remaining.tolist(), strict=True))


# -- inside --------------------------------------------------------------------------


def _threshold(rule: Rule, windows: WindowCache, condition: Threshold) -> RuleResult:
    columns = {
        name: _values(rule, windows, name, metric)
        for name, metric in condition.metrics.items()
    }
    groups = _joined_groups(columns)
    if not groups:
        return make_result(rule, groups, breach=_NOWHERE, value=_NO_VALUES, threshold=0)
    values, executions, errors = _aligned(groups, columns)
    if windows.input.covered < rule.window:
        _mask_low_counts(condition, values)
    limits = limits_of_models(rule, windows, condition, values[condition.metric])
    breach, clear = _truth(condition, values, limits)
    minimum = rule.min_executions if condition.needs_executions else 0
    # `clear_when` may be about other metrics, and known where `when` is not.
    undecided = (breach == expression.UNKNOWN) & (clear != expression.TRUE)
    result = make_result(
        rule,
        groups,
        breach=breach == expression.TRUE,
        band=clear != expression.TRUE,
        # Not clear: if an outage keeps the traffic away, it has not ended.
        unknown=undecided | (executions < minimum),
        value=values[condition.metric],
        threshold=condition.threshold if limits is None else limits,
        executions=executions,
        errors=errors,
    )
    result.metrics = values
    result.departed = _departed(condition, groups, columns, values)
    _add_notes(result, groups, columns[condition.metric])
    return result


def _add_notes(result: RuleResult, groups: list[Group], shown: MetricValues) -> None:
    """Add the notes of the metric that is shown."""
    result.usual, result.compared = shown.usual, shown.notes
    breaching = result.breaching
    if breaching:
        notes = shown.notes_of(groups[n] for n in breaching)
        numbered = zip(breaching, notes, strict=True)
        result.notes = {n: note for n, note in numbered if note}


def _truth(
    condition: Threshold, values: Mapping[str, Floats], limits: Floats | None
) -> tuple[expression.Truth, expression.Truth]:
    """Return where the condition is met, and where it is clear."""
    if limits is not None:
        # Relative to the threshold, so that the level that clears is scaled as well.
        scaled = values[condition.metric] * condition.threshold / limits
        values = {**values, condition.metric: scaled}
    return condition.breach.truth(values), condition.clear.truth(values)


def _departed(
    condition: Threshold,
    groups: list[Group],
    columns: Mapping[str, MetricValues],
    values: Mapping[str, Floats],
) -> dict[Group, Departure]:
    """Return what went away last in each group, of what would meet the condition."""
    departures = [
        (name, group, one)
        for name, column in columns.items()
        for group, several in column.departed.items()
        for one in several
    ]
    if not departures:
        return {}
    number = {group: n for n, group in enumerate(groups)}
    at = np.array([number[group] for _, group, _ in departures], np.int64)
    with_them = {name: array[at] for name, array in values.items()}
    for n, (name, _, one) in enumerate(departures):
        with_them[name][n] = one.value
    breach = condition.breach.truth(with_them) == expression.TRUE
    last: dict[Group, Departure] = {}
    for n in np.flatnonzero(breach).tolist():
        _, group, one = departures[n]
        last[group] = newest([one, last.get(group, one)])
    return last


def _mask_low_counts(condition: Threshold, values: Mapping[str, Floats]) -> None:
    """Make low counts unknown: a whole window was not observed yet."""
    for name, metric in condition.metrics.items():
        if metric.counts:
            values[name][values[name] < condition.threshold] = np.nan


def _joined_groups(columns: Mapping[str, MetricValues]) -> list[Group]:
    """Return the groups of all columns; each once."""
    first, *others = [column.groups for column in columns.values()]
    # Usually all metrics are of the same groups, and there may be thousands of them.
    if all(groups == first for groups in others):
        return first
    return list(dict.fromkeys(group for column in (first, *others) for group in column))


def _aligned(
    groups: list[Group], columns: Mapping[str, MetricValues]
) -> tuple[dict[str, Floats], Ints, Ints]:
    """Return the values by metric, executions and errors, all in the order of groups.

    Metrics of one rule may know different groups, as those of nodes and of processes.
    """
    number: dict[Group, int] = {}
    size = len(groups)
    values: dict[str, Floats] = {}
    executions, errors = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for name, column in columns.items():
        at: slice | Ints = slice(None)
        if column.groups != groups:
            number = number or {group: n for n, group in enumerate(groups)}
            at = np.array([number[group] for group in column.groups], np.int64)
        values[name] = np.full(size, np.nan)
        values[name][at] = column.values
        # Metrics of nodes and of runs count different things, so their counts do not
        # add up.
        executions[at] = np.maximum(executions[at], column.executions)
        errors[at] = np.maximum(errors[at], column.errors)
    return values, executions, errors


def _values(
    rule: Rule, windows: WindowCache, name: str, metric: Metric
) -> MetricValues:
    """Return a metric's values."""
    if name == "latency_over_usual":
        return latency_over_usual(rule, windows)
    if metric.compute is None:
        by_group = live_values(rule, windows, name)
        if not by_group:
            return MetricValues([], _NO_VALUES)
        values = np.array([one.value for one in by_group.values()], np.float64)
        executions = np.array([one.executions for one in by_group.values()], np.int64)
        notes = {group: one.note for group, one in by_group.items() if one.note}
        known = [group for group, one in by_group.items() if not math.isnan(one.usual)]
        usual = {group: by_group[group].usual for group in known}
        departed = {g: one.departed for g, one in by_group.items() if one.departed}
        return MetricValues(
            list(by_group),
            values,
            executions,
            notes=notes,
            usual=usual,
            departed=departed,
        )
    selector = select(metric, rule.per, rule.match)
    groups, stats = windows.stats(selector, rule.window)
    if not groups:
        return MetricValues([], _NO_VALUES)
    values = metric.compute(stats, windows.context(rule.window))
    departed = _lost_counts(rule, windows, name, groups) if metric.counts else {}
    if metric.source not in _SOURCES_WITH_OUTCOMES:
        return MetricValues(groups, values, stats.executions, departed=departed)
    counts = stats.outcomes()
    # `min_executions` counts the executions behind the value: cancelled executions do
    # not make a success rate more reliable.
    cancelled = counts[:, Outcome.CANCELLED] if metric.of_finished else 0
    executions = stats.executions - cancelled
    slowest = stats.mosts if metric.unit == "seconds" else None
    errors = counts[:, Outcome.ERROR]
    return MetricValues(
        groups, values, executions, errors, slowest=slowest, departed=departed
    )


def _lost_counts(
    rule: Rule, windows: WindowCache, name: str, groups: list[Group]
) -> dict[Group, tuple[Departure, ...]]:
    """Return the groups whose count is 0 because nothing runs that could count."""
    data = windows.input
    departed: dict[Group, tuple[Departure, ...]] = {}
    if name == "llm_errors_per_minute":
        calls = sums(rule, windows, "llm_calls")
        stopped = (unobserved(data.now),)
        departed = {group: stopped for group in groups if not calls.get(group)}
    # An alert that fires notices it within its window.
    lost = lost_services(data.clients, data.now - 2 * rule.window)
    if lost and "service" in rule.per:
        at = rule.per.index("service")
        departed |= {group: (lost[group[at]],) for group in groups if group[at] in lost}
    return departed


def _absence(rule: Rule, windows: WindowCache, condition: Absence) -> RuleResult:
    known_groups, stats = windows.stats(_nodes(rule), math.inf)
    expected = [
        tuple(labels.get(label, "") for label in rule.per)
        for labels in condition.expect
    ]
    groups = [
        *known_groups,
        *(group for group in expected if group not in known_groups),
    ]
    # An expected group that was never seen is infinitely old.
    age = np.full(len(groups), np.inf)
    age[: len(known_groups)] = windows.input.now - stats.last_time
    # Soon after the start, nobody may have had the time to report.
    is_early = windows.input.covered < max(condition.max_age, condition.grace)
    too_old = age > condition.max_age
    result = make_result(
        rule,
        groups,
        breach=too_old,
        unknown=too_old & is_early,
        value=np.where(np.isinf(age), np.nan, age),
        threshold=condition.max_age,
    )
    old = np.flatnonzero(age > condition.forget_after).tolist()
    # An expected group is never forgotten: the rule is about its absence.
    result.forgotten = {groups[n] for n in old} - set(expected)
    return result


def _burn_rate(rule: Rule, windows: WindowCache, condition: BurnRate) -> RuleResult:
    groups, long = windows.stats(_nodes(rule), condition.long)
    _, short = windows.stats(_nodes(rule), condition.short)
    bad, total = _count_bad(long, condition)
    bad_short, total_short = _count_bad(short, condition)
    allowed = 1.0 - condition.objective
    with np.errstate(divide="ignore", invalid="ignore"):
        # Without the noise of the calculation: 60 % at an objective of 0.9 burn six
        # times as fast as allowed, and not faster.
        rate = np.round(bad / total / allowed, 9)
        rate_short = np.round(bad_short / total_short / allowed, 9)
    # The long window shows that enough of the budget is gone, the short one that the
    # errors go on: the alert ends soon after them.
    over = (rate > condition.factor) & (rate_short > condition.factor)
    result = make_result(
        rule,
        groups,
        breach=over & (bad_short >= condition.min_bad),
        # An outage that keeps all traffic away is not the end of the outage.
        unknown=(total < condition.min_events) | (total_short == 0),
        value=rate,
        threshold=condition.factor,
        executions=total,
        errors=bad,
    )
    result.notes = {
        n: f"error budget burns {rate_short[n]:.1f} times as fast as allowed over the"
        f" last {condition.short / 60:g} min, {rate[n]:.1f} times over the last"
        f" {condition.long / 3600:g} h"
        for n in result.breaching
    }
    return result


def _budget_dimension(condition: BurnRate) -> Dimension:
    by_outcome = condition.latency_le is None
    return Dimension.OUTCOME if by_outcome else Dimension.HISTOGRAM


def _count_bad(stats: GroupStats, condition: BurnRate) -> tuple[Ints, Ints]:
    """Return the number of bad executions, and of all that count, by group."""
    if condition.latency_le is None:
        outcomes = stats.outcomes()
        # A cancelled execution says nothing about the service.
        finished = stats.executions - outcomes[:, Outcome.CANCELLED]
        return outcomes[:, Outcome.ERROR], finished
    fast = stats.counts_at_most(np.array([condition.latency_le]))[:, 0]
    return stats.executions - fast, stats.executions


def _dimensions(metric: Metric) -> frozenset[Dimension]:
    if metric.source in _SOURCES_WITH_OUTCOMES:
        return metric.dimensions | {Dimension.OUTCOME}
    return metric.dimensions


def _nodes(rule: Rule) -> SeriesSelector:
    return select_nodes(rule.per, rule.match)

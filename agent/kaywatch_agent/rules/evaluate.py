"""Evaluates one rule: the status of its condition for each group, and the values.

All groups are evaluated at once with array operations. Unknown values are NaN.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.model.series import ClientState
from kaywatch_agent.rules import expression
from kaywatch_agent.rules.live_values import live_values, run_notes
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
from kaywatch_agent.rules.windows import (
    Group,
    SeriesSelector,
    WindowCache,
    select,
    select_nodes,
)

__all__ = ["budgets_left", "evaluate", "prepare"]

_SOURCES_WITH_OUTCOMES: Final = (MetricSource.NODES, MetricSource.RUNS)

# An action is reported as vanished only if at least this many were expected.
MIN_EXPECTED: Final = 10.0


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
        case Stuck():
            windows.expect(nodes, math.inf, frozenset({Dimension.HISTOGRAM}))
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
            return _share(rule, windows, condition)
        case Transition() as condition:
            return _transition(rule, windows, condition)
        case Stuck() as condition:
            return _stuck(rule, windows, condition)


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
    left = 1.0 - bad[some] / (total[some] * (1.0 - condition.objective))
    return dict(zip([groups[n] for n in some], left.tolist(), strict=True))


# -- inside --------------------------------------------------------------------------


def _threshold(rule: Rule, windows: WindowCache, condition: Threshold) -> RuleResult:
    groups, values, executions, errors = _columns(rule, windows, condition)
    breach, clear = condition.breach.truth(values), condition.clear.truth(values)
    minimum = rule.min_executions if condition.needs_executions else 0
    undecided = (breach == expression.UNKNOWN) & (clear != expression.TRUE)
    result = make_result(
        rule,
        groups,
        breach=breach == expression.TRUE,
        band=clear != expression.TRUE,
        unknown=undecided | (executions < minimum),
        value=values[condition.metric],
        threshold=condition.threshold,
        executions=executions,
        errors=errors,
    )
    result.metrics = values
    if condition.metric in ("run_visits_max", "node_visits_max"):
        notes = run_notes(rule, windows, condition.metric, condition.threshold)
        breaching = result.breaching
        result.notes = {n: notes[groups[n]] for n in breaching if groups[n] in notes}
    return result


def _columns(
    rule: Rule, windows: WindowCache, condition: Threshold
) -> tuple[list[Group], dict[str, Floats], Ints, Ints]:
    """Return the groups of all metrics, with values, executions and errors."""
    by_name = condition.metrics
    columns = {name: _values(rule, windows, name, m) for name, m in by_name.items()}
    groups = list(dict.fromkeys(g for names, *_ in columns.values() for g in names))
    number = {group: n for n, group in enumerate(groups)}
    size = len(groups)
    values: dict[str, Floats] = {}
    executions, errors = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for name, (names, column, counts, failed) in columns.items():
        at = np.array([number[group] for group in names], np.int64)
        values[name] = np.full(size, np.nan)
        values[name][at] = column
        executions[at] = np.maximum(executions[at], counts)
        errors[at] = np.maximum(errors[at], failed)
        if by_name[name].counts and windows.input.covered < rule.window:
            # Before a whole window was observed, a low count is unknown.
            values[name][values[name] < condition.threshold] = np.nan
    return groups, values, executions, errors


def _values(
    rule: Rule, windows: WindowCache, name: str, metric: Metric
) -> tuple[list[Group], Floats, Ints | int, Ints | int]:
    """Return a metric's groups and values, and the executions and errors in them."""
    if metric.compute is None:
        by_group = live_values(rule, windows, name)
        return list(by_group), np.array(list(by_group.values()), np.float64), 0, 0
    selector = select(metric, rule.per, rule.match)
    groups, stats = windows.stats(selector, rule.window)
    values = metric.compute(stats, windows.context(rule.window))
    if metric.source in _SOURCES_WITH_OUTCOMES:
        errors = stats.outcomes()[:, Outcome.ERROR]
        return groups, values, stats.executions, errors
    return groups, values, stats.executions, 0


def _absence(rule: Rule, windows: WindowCache, condition: Absence) -> RuleResult:
    seen, stats = windows.stats(_nodes(rule), math.inf)
    expected = [
        tuple(labels.get(label, "") for label in rule.per)
        for labels in condition.expect
    ]
    groups = [*seen, *(group for group in expected if group not in seen)]
    age = np.full(len(groups), np.inf)
    age[: len(seen)] = windows.input.now - stats.last_time
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
    result.forgotten = {groups[n] for n in old} - set(expected)
    return result


def _burn_rate(rule: Rule, windows: WindowCache, condition: BurnRate) -> RuleResult:
    groups, long = windows.stats(_nodes(rule), condition.long)
    _, short = windows.stats(_nodes(rule), condition.short)
    bad, total = _count_bad(long, condition)
    bad_short, total_short = _count_bad(short, condition)
    allowed = 1.0 - condition.objective
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = bad / total / allowed
        rate_short = bad_short / total_short / allowed
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
        finished = stats.executions - outcomes[:, Outcome.CANCELLED]
        return outcomes[:, Outcome.ERROR], finished
    fast = stats.counts_at_most(np.array([condition.latency_le]))[:, 0]
    return stats.executions - fast, stats.executions


def _transition(rule: Rule, windows: WindowCache, condition: Transition) -> RuleResult:
    """Evaluate whether an action is new or has vanished; a group has one action."""
    nodes, recent = windows.stats(_nodes(rule), rule.window)
    _, ever = windows.stats(_nodes(rule), math.inf)
    actions = windows.input.view.registry.actions.values
    total = {
        (n, a): count
        for n, a, count in ever.counted(Dimension.ACTION)
        if condition.action in ("", actions[a])
    }
    counts = {(n, a): count for n, a, count in recent.counted(Dimension.ACTION)}
    now = np.array([counts.get(key, 0) for key in total], np.int64)
    before = np.array(list(total.values()), np.int64) - now
    node = np.array([n for n, _ in total], np.int64)
    executions = recent.executions[node]
    earlier = ever.executions[node] - executions
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(executions > 0, now / executions, 0.0)
        expected = np.where(earlier > 0, before / earlier * executions, 0.0)
    breach = (now == 0) & (expected >= MIN_EXPECTED)
    unknown = (executions < rule.min_executions) | (earlier <= 0)
    if condition.change == "new":
        breach = (now > 0) & (before == 0)
        unknown = earlier < rule.min_executions
    return make_result(
        rule,
        [(*nodes[n], actions[action]) for n, action in total],
        breach=breach,
        unknown=unknown,
        value=share,
        threshold=math.nan,
        executions=executions,
        labels=(*rule.per, "action"),
    )


def _share(rule: Rule, windows: WindowCache, condition: Transition) -> RuleResult:
    groups, stats = windows.stats(_nodes(rule), rule.window)
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


def _stuck(rule: Rule, windows: WindowCache, condition: Stuck) -> RuleResult:
    oldest = _oldest_in_flight(rule, windows)
    known, stats = windows.stats(_nodes(rule), math.inf)
    groups = list(dict.fromkeys([*known, *oldest]))
    limit = np.full(len(groups), np.nan)
    p99 = np.array(stats.quantiles(0.99)[0], np.float64)
    limit[: len(known)] = np.where(
        stats.executions >= rule.min_executions,
        np.maximum(p99 * condition.factor, condition.at_least),
        np.nan,
    )
    if condition.max_age is not None:
        limit = np.fmin(limit, condition.max_age)
    age = np.array([oldest.get(group, (0.0, ""))[0] for group in groups])
    result = make_result(
        rule,
        groups,
        breach=age > limit,
        unknown=np.isnan(limit) & (age > 0),
        value=age,
        threshold=limit,
    )
    result.notes = {n: oldest[groups[n]][1] for n in result.breaching}
    return result


def _oldest_in_flight(
    rule: Rule, windows: WindowCache
) -> dict[Group, tuple[float, str]]:
    """Return the longest time in flight in seconds, and where it is, by group."""
    selector = _nodes(rule)
    oldest: dict[Group, tuple[float, str]] = {}
    for client in windows.input.clients:
        if client.state is not ClientState.CONNECTED:
            continue
        for flight in client.in_flight:
            group = selector.group_of(
                {"service": client.service, "graph": flight.graph, "node": flight.node}
            )
            age = windows.input.now - flight.start
            if group is not None and age > oldest.get(group, (-1.0, ""))[0]:
                text = f"pid {client.pid} on {client.host}, run {flight.run}"
                oldest[group] = age, text
    return oldest


def _dimensions(metric: Metric) -> frozenset[Dimension]:
    if metric.source in _SOURCES_WITH_OUTCOMES:
        return metric.dimensions | {Dimension.OUTCOME}
    return metric.dimensions


def _nodes(rule: Rule) -> SeriesSelector:
    return select_nodes(rule.per, rule.match)

"""One rule against one scene: for each of its groups, what was found, and why.

All groups are looked at at once, with array operations; what isn't known is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.aggregate.view import BUCKET_SECONDS
from kaywatch_agent.model.records import NodeRevisits
from kaywatch_agent.model.series import ClientState, Kind, SeriesKey
from kaywatch_agent.rules import metrics
from kaywatch_agent.rules.expression import TRUE
from kaywatch_agent.rules.matchers import matches
from kaywatch_agent.rules.metrics import Metric, MetricSource
from kaywatch_agent.rules.rule import (
    Absence,
    BurnRate,
    Rule,
    Stuck,
    Threshold,
    Transition,
)
from kaywatch_agent.rules.scene import Process, SeriesSelector, WindowCache
from kaywatch_agent.rules.state import ConditionStatus

__all__ = ["FINDINGS", "RuleResult", "budgets_left", "evaluate", "prepare"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Codes = NDArray[np.int8]
Group = tuple[str, ...]

# By code.
FINDINGS: Final = (
    ConditionStatus.UNKNOWN,
    ConditionStatus.CLEAR,
    ConditionStatus.BAND,
    ConditionStatus.BREACH,
)
UNKNOWN, CLEAR, BAND, BREACH = range(4)

_VISITS: Final = tuple(metrics.METRICS[name] for name in metrics.VISITS)

NODES: Final = frozenset({Kind.NODE})

# An action that vanished has to have been expected so many times.
EXPECTED: Final = 10.0


@dataclass
class RuleResult:
    """What one evaluation of a rule found; arrays and lists are by group.

    Attributes:
        labels: the names of `values`.
        groups: the values of the labels.
        codes: what was found, as indexes of FINDINGS.
        value: of the metric that is shown.
        threshold: what it is compared with.
        executions, errors: in the window.
        gone: groups that are forgotten.
        notes: what else is to be said, by group.
        metrics: all values that were looked at, by metric.
    """

    labels: tuple[str, ...]
    groups: list[Group]
    codes: Codes
    value: Floats
    threshold: Floats
    executions: Ints
    errors: Ints
    gone: set[Group] = field(default_factory=set)
    notes: dict[int, str] = field(default_factory=dict)
    metrics: Mapping[str, Floats] = field(default_factory=dict)


def prepare(rule: Rule, windows: WindowCache) -> None:
    """Say beforehand which figures a rule needs."""
    match rule.test:
        case Threshold() as test:
            for metric in _metrics(test).values():
                if metric.source.aggregated:
                    series = SeriesSelector.of(metric, rule.per, rule.match)
                    facets = metric.facets | _outcomes(metric)
                    windows.expect(series, rule.window, facets)
        case BurnRate() as test:
            for window in (test.long, test.short):
                windows.expect(_nodes(rule), window, frozenset({_facet(test)}))
        case Transition():
            for window in (rule.window, math.inf):
                windows.expect(_nodes(rule), window, frozenset({Dimension.ACTION}))
        case Stuck():
            windows.expect(_nodes(rule), math.inf, frozenset({Dimension.HISTOGRAM}))
        case Absence():
            windows.expect(_nodes(rule), math.inf, frozenset())


def evaluate(rule: Rule, windows: WindowCache) -> RuleResult:
    """Return what a rule finds in the scene that `windows` looks at."""
    evaluator = cast(
        "Callable[[Rule, WindowCache, Any], RuleResult]", _EVALUATORS[type(rule.test)]
    )
    return evaluator(rule, windows, rule.test)


# -- inside --------------------------------------------------------------------------


def _threshold(rule: Rule, windows: WindowCache, test: Threshold) -> RuleResult:
    wanted = _metrics(test)
    groups: list[Group] = []
    number: dict[Group, int] = {}
    parts = []
    for name, metric in wanted.items():
        names, values, executions, errors = _values(rule, windows, metric)
        for group in names:
            if group not in number:
                number[group] = len(groups)
                groups.append(group)
        at = np.array([number[group] for group in names], np.int64)
        parts.append((name, metric, at, values, executions, errors))
    size = len(groups)
    table: dict[str, Floats] = {}
    counts, failed = np.zeros(size, np.int64), np.zeros(size, np.int64)
    least = np.full(size, rule.min_executions if _needs_events(wanted) else 0)
    for name, metric, at, values, executions, errors in parts:
        column = np.full(size, np.nan)
        column[at] = values
        table[name] = column
        if executions is not None and errors is not None:
            counts[at] = np.maximum(counts[at], executions)
            failed[at] = np.maximum(failed[at], errors)
        if metric.counts and windows.scene.covered < rule.window:
            # Nothing was seen is not the same as nothing happened.
            column[column < test.threshold] = np.nan
    breach, clear = test.breach.truth(table), test.clear.truth(table)
    codes = np.where(breach == TRUE, BREACH, np.where(clear == TRUE, CLEAR, BAND))
    unknown = (breach == 0) & (clear != TRUE)
    codes = np.where(unknown | (counts < least), UNKNOWN, codes).astype(np.int8)
    notes: dict[int, str] = {}
    if test.metric in metrics.VISITS:
        notes = _spinning(rule, windows, test, groups, codes)
    return RuleResult(
        rule.per,
        groups,
        codes,
        table[test.metric],
        np.full(size, test.threshold),
        counts,
        failed,
        notes=notes,
        metrics=table,
    )


def _values(
    rule: Rule, windows: WindowCache, metric: Metric
) -> tuple[list[Group], Floats, Ints | None, Ints | None]:
    """Return the groups of a metric, its values, and executions and errors if any."""
    if metric.source is MetricSource.PROCESSES:
        groups, values = _processes(rule, windows, metric)
        return groups, values, None, None
    if metric.source is MetricSource.RULES:
        groups, values = _refused(rule, windows)
        return groups, values, None, None
    if metric in _VISITS:
        return (*_longest(rule, windows, metric), None, None)
    series = SeriesSelector.of(metric, rule.per, rule.match)
    names, figures = windows.figures(series, rule.window)
    values = metric.of(figures, windows.context(rule.window))
    if metric.source in (MetricSource.NODES, MetricSource.RUNS):
        return names, values, figures.executions, _errors(figures)
    return names, values, figures.executions, np.zeros(len(names), np.int64)


def _processes(
    rule: Rule, windows: WindowCache, metric: Metric
) -> tuple[list[Group], Floats]:
    of = _PROCESS[metric]
    since = windows.scene.now - rule.window
    found: dict[Group, float] = {}
    add = metric.counts
    for process in windows.scene.processes:
        labels = process.labels
        if not matches(rule.match, labels):
            continue
        group = tuple([labels.get(label, "") for label in rule.per])
        value = of(process, since)
        known = found.get(group, math.nan)
        if math.isnan(known):
            found[group] = value
        elif not math.isnan(value):
            found[group] = known + value if add else max(known, value)
    return list(found), np.array(list(found.values()), np.float64)


def _refused(rule: Rule, windows: WindowCache) -> tuple[list[Group], Floats]:
    """Return how many alerts of other rules were too many."""
    found: dict[Group, float] = {}
    for name, count in windows.scene.refused.items():
        if matches(rule.match, {"rule": name}):
            group = (name,) if rule.per else ()
            found[group] = found.get(group, 0.0) + count
    return list(found), np.array(list(found.values()), np.float64)


def _longest(
    rule: Rule, windows: WindowCache, metric: Metric
) -> tuple[list[Group], Floats]:
    """Return the most visits in one run: of those that ended, and under way."""
    scene = windows.scene
    series = SeriesSelector.of(metric, rule.per, rule.match)
    groups = windows.groups(series)
    found = dict.fromkeys(groups.names, 0)
    first = int((scene.now - rule.window) // BUCKET_SECONDS)
    for step, rows in scene.view.longest.items():
        for row, visits in rows.items():
            number = groups.numbers[row] if row < len(groups.numbers) else -1
            if step >= first and number >= 0:
                name = groups.names[number]
                found[name] = max(found[name], visits)
    for group, (visits, _) in _under_way(series, scene.processes).items():
        found[group] = max(found.get(group, 0), visits)
    return list(found), np.array(list(found.values()), np.float64)


def _under_way(
    series: SeriesSelector, processes: Iterable[Process]
) -> dict[Group, tuple[int, str]]:
    """Return the most visits in a run under way, and which run that is."""
    found: dict[Group, tuple[int, str]] = {}
    for process in processes:
        if process.state is not ClientState.CONNECTED:
            continue
        whole = [NodeRevisits(f.graph, "", f.visits, f.run) for f in process.in_flight]
        for seen in (*whole, *process.loops):
            kind = Kind.NODE if seen.node else Kind.RUN
            key = SeriesKey(kind, process.service, seen.graph, seen.node)
            group = series.group(key)
            if group is not None and seen.visits > found.get(group, (0, ""))[0]:
                text = f"pid {process.pid} on {process.host}, run {seen.run}"
                found[group] = seen.visits, text
    return found


def _spinning(
    rule: Rule, windows: WindowCache, test: Threshold, groups: list[Group], codes: Codes
) -> dict[int, str]:
    """Return, by group, which run under way it is that visits too much."""
    series = SeriesSelector.of(metrics.find(test.metric), rule.per, rule.match)
    runs = _under_way(series, windows.scene.processes)
    found = {n: runs.get(groups[n]) for n in np.flatnonzero(codes == BREACH).tolist()}
    return {n: run[1] for n, run in found.items() if run and run[0] > test.threshold}


def _memory(process: Process, _: float) -> float:
    if process.state in (ClientState.ENDED, ClientState.DIED):
        return 0.0
    return math.nan if process.rss_bytes is None else float(process.rss_bytes)


def _cpu(process: Process, _: float) -> float:
    if process.state in (ClientState.ENDED, ClientState.DIED):
        return 0.0
    return math.nan if process.cpu_percent is None else process.cpu_percent


def _died(process: Process, since: float) -> float:
    return float(process.state is ClientState.DIED and process.since >= since)


_PROCESS: Final[Mapping[Metric, Callable[[Process, float], float]]] = {
    metrics.METRICS["memory_rss"]: _memory,
    metrics.METRICS["cpu_percent"]: _cpu,
    metrics.METRICS["processes_died"]: _died,
}


def _absence(rule: Rule, windows: WindowCache, test: Absence) -> RuleResult:
    names, figures = windows.figures(_nodes(rule), math.inf)
    groups, now = list(names), windows.scene.now
    expected = [tuple(e.get(label, "") for label in rule.per) for e in test.expect]
    groups += [group for group in expected if group not in names]
    age = np.full(len(groups), np.inf)
    age[: len(names)] = now - figures.last_time
    early = windows.scene.covered < max(test.max_age, test.grace)
    codes = np.where(age > test.max_age, BREACH, CLEAR)
    if early:
        # Those who would have to be heard of may not have had the time.
        codes = np.where(age > test.max_age, UNKNOWN, codes)
    old = [
        g for g, a in zip(groups, age.tolist(), strict=True) if a > test.forget_after
    ]
    none = np.zeros(len(groups), np.int64)
    return RuleResult(
        rule.per,
        groups,
        codes.astype(np.int8),
        np.where(np.isinf(age), np.nan, age),
        np.full(len(groups), test.max_age),
        none,
        none,
        gone=set(old) - set(expected),
    )


def _burn_rate(rule: Rule, windows: WindowCache, test: BurnRate) -> RuleResult:
    groups, long = windows.figures(_nodes(rule), test.long)
    _, short = windows.figures(_nodes(rule), test.short)
    bad, n = _bad(long, test)
    bad_short, n_short = _bad(short, test)
    allowed = 1.0 - test.objective
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = bad / n / allowed
        rate_short = bad_short / n_short / allowed
    over = (rate > test.factor) & (rate_short > test.factor)
    codes = np.where(over & (bad_short >= test.min_bad), BREACH, CLEAR)
    # An outage that keeps everybody away is not the end of it.
    unknown = (n < test.min_events) | (n_short == 0)
    codes = np.where(unknown, UNKNOWN, codes).astype(np.int8)
    notes = {
        at: f"the last {test.short / 60:g} min burn {rate_short[at]:.1f} times as fast"
        f" as allowed, the last {test.long / 3600:g} h {rate[at]:.1f} times"
        for at in np.flatnonzero(codes == BREACH).tolist()
    }
    size = len(groups)
    return RuleResult(
        rule.per, groups, codes, rate, np.full(size, test.factor), n, bad, notes=notes
    )


def budgets_left(rule: Rule, windows: WindowCache) -> dict[Group, float]:
    """Return the share of each group's error budget that is left; negative beyond it.

    Of an objective's window, as far as buckets are kept; nothing for other rules.
    """
    test = rule.test
    if not isinstance(test, BurnRate):
        return {}
    names, figures = windows.figures(_nodes(rule), test.slo_window, _facet(test))
    bad, n = _bad(figures, test)
    known = np.flatnonzero(n).tolist()
    left = 1.0 - bad[known] / (n[known] * (1.0 - test.objective))
    return dict(zip([names[at] for at in known], left.tolist(), strict=True))


def _facet(test: BurnRate) -> Dimension:
    return Dimension.OUTCOME if test.latency_le is None else Dimension.HISTOGRAM


def _bad(figures: GroupStats, test: BurnRate) -> tuple[Ints, Ints]:
    """Return how many were bad, and how many there were."""
    if test.latency_le is None:
        counts = figures.outcomes()
        finished = figures.executions - counts[:, Outcome.CANCELLED]
        return counts[:, Outcome.ERROR], finished
    slow = (
        figures.executions - figures.counts_at_most(np.array([test.latency_le]))[:, 0]
    )
    return slow, figures.executions


def _transition(rule: Rule, windows: WindowCache, test: Transition) -> RuleResult:
    groups, recent = windows.figures(_nodes(rule), rule.window)
    if test.change == "share":
        return _share(rule, windows, test, groups, recent)
    _, ever = windows.figures(_nodes(rule), math.inf)
    counts = _actions(recent)
    found: list[Group] = []
    codes: list[int] = []
    shares: list[float] = []
    executions: list[int] = []
    values = windows.scene.view.registry.actions.values
    for (group, number), total in _actions(ever).items():
        now = counts.get((group, number), 0)
        n = int(recent.executions[group])
        before, n_before = total - now, int(ever.executions[group]) - n
        if test.action and values[number] != test.action:
            continue
        if test.change == "new":
            known = n_before >= rule.min_executions
            code = BREACH if now and not before else CLEAR
        else:
            known = n >= rule.min_executions and n_before > 0
            expected = before / n_before * n if n_before else 0.0
            code = BREACH if not now and expected >= EXPECTED else CLEAR
        found.append((*groups[group], values[number]))
        codes.append(code if known else UNKNOWN)
        shares.append(now / n if n else 0.0)
        executions.append(n)
    size = len(found)
    return RuleResult(
        (*rule.per, "action"),
        found,
        np.array(codes, np.int8),
        np.array(shares),
        np.full(size, np.nan),
        np.array(executions, np.int64),
        np.zeros(size, np.int64),
    )


def _share(
    rule: Rule,
    windows: WindowCache,
    test: Transition,
    groups: list[Group],
    recent: GroupStats,
) -> RuleResult:
    values = windows.scene.view.registry.actions.values
    size = len(groups)
    count = np.zeros(size)
    for (group, number), n in _actions(recent).items():
        if values[number] == test.action:
            count[group] += n
    with np.errstate(divide="ignore", invalid="ignore"):
        share = count / recent.executions
    high = np.full(size, False) if test.above is None else share > test.above
    low = np.full(size, False) if test.below is None else share < test.below
    codes = np.where(high | low, BREACH, CLEAR)
    codes = np.where(recent.executions < rule.min_executions, UNKNOWN, codes)
    ends = (
        np.nan if test.above is None else test.above,
        np.nan if test.below is None else test.below,
    )
    threshold = np.where(high | (math.isnan(ends[1])), ends[0], ends[1])
    return RuleResult(
        (*rule.per, "action"),
        [(*group, test.action) for group in groups],
        codes.astype(np.int8),
        share,
        threshold,
        recent.executions,
        np.zeros(size, np.int64),
    )


def _stuck(rule: Rule, windows: WindowCache, test: Stuck) -> RuleResult:
    now = windows.scene.now
    oldest: dict[Group, float] = {}
    who: dict[Group, str] = {}
    for process in windows.scene.processes:
        if process.state is not ClientState.CONNECTED:
            continue
        for flight in process.in_flight:
            labels = {
                "service": process.service, "graph": flight.graph, "node": flight.node
            }  # fmt: skip
            if not matches(rule.match, labels):
                continue
            group = tuple([labels.get(label, "") for label in rule.per])
            age = now - flight.start
            if age > oldest.get(group, -1.0):
                oldest[group] = age
                who[group] = f"pid {process.pid} on {process.host}, run {flight.run}"
    names, figures = windows.figures(_nodes(rule), math.inf)
    at = {name: number for number, name in enumerate(names)}
    groups = [*names, *(group for group in oldest if group not in at)]
    size = len(groups)
    limit = np.full(size, np.nan)
    p99 = np.array(figures.quantiles(0.99)[0], np.float64)
    known = figures.executions >= rule.min_executions
    limit[: len(names)] = np.where(
        known, np.maximum(p99 * test.factor, test.at_least), np.nan
    )
    if test.max_age is not None:
        limit = np.fmin(limit, test.max_age)
    age_of = np.array([oldest.get(group, 0.0) for group in groups])
    codes = np.where(age_of > limit, BREACH, CLEAR)
    codes = np.where(np.isnan(limit) & (age_of > 0), UNKNOWN, codes).astype(np.int8)
    none = np.zeros(size, np.int64)
    notes = {n: who[groups[n]] for n in np.flatnonzero(codes == BREACH).tolist()}
    return RuleResult(rule.per, groups, codes, age_of, limit, none, none, notes=notes)


_EVALUATORS: Final[Mapping[type, object]] = {
    Threshold: _threshold,
    Absence: _absence,
    BurnRate: _burn_rate,
    Transition: _transition,
    Stuck: _stuck,
}


def _metrics(test: Threshold) -> dict[str, Metric]:
    names = test.breach.metrics() | test.clear.metrics()
    return {name: metrics.find(name) for name in sorted(names)}


def _needs_events(wanted: Mapping[str, Metric]) -> bool:
    """Whether too few events say nothing: not of counts, and not of processes."""
    return any(
        not metric.counts and metric.source in (MetricSource.NODES, MetricSource.RUNS)
        for metric in wanted.values()
    )


def _nodes(rule: Rule) -> SeriesSelector:
    return SeriesSelector(NODES, frozenset(), rule.per, rule.match)


def _outcomes(metric: Metric) -> frozenset[Dimension]:
    told = metric.source in (MetricSource.NODES, MetricSource.RUNS)
    return frozenset({Dimension.OUTCOME}) if told else frozenset()


def _errors(figures: GroupStats) -> Ints:
    return figures.outcomes()[:, Outcome.ERROR]


def _actions(figures: GroupStats) -> dict[tuple[int, int], int]:
    """Return how often each group took each action."""
    return {
        (group, number): count
        for group, number, count in figures.counted(Dimension.ACTION)
    }

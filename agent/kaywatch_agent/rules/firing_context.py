"""What there is to see when an episode begins: errors, actions, history, failures.

It is looked up for all alerts of a rule that began at once, and only then: the past of
ten thousand healthy series is nobody's business.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.completeness import Completeness
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.aggregate.view import BUCKET_SECONDS
from kaywatch_agent.model.alerts import Evidence
from kaywatch_agent.model.records import FailureRecord
from kaywatch_agent.model.series import Kind
from kaywatch_agent.rules import metrics
from kaywatch_agent.rules.alert import Alert, FiringContext
from kaywatch_agent.rules.evaluate import budgets_left
from kaywatch_agent.rules.matchers import matches
from kaywatch_agent.rules.metrics import Metric, MetricContext
from kaywatch_agent.rules.rule import Rule, Threshold
from kaywatch_agent.rules.scene import SeriesSelector, WindowCache

__all__ = ["firing_contexts"]

MAX_CLASSES: Final = 3
MAX_EVIDENCE: Final = 5
MAX_HISTORY: Final = 30

# A message is cut to this: it is read at night, on a telephone.
MAX_MESSAGE: Final = 500

# A share that differs by less is as usual.
SHARE_MOVED: Final = 0.01

Group = tuple[str, ...]


def firing_contexts(
    rule: Rule, instances: Sequence[Alert], windows: WindowCache
) -> list[FiringContext]:
    """Return what is to be seen of each of several alerts of one rule."""
    if not set(rule.per) & {"service", "graph", "node"}:
        return [FiringContext() for _ in instances]
    wanted = [
        tuple(instance.labels.get(label, "") for label in rule.per)
        for instance in instances
    ]
    series = SeriesSelector(frozenset({Kind.NODE}), frozenset(), rule.per, rule.match)
    names, figures = windows.figures(series, rule.window, Dimension.ERROR)
    at = {name: number for number, name in enumerate(names)}
    chosen = {at[group] for group in wanted if group in at}
    classes = _classes(figures, chosen, windows)
    moved = _moved(rule, set(wanted), windows)
    history = _history(rule, wanted, windows)
    failures = windows.scene.view.failures
    shares = _completeness(rule, windows)
    budgets = budgets_left(rule, windows)
    return [
        FiringContext(
            error_classes=tuple(classes.get(at.get(group, -1), ())),
            transition=moved.get(group, ""),
            history=history.get(group, ()),
            evidence=_evidence(instance.labels, rule, failures),
            budget_left=budgets.get(group),
            completeness=shares.get(instance.labels.get("service", ""), shares.get("")),
        )
        for instance, group in zip(instances, wanted, strict=True)
    ]


# -- inside --------------------------------------------------------------------------


def _classes(
    figures: GroupStats, chosen: set[int], windows: WindowCache
) -> dict[int, list[tuple[str, int]]]:
    """Return the most frequent error classes of each group."""
    values = windows.scene.view.registry.errors.values
    counts: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for group, number, count in figures.counted(Dimension.ERROR):
        if group in chosen:
            counts[group][values[number].type] += count
    return {
        group: sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_CLASSES]
        for group, found in counts.items()
    }


def _moved(rule: Rule, wanted: set[Group], windows: WindowCache) -> dict[Group, str]:
    """Return, by group, the transition that is taken most beyond its usual share."""
    own = rule.per.index("node") if "node" in rule.per else len(rule.per)
    per = rule.per if own < len(rule.per) else (*rule.per, "node")
    series = SeriesSelector(frozenset({Kind.NODE}), frozenset(), per, rule.match)
    values = windows.scene.view.registry.actions.values
    names, ever = windows.figures(series, math.inf, Dimension.ACTION)
    _, figures = windows.figures(series, rule.window, Dimension.ACTION)
    group_of = {
        n: name
        for n, row in enumerate(names)
        if (name := row[: len(rule.per)]) in wanted
    }
    usual = {(g, a): n for g, a, n in ever.counted(Dimension.ACTION) if g in group_of}
    best: dict[Group, tuple[float, str]] = {}
    for number, action, count in figures.counted(Dimension.ACTION):
        group, n = group_of.get(number), int(figures.executions[number])
        n_ever = int(ever.executions[number])
        if group is None or not n or not n_ever:
            continue
        before = usual.get((number, action), 0) / n_ever
        surplus = count - n * before
        if surplus <= SHARE_MOVED * n:
            continue
        text = f"{names[number][own]} -> {values[action]}: {count / n:.0%}"
        found = (surplus, f"{text}, usually {before:.0%}")
        best[group] = max(best.get(group, (0.0, "")), found)
    return {group: text for group, (_, text) in best.items()}


def _history(
    rule: Rule, wanted: Iterable[Group], windows: WindowCache
) -> Mapping[Group, tuple[float | None, ...]]:
    """Return the metric's values in the last windows, oldest first."""
    metric = _metric(rule)
    if metric is None:
        return {}
    series = SeriesSelector.of(metric, rule.per, rule.match)
    groups, chosen = windows.groups(series), set(wanted)
    some = {name: n for n, name in enumerate(groups.names) if name in chosen}
    number = np.full(len(groups) + 1, -1)
    number[list(some.values())] = np.arange(len(some))
    spans = min(MAX_HISTORY, max(1, int(86_400 / rule.window)))
    figures = GroupStats(number[groups.numbers], len(some) * spans, metric.facets)
    view = windows.scene.view
    start = view.now - spans * rule.window
    for begin, step in view.between(start, view.now + BUCKET_SECONDS, rule.window):
        span = min(spans - 1, max(0, int((begin - start) // rule.window)))
        figures.add(step, span * len(some))
    values = metric.of(figures, MetricContext(view.registry, rule.window))
    table = values.reshape(spans, len(some)).T
    return {name: _known(row.tolist()) for name, row in zip(some, table, strict=True)}


def _known(values: list[float]) -> tuple[float | None, ...]:
    """Return values without the unknown ones before the first known one."""
    found = [value if math.isfinite(value) else None for value in values]
    first = next((n for n, value in enumerate(found) if value is not None), len(found))
    return tuple(found[first:])


def _metric(rule: Rule) -> Metric | None:
    if isinstance(rule.test, Threshold):
        metric = metrics.find(rule.test.metric)
        kept = metric.source.aggregated
        return metric if kept and rule.test.metric not in metrics.VISITS else None
    return metrics.find("error_rate")


def _evidence(
    labels: Mapping[str, str], rule: Rule, failures: Sequence[FailureRecord]
) -> tuple[Evidence, ...]:
    """Return the last failures that concern an alert, newest first."""
    found = []
    for failure in reversed(failures):
        own = {
            "service": failure.service, "graph": failure.graph, "node": failure.node
        }  # fmt: skip
        mine = all(own.get(name, value) == value for name, value in labels.items())
        if mine and matches(rule.match, own):
            found.append(
                Evidence(
                    time=failure.time,
                    node=failure.node,
                    type=failure.type,
                    message=failure.message[:MAX_MESSAGE],
                    phase=failure.phase,
                    outcome=failure.outcome,
                    run=failure.run,
                    attempts=failure.attempts,
                )
            )
        if len(found) == MAX_EVIDENCE:
            break
    return tuple(found)


def _completeness(rule: Rule, windows: WindowCache) -> dict[str, float | None]:
    """Return which share of a window's events arrived, by service and in all ("")."""
    registry = windows.scene.view.registry
    found = Completeness(list(registry.keys), registry.overflow_rows)
    for step in windows.steps(rule.window):
        found.add(step)
    shares = {service: found.of([service]).ratio for service in found.services}
    return {**shares, "": found.of(found.services).ratio}

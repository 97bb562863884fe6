"""What is known when an episode begins: errors, transitions, history, failures, cost.

It is looked up once for all alerts of a rule that fire together, and only then: in each
evaluation, for thousands of healthy series, it would be wasted work.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.completeness import Completeness, EventLayout
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.aggregate.view import BUCKET_SECONDS
from kaywatch_agent.model.alerts import Evidence
from kaywatch_agent.model.records import FailureRecord
from kaywatch_agent.rules import metrics
from kaywatch_agent.rules.alert import Alert, FiringContext
from kaywatch_agent.rules.cost import cost_of_failures
from kaywatch_agent.rules.evaluate import budgets_left
from kaywatch_agent.rules.formulas import MetricContext
from kaywatch_agent.rules.matchers import matches
from kaywatch_agent.rules.metrics import Metric
from kaywatch_agent.rules.rule import Rule, Threshold
from kaywatch_agent.rules.windows import Group, WindowCache, select, select_nodes
from kaywatch_agent.units import percent

__all__ = ["firing_contexts"]

MAX_CLASSES: Final = 3
MAX_EVIDENCE: Final = 5
MAX_HISTORY: Final = 30
HISTORY_SECONDS: Final = 86_400

# Characters of a failure's message: notifications are read at night, on a phone.
MAX_MESSAGE: Final = 500

# A share that differs by less is considered usual.
SHARE_MOVED: Final = 0.01


def firing_contexts(
    rule: Rule, alerts: Sequence[Alert], windows: WindowCache
) -> list[FiringContext]:
    """Return the contexts of alerts of one rule that fire now."""
    # Alerts about a process or about a rule have no executions of their own.
    if not set(rule.per) & {"service", "graph", "node"}:
        return [FiringContext() for _ in alerts]
    groups = [tuple(a.labels.get(label, "") for label in rule.per) for a in alerts]
    classes = _error_classes(rule, set(groups), windows)
    transitions = _transitions(rule, set(groups), windows)
    history = _history(rule, groups, windows)
    shares = _completeness(rule, windows)
    budgets = budgets_left(rule, windows)
    limits = {g: alert.threshold for g, alert in zip(groups, alerts, strict=True)}
    costs = cost_of_failures(rule, limits, windows)
    failures = windows.input.view.failures
    return [
        FiringContext(
            error_classes=classes.get(group, ()),
            transition=transitions.get(group, ""),
            history=history.get(group, ()),
            evidence=_evidence(alert.labels, rule, failures),
            budget_left=budgets.get(group),
            cost=costs.get(group, ""),
            completeness=shares.get(alert.labels.get("service", ""), shares.get("")),
        )
        for alert, group in zip(alerts, groups, strict=True)
    ]


# -- inside --------------------------------------------------------------------------


def _error_classes(
    rule: Rule, wanted: set[Group], windows: WindowCache
) -> dict[Group, tuple[tuple[str, int], ...]]:
    """Return the most frequent error classes, by group."""
    selector = select_nodes(rule.per, rule.match)
    groups, stats = windows.stats(selector, rule.window, Dimension.ERROR)
    errors = windows.input.view.registry.errors.values
    counts: dict[Group, Counter[str]] = defaultdict(Counter)
    for number, error, count in stats.counted(Dimension.ERROR):
        if groups[number] in wanted:
            counts[groups[number]][errors[error].type] += count
    return {
        group: tuple(sorted(found.items(), key=lambda c: (-c[1], c[0]))[:MAX_CLASSES])
        for group, found in counts.items()
    }


def _transitions(
    rule: Rule, wanted: set[Group], windows: WindowCache
) -> dict[Group, str]:
    """Return, by group, the transition that exceeds its usual share the most.

    An alert of drift already names it, with the share in the week before.
    """
    if getattr(rule.condition, "metric", "") == "action_drift":
        return {}
    per = tuple(dict.fromkeys((*rule.per, "node")))
    selector = select_nodes(per, rule.match)
    actions = windows.input.view.registry.actions.values
    nodes, ever = windows.stats(selector, math.inf, Dimension.ACTION)
    _, recent = windows.stats(selector, rule.window, Dimension.ACTION)
    groups = [node[: len(rule.per)] for node in nodes]
    usual = {
        (number, action): count
        for number, action, count in ever.counted(Dimension.ACTION)
        if groups[number] in wanted
    }
    largest: dict[Group, tuple[float, str]] = {}
    for number, action, count in recent.counted(Dimension.ACTION):
        total = int(recent.executions[number])
        before = int(ever.executions[number]) - total
        if groups[number] not in wanted or not total or before <= 0:
            continue
        # All executions include those of the window.
        usual_share = (usual.get((number, action), 0) - count) / before
        # The surplus is in executions: the ratio of a rare action that doubles explains
        # little.
        surplus = count - total * usual_share
        if surplus <= SHARE_MOVED * total:
            continue
        node, own = nodes[number][per.index("node")], groups[number]
        share = f"{percent(count / total)}, usually {percent(usual_share)}"
        text = f"{node} -> {actions[action]}: {share}"
        largest[own] = max(largest.get(own, (0.0, "")), (surplus, text))
    return {own: text for own, (_, text) in largest.items()}


def _history(
    rule: Rule, selected: Iterable[Group], windows: WindowCache
) -> Mapping[Group, tuple[float | None, ...]]:
    """Return the metric's values in the previous windows, the oldest first, by group.

    All windows are computed at once: each has its own range of group numbers.
    """
    metric = _history_metric(rule)
    if metric is None or metric.compute is None:
        return {}
    groups, selected = (
        windows.groups(select(metric, rule.per, rule.match)),
        set(selected),
    )
    number_of = {name: n for n, name in enumerate(groups.names) if name in selected}
    size = len(number_of)
    numbers = np.full(len(groups) + 1, -1)
    numbers[list(number_of.values())] = np.arange(size)
    spans = min(MAX_HISTORY, max(1, int(HISTORY_SECONDS / rule.window)))
    stats = GroupStats(numbers[groups.numbers], size * spans, metric.dimensions)
    view = windows.input.view
    start, end = view.now - spans * rule.window, view.now + BUCKET_SECONDS
    for begin, bucket in view.between(start, end, rule.window):
        span = min(spans - 1, max(0, int((begin - start) // rule.window)))
        stats.add(bucket, span * size)
    values = metric.compute(stats, MetricContext(view.registry, rule.window))
    table = values.reshape(spans, size).T.tolist()
    return {
        name: _without_leading_gaps(row)
        for name, row in zip(number_of, table, strict=True)
    }


def _history_metric(rule: Rule) -> Metric | None:
    if isinstance(rule.condition, Threshold):
        return metrics.find(rule.condition.metric)
    return metrics.find("error_rate")


def _without_leading_gaps(values: list[float]) -> tuple[float | None, ...]:
    finite = [value if math.isfinite(value) else None for value in values]
    first = next(
        (n for n, value in enumerate(finite) if value is not None), len(finite)
    )
    # The agent may be younger than the history; later gaps are part of it.
    return tuple(finite[first:])


def _evidence(
    labels: Mapping[str, str], rule: Rule, failures: Sequence[FailureRecord]
) -> tuple[Evidence, ...]:
    """Return the last failures of the alert's series, the newest first."""
    evidence: list[Evidence] = []
    for failure in reversed(failures):
        own = {
            "service": failure.service, "graph": failure.graph, "node": failure.node
        }  # fmt: skip
        concerned = all(own.get(name, value) == value for name, value in labels.items())
        is_retried = failure.outcome == "ok"
        if concerned and not is_retried and matches(rule.match, own):
            evidence.append(
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
        if len(evidence) == MAX_EVIDENCE:
            break
    return tuple(evidence)


def _completeness(rule: Rule, windows: WindowCache) -> dict[str, float | None]:
    """Return the share of the window's events that arrived, by service; "" for all."""
    registry = windows.input.view.registry
    layout = EventLayout(list(registry.keys), registry.overflow_rows)
    completeness = Completeness(layout)
    for bucket in windows.buckets(rule.window):
        completeness.add(bucket)
    services = completeness.services
    shares = {service: completeness.of([service]).ratio for service in services}
    return {**shares, "": completeness.of(services).ratio}

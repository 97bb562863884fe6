"""Turns the tables of rules into conditions, one function for each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.rules import metrics
from kaywatch_agent.rules.config import (
    AbsenceConfig,
    BurnRateConfig,
    RunawayConfig,
    StuckConfig,
    ThresholdConfig,
    TierConfig,
    TransitionConfig,
)
from kaywatch_agent.rules.expression import Compare, Not, Predicate, leading, parse
from kaywatch_agent.rules.matchers import Matcher
from kaywatch_agent.rules.metrics import METRICS, MetricSource
from kaywatch_agent.rules.reachable import (
    check_expression,
    check_factor,
    check_ratio,
    check_reachable,
    check_share,
)
from kaywatch_agent.rules.rule import (
    Absence,
    BurnRate,
    Condition,
    Stuck,
    Threshold,
    Transition,
)
from kaywatch_agent.settings.reader import ErrorCollector
from kaywatch_agent.units import parse_duration

__all__ = [
    "absence",
    "burn_rate",
    "check_labels",
    "check_minimum",
    "check_objective",
    "compare",
    "labels_of",
    "parse_key",
    "runaway",
    "stuck",
    "threshold",
    "transition",
]

T = TypeVar("T")

# The metrics that the keys of a runaway rule limit.
_VISITS: Final = {"max_visits": "run_visits_max", "max_node_visits": "node_visits_max"}


def threshold(config: ThresholdConfig, path: str) -> Threshold:
    """Return the condition of a threshold rule."""
    if config.when:
        return _expression(config, path)
    if config.clear_when:
        raise ConfigError(
            f"{path}.clear_when", "requires when; to clear a metric, write clear"
        )
    if not config.metric:
        raise ConfigError(
            f"{path}.metric",
            'missing; write a metric, or an expression: when = "error_rate > 0.05"',
        )
    op, value, clear = config.op, config.value, config.clear
    if not metrics.is_known(config.metric) or op is None or value is None:
        raise _incomplete(config, path)
    check_reachable(f"{path}.value", Compare(config.metric, op, value))
    if clear is not None:
        _check_clear(f"{path}.clear", Compare(config.metric, op, value), clear)
    return compare(config.metric, op, value, clear)


def _incomplete(config: ThresholdConfig, path: str) -> ConfigError:
    """Return all errors of a comparison that lacks a part."""
    problems, value = ErrorCollector(), config.value
    with problems.collect():
        metric = parse_key(f"{path}.metric", metrics.find, config.metric)
        if value is not None and metric.unit == "ratio":
            check_ratio(f"{path}.value", config.metric, value)
    if config.op is None:
        problems.add(f"{path}.op", "missing; expected one of < <= > >=")
    if value is None:
        missing = "missing; write the number to compare the metric with"
        problems.add(f"{path}.value", missing)
    return problems.error()


def compare(metric: str, op: str, value: float, clear: float | None) -> Threshold:
    """Return the condition that a metric is beyond a value."""
    breach = Compare(metric, op, value)
    # At the value itself, `>=` and `<=` are both true: a condition without a `clear` of
    # its own is clear exactly when it is not met.
    cleared: Predicate = Not(breach)
    if clear is not None and clear != value:
        cleared = Compare(metric, ">=" if op.startswith("<") else "<=", clear)
    clear_at = value if clear is None else clear
    return Threshold(breach, cleared, metric, value, clear_at)


def _expression(config: ThresholdConfig, path: str) -> Threshold:
    for key in ("metric", "op", "value", "clear"):
        if getattr(config, key) not in (None, ""):
            raise ConfigError(
                f"{path}.{key}", "cannot be combined with when; remove one of them"
            )

    def predicate(text: str) -> Predicate:
        return parse(text, metrics.is_known, METRICS)

    breach = parse_key(f"{path}.when", predicate, config.when)
    clear: Predicate = Not(breach)
    if config.clear_when:
        clear = parse_key(f"{path}.clear_when", predicate, config.clear_when)
    for part in breach.comparisons():
        check_reachable(f"{path}.when", part)
    for part in clear.comparisons() if config.clear_when else ():
        check_reachable(f"{path}.clear_when", part)
    check_expression(path, breach, clear if config.clear_when else None)
    first = leading(breach)
    return Threshold(breach, clear, first.metric, first.value, None)


def _check_clear(key: str, breach: Compare, clear: float) -> None:
    """Raise ConfigError for a level that is never reached, or is no good one."""
    metric, op, value = breach
    low_is_bad = op.startswith("<")
    # Written so that NaN is refused: such an alert would never clear.
    if not (clear >= value if low_is_bad else clear <= value):
        side = "above" if low_is_bad else "below"
        raise ConfigError(
            key,
            f"{clear:g} can never clear the alert: expected a number {side}"
            f" value = {value:g}, or equal to it",
        )
    # Only an application's own metrics are ever negative.
    if clear < 0 and metric in METRICS:
        raise ConfigError(key, f"{clear:g}: {metric} is never negative")
    if metrics.find(metric).unit == "ratio":
        check_reachable(key, Compare(metric, op, clear))


def absence(config: AbsenceConfig, path: str, grace: float) -> Absence:
    """Return the condition of an absence rule."""
    max_age = parse_duration(config.max_age)
    forget_after = parse_duration(config.forget_after)
    if max_age <= 0:
        raise ConfigError(
            f"{path}.max_age",
            f'"{config.max_age}": expected more than 0, such as "15m"',
        )
    # A label set would be forgotten before it could be absent.
    if forget_after <= max_age:
        raise ConfigError(
            f"{path}.forget_after",
            f'"{config.forget_after}": expected more than max_age = "{config.max_age}"',
        )
    for number, labels in enumerate(config.expect):
        if not labels:
            example = 'expected labels such as { graph = "nightly" }'
            raise ConfigError(f"{path}.expect[{number}]", example)
    return Absence(max_age, config.expect, forget_after, grace)


def burn_rate(config: BurnRateConfig, tier: TierConfig, path: str) -> BurnRate:
    """Return the condition of one tier."""
    objective, factor = config.objective, tier.factor
    long, short = parse_duration(tier.long), parse_duration(tier.short)
    slo_window = parse_duration(config.slo_window)
    # If every execution fails, the budget burns this many times faster than allowed.
    highest = 1.0 / (1.0 - objective)
    if factor <= 0:
        text = f"{factor:g}: expected more than 0, such as 14.4"
        raise ConfigError(f"{path}.factor", text)
    if factor >= highest:
        raise ConfigError(
            f"{path}.factor",
            f"{factor:g} can never be reached: if everything fails, an objective of"
            f" {objective:g} burns {highest:.3g} times too fast; choose less than that",
        )
    # The short window shows that the errors go on, so it has to end sooner than the
    # long one; the budget is that of the whole period.
    if not 0 < short < long <= slo_window:
        raise ConfigError(
            f"{path}.long",
            f'"{tier.long}": expected short < long <= slo_window, which are'
            f' "{tier.short}" and "{config.slo_window}"',
        )
    # The shortest bucket is 10 s long.
    if short < 10:
        raise ConfigError(f"{path}.short", f'"{tier.short}": expected at least "10s"')
    latency = config.latency_le
    return BurnRate(
        objective,
        slo_window,
        None if latency is None else parse_duration(latency),
        factor,
        long,
        short,
        config.min_events,
    )


def transition(config: TransitionConfig, path: str) -> Transition:
    """Return the condition of a transition_share rule."""
    limits = {"above": config.above, "below": config.below}
    configured = {key: value for key, value in limits.items() if value is not None}
    if config.change != "share":
        for key in configured:
            text = f'change = "{config.change}" has no limit; remove it'
            raise ConfigError(f"{path}.{key}", text)
    elif not config.action or not configured:
        example = 'action = "retry" with above = 0.3 or below = 0.1'
        key = "above" if config.action else "action"
        raise ConfigError(f"{path}.{key}", f"incomplete; write {example}")
    problems = ErrorCollector()
    for key, value in configured.items():
        with problems.collect():
            check_share(f"{path}.{key}", ">" if key == "above" else "<", value)
    problems.raise_all()
    if len(configured) == 2 and configured["below"] >= configured["above"]:
        text = f"{config.below:g}: expected less than above = {config.above:g}"
        raise ConfigError(f"{path}.below", text)
    return Transition(config.change, config.action, config.above, config.below)


def stuck(config: StuckConfig, path: str) -> Stuck:
    """Return the condition of a stuck rule."""
    check_factor(f"{path}.factor", config.factor)
    max_age = None if config.max_age is None else parse_duration(config.max_age)
    if max_age == 0:
        text = f'"{config.max_age}": expected more than 0, such as "30m"'
        raise ConfigError(f"{path}.max_age", text)
    return Stuck(config.factor, max_age, parse_duration(config.at_least))


def runaway(config: RunawayConfig, path: str) -> Threshold:
    """Return the condition of a runaway rule."""
    limits = {key: getattr(config, key) for key in _VISITS}
    configured = {key: value for key, value in limits.items() if value is not None}
    if not configured:
        raise ConfigError(
            f"{path}.max_visits",
            "missing; write the number of nodes that a run may visit, such as 100, or"
            " set max_node_visits, how often it may visit one node",
        )
    if len(configured) > 1:
        raise ConfigError(
            f"{path}.max_node_visits",
            "cannot be combined with max_visits; write two rules",
        )
    ((key, limit),) = configured.items()
    check_minimum(path, key, limit, 1)
    return compare(_VISITS[key], ">", float(limit), None)


def check_minimum(path: str, key: str, value: int, minimum: int) -> None:
    """Raise ConfigError if a value is below its minimum."""
    if value < minimum:
        raise ConfigError(f"{path}.{key}", f"{value}: expected at least {minimum}")


def check_objective(path: str, objective: float) -> None:
    """Raise ConfigError if an objective is not between 0 and 1."""
    if not 0.0 < objective < 1.0:
        raise ConfigError(
            path, f"{objective:g}: expected a number between 0 and 1, such as 0.99"
        )


def labels_of(condition: Condition) -> tuple[list[str], bool]:
    """Return the labels of a rule's alerts, and whether there may be others."""
    if not isinstance(condition, Threshold):
        return list(MetricSource.NODES.labels), False
    sources = {metric.source for metric in condition.metrics.values()}
    # The metrics of an expression are joined by their groups, so a label that one of
    # them lacks cannot tell groups apart.
    shared = set.intersection(*(set(source.labels) for source in sources))
    first = next(iter(sources)).labels
    ordered = [label for label in first if label in shared]
    return ordered, sources == {MetricSource.CUSTOM}


def check_labels(path: str, matchers: Iterable[Matcher], condition: Condition) -> None:
    """Raise ConfigError for a matcher of a label that the rule's series lack."""
    allowed, may_have_others = labels_of(condition)
    for number, matcher in enumerate(matchers):
        if matcher.name not in allowed and not may_have_others:
            raise ConfigError(
                f"{path}[{number}]",
                f'unknown label "{matcher.name}"; this rule has {", ".join(allowed)}',
            )


def parse_key(path: str, parse_text: Callable[[str], T], text: str) -> T:
    """Return the parsed text; its ValueError becomes a ConfigError."""
    try:
        return parse_text(text)
    except ValueError as error:
        raise ConfigError(path, str(error)) from None

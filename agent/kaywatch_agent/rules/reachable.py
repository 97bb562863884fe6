"""Rejects limits that metrics always or never exceed, and alerts that never clear."""

from __future__ import annotations

import itertools
import math
from typing import Final

import numpy as np

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.rules import metrics
from kaywatch_agent.rules.expression import TRUE, Compare, Predicate, Values
from kaywatch_agent.rules.metrics import METRICS
from kaywatch_agent.rules.rule import Threshold

__all__ = [
    "CLEAR_SHARE",
    "check_expression",
    "check_factor",
    "check_ratio",
    "check_reachable",
    "check_share",
    "usual_clear",
    "warn_of_clear",
    "warn_of_overlap",
]

# A rate clears at four fifths of the failures that its threshold allows, so a strict
# threshold can be reached again: 0.99 clears at 0.992, 0.95 at 0.96.
CLEAR_SHARE: Final = 0.8

# A level that allows fewer failures than one in this many executions, and a tenth of
# what the threshold allows, is practically not reached: few windows have as many.
RARELY_WITHOUT: Final = 1000
MUCH_STRICTER: Final = 10

# Of a stuck node: a year is a million times half a minute.
MAX_FACTOR: Final = 1_000_000

# Combinations of values by which an expression is checked: milliseconds.
MAX_SAMPLES: Final = 20_000

# Comparisons of a number between 0 and 1 that its value does not decide.
_NEVER: Final = {(">", 1.0), ("<", 0.0)}
_ALWAYS: Final = {(">=", 0.0), ("<=", 1.0)}

# Metrics that are relative to what is usual, which is 1.
_RELATIVE: Final = frozenset(
    {"visits_over_usual", "runaway_factor", "latency_over_usual", "cost_over_usual"}
)


def check_reachable(key: str, comparison: Compare) -> None:
    """Raise ConfigError for a comparison that is always or never true."""
    name, op, value = comparison
    if metrics.find(name).unit != "ratio":
        _check_limit(key, comparison)
        return
    check_ratio(key, name, value)
    if (op, value) in _NEVER or (op, value) in _ALWAYS:
        often = "never" if (op, value) in _NEVER else "always"
        raise ConfigError(key, f"{comparison} is {often} true; choose another limit")


def check_share(key: str, op: str, value: float) -> None:
    """Raise ConfigError for a limit of a share that is always or never exceeded."""
    comparison = Compare("the share", op, value)
    check_ratio(key, comparison.metric, value)
    if (op, value) in _NEVER:
        raise ConfigError(key, f"{comparison} is never true; choose another limit")


def check_ratio(key: str, name: str, value: float) -> None:
    """Raise ConfigError for a limit that no share can have."""
    if not 0.0 <= value <= 1.0:
        percent = f"; write {value / 100:g} for {value:g} %" if 1 < value <= 100 else ""
        raise ConfigError(key, f"{value:g}: {name} is between 0 and 1{percent}")


def _check_limit(key: str, comparison: Compare) -> None:
    """Raise ConfigError for a limit below the range of a metric that starts at 0."""
    name, op, value = comparison
    # An application's own metrics may be negative.
    if name not in METRICS:
        return
    is_excluded = value <= 0 if op in (">=", "<") else value < 0
    if is_excluded:
        often = "always" if op.startswith(">") else "never"
        text = f"{comparison} is {often} true: {name} is never negative"
        raise ConfigError(key, f"{text}; choose another limit")
    if name in _RELATIVE and op.startswith(">") and value < 1:
        text = f"{value:g}: {name} is usually about 1; expected at least 1"
        raise ConfigError(key, text)


def check_factor(key: str, factor: float) -> None:
    """Raise ConfigError for a factor of the 99th percentile that is too small.

    One execution in a hundred takes longer than that by definition.
    """
    if not 1 < factor <= MAX_FACTOR:
        text = f"{factor:g}: expected more than 1, and at most {MAX_FACTOR:,}"
        raise ConfigError(key, text)


def check_expression(path: str, breach: Predicate, clear: Predicate | None) -> None:
    """Raise ConfigError for expressions that no or all values of metrics make true.

    Args:
        path: of the rule's table.
        breach: its `when`.
        clear: its `clear_when`; None without one.
    """
    predicates = (breach,) if clear is None else (breach, clear)
    samples = _samples(predicates)
    if samples is None:
        return
    is_met = breach.truth(samples) == TRUE
    if is_met.all() or not is_met.any():
        often = "always" if is_met.all() else "never"
        raise ConfigError(f"{path}.when", f"{breach} is {often} true; change a limit")
    if clear is None:
        return
    is_clear = clear.truth(samples) == TRUE
    if not is_clear.any():
        text = f"{clear} is never true; change a limit"
        raise ConfigError(f"{path}.clear_when", text)
    if not (is_clear & ~is_met).any():
        text = f"{clear} can never clear the alert: when is true then; change a limit"
        raise ConfigError(f"{path}.clear_when", text)


def usual_clear(op: str, value: float, share: float = CLEAR_SHARE) -> float:
    """Return the level that clears a comparison, for a share of what it allows."""
    clear = 1.0 - (1.0 - value) * share if op.startswith("<") else value * share
    # Without the noise of the calculation: 0.96 must clear at 96 of 100.
    return round(clear, 9)


def warn_of_clear(condition: Threshold) -> str:
    """Return a warning of a level that is practically never reached; else nothing."""
    for breach in condition.breach.comparisons():
        for clear in condition.clear.comparisons():
            # Of opposite directions: without a level of its own, it is the same one.
            is_opposite = clear.op[0] != breach.op[0]
            if is_opposite and clear.metric == breach.metric:
                return _warn_of_level(breach, clear)
    return ""


def warn_of_overlap(condition: Threshold) -> str:
    """Return a warning of a `clear_when` that is true during a breach; else nothing."""
    samples = _samples((condition.breach, condition.clear))
    if samples is None:
        return ""
    is_met, is_clear = (
        one.truth(samples) == TRUE for one in (condition.breach, condition.clear)
    )
    if not (is_met & is_clear).any():
        return ""
    return (
        f"{condition.clear} can be true while {condition.breach} is true; the alert"
        " continues then"
    )


# -- inside --------------------------------------------------------------------------


def _samples(predicates: tuple[Predicate, ...]) -> Values | None:
    """Return values of the metrics for every outcome of the predicates' comparisons.

    None for too many: an expression of many metrics is contradictory rarely.
    """
    limits: dict[str, set[float]] = {}
    for predicate in predicates:
        for one in predicate.comparisons():
            limits.setdefault(one.metric, set()).add(one.value)
    axes = {name: _points(name, sorted(values)) for name, values in limits.items()}
    if math.prod(map(len, axes.values())) > MAX_SAMPLES:
        return None
    rows = np.array(list(itertools.product(*axes.values())), float)
    return dict(zip(axes, rows.T, strict=True))


def _points(metric: str, limits: list[float]) -> list[float]:
    """Return all limits of a metric, and a value between, below and above them."""
    between = [(low + high) / 2 for low, high in itertools.pairwise(limits)]
    points = [*limits, *between, limits[0] - 1, limits[-1] + 1]
    if metric not in METRICS:
        return points
    highest = 1.0 if METRICS[metric].unit == "ratio" else math.inf
    points += [limits[0] / 2, min((limits[-1] + 1) / 2, highest), 0.0, highest]
    return [one for one in points if 0.0 <= one <= highest and math.isfinite(one)]


def _warn_of_level(breach: Compare, clear: Compare) -> str:
    unit = metrics.find(breach.metric).unit
    if unit in ("seconds", "bytes") and clear.op.startswith("<") and clear.value <= 0:
        level = usual_clear(breach.op, breach.value)
        return f"{clear} is never true; choose a level such as {level:g}"
    if unit != "ratio":
        return ""
    allowed, allowed_clear = (
        1.0 - one.value if breach.op.startswith("<") else one.value
        for one in (breach, clear)
    )
    # Without the noise of the subtraction.
    allowed, allowed_clear = round(allowed, 12), round(allowed_clear, 12)
    if allowed_clear * RARELY_WITHOUT >= 1 or allowed_clear * MUCH_STRICTER > allowed:
        return ""
    often = "one failure"
    if allowed_clear > 0:
        often = f"more than one failure in {1 / allowed_clear:,.0f} executions"
    return (
        f"{clear} may never be true again: {often} within the window keeps the alert"
        f" firing; choose a level such as {usual_clear(breach.op, breach.value):g}"
    )

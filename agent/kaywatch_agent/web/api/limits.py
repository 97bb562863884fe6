"""The thresholds of rules that apply to a node."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from kaywatch_agent.rules.matchers import matches
from kaywatch_agent.rules.rule import Rule, Threshold

__all__ = ["StrictestThresholds", "find_strictest"]


class StrictestThresholds(NamedTuple):
    """The strictest thresholds of rules; None for none."""

    max_avg: float | None
    min_success_rate: float | None


def find_strictest(
    rules: Iterable[Rule], labels: Collection[Mapping[str, str]]
) -> StrictestThresholds:
    """Return the strictest thresholds of the rules that match any of some labels."""
    limits: dict[str, list[float]] = {
        "latency_avg": [],
        "success_rate": [],
        "error_rate": [],
    }
    for rule in rules:
        condition = rule.condition
        if not isinstance(condition, Threshold) or condition.metric not in limits:
            continue
        if any(matches(rule.match, each) for each in labels):
            limits[condition.metric].append(condition.threshold)
    # A maximum error rate is also a minimum success rate; the stricter one counts.
    rates = [*limits["success_rate"], *(1.0 - rate for rate in limits["error_rate"])]
    return StrictestThresholds(
        min(limits["latency_avg"], default=None), max(rates, default=None)
    )

"""The thresholds of rules that apply to a node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from kaywatch_agent.rules.matchers import matches
from kaywatch_agent.rules.rule import Rule, Threshold

__all__ = ["NodeThresholds", "StrictestThresholds"]

# A rule with another operator does not limit what it looks at.
_LIMITS: Final = {
    "latency_avg": (">", ">="),
    "success_rate": ("<", "<="),
    "error_rate": (">", ">="),
}


class StrictestThresholds(NamedTuple):
    """The strictest thresholds of rules; None for none."""

    max_avg: float | None
    min_success_rate: float | None


class NodeThresholds:
    """Finds the thresholds that apply to nodes."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        """Select the rules that may apply to a node."""
        self._rules = [
            (rule, rule.condition)
            for rule in rules
            if isinstance(rule.condition, Threshold) and _is_limit(rule.condition)
        ]

    def find(self, labels: Iterable[Mapping[str, str]]) -> StrictestThresholds:
        """Return the strictest thresholds of rules that match any of some labels."""
        places = list(labels)
        averages: list[float] = []
        rates: list[float] = []
        for rule, condition in self._rules:
            if rule.match and not any(matches(rule.match, each) for each in places):
                continue
            if condition.metric == "latency_avg":
                averages.append(condition.threshold)
            else:
                # A maximum error rate is also a minimum success rate.
                is_success = condition.metric == "success_rate"
                threshold = condition.threshold
                rates.append(threshold if is_success else 1.0 - threshold)
        return StrictestThresholds(
            min(averages, default=None), max(rates, default=None)
        )


def _is_limit(condition: Threshold) -> bool:
    """Return whether a rule limits one of the metrics, in the worse direction."""
    return any(
        comparison.metric == condition.metric
        and comparison.op in _LIMITS.get(comparison.metric, ())
        for comparison in condition.breach.comparisons()
    )

"""What a failure has cost: seconds, and tokens and money for models.

Costs of failed attempts are counted by clients. Others are estimated from what an
execution cost on average in the rule's window; texts about them contain "about".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from kaywatch_agent.model.series import Kind
from kaywatch_agent.rules.rule import Rule, Threshold
from kaywatch_agent.rules.windows import (
    Group,
    SeriesSelector,
    WindowCache,
    select_nodes,
)
from kaywatch_agent.units import duration, money, quantity

__all__ = ["WASTED_TOKENS", "MeanCost", "cost_of_failures", "mean_costs", "sums"]

_TOKENS: Final = ("llm_input_tokens", "llm_output_tokens")
WASTED_TOKENS: Final = ("llm_wasted_input_tokens", "llm_wasted_output_tokens")

# The metrics whose breach means that attempts failed.
_OF_FAILURES: Final = frozenset(
    {
        *("success_rate", "error_rate", "exhausted_rate", "masked_rate"),
        *("fallback_rate", "suppressed_rate"),
    }
)


class MeanCost(NamedTuple):
    """What one execution costs on average; 0 for what is not known."""

    seconds: float
    tokens: float
    usd: float

    def of(self, executions: float) -> str:
        """Return what a number of executions cost, such as `about 4.2s and $0.42`."""
        text = _text(*(value * executions for value in self))
        return f"about {text}" if text else ""


def mean_costs(
    selector: SeriesSelector, window: float, windows: WindowCache
) -> dict[Group, MeanCost]:
    """Return what an execution, or a run, cost in a window, by group.

    Args:
        selector: selects nodes, or runs.
        window: seconds.
        windows: the data.
    """
    groups, stats = windows.stats(selector, window)
    tokens = _sums(selector, window, windows, *_TOKENS)
    usd = _sums(selector, window, windows, "llm_cost_usd")
    return {
        group: MeanCost(
            seconds / count, tokens.get(group, 0.0) / count, usd.get(group, 0.0) / count
        )
        for group, count, seconds in zip(
            groups, stats.executions.tolist(), stats.total.tolist(), strict=True
        )
        if count
    }


def cost_of_failures(
    rule: Rule, limits: Mapping[Group, float | None], windows: WindowCache
) -> Mapping[Group, str]:
    """Return what the breach of a rule has cost within its window, where known.

    Args:
        rule: the rule.
        limits: what the value of each group that breaches was compared with.
        windows: the data.
    """
    match rule.condition:
        case Threshold(metric="latency_avg"):
            return _excess_seconds(rule, limits, windows)
        case Threshold(metric=metric) if metric in _OF_FAILURES:
            return _failed_attempts(rule, [*limits], windows)
    return {}


def sums(rule: Rule, windows: WindowCache, *metrics: str) -> dict[Group, float]:
    """Return the sums of counts of clients in the rule's window, by group."""
    nodes = select_nodes(rule.per, rule.match)
    return _sums(nodes, rule.window, windows, *metrics)


# -- inside --------------------------------------------------------------------------


def _sums(
    selector: SeriesSelector, window: float, windows: WindowCache, *metrics: str
) -> dict[Group, float]:
    counts = selector._replace(kinds=frozenset({Kind.COUNT}), names=frozenset(metrics))
    groups, stats = windows.stats(counts, window)
    return dict(zip(groups, stats.total.tolist(), strict=True))


def _text(seconds: float = 0.0, tokens: float = 0.0, usd: float = 0.0) -> str:
    parts = [
        duration(seconds) if seconds > 0 else "",
        quantity(round(tokens), "tokens") if tokens >= 1 else "",
        money(usd) if usd > 0 else "",
    ]
    return _listed(filter(None, parts))


def _listed(parts: Iterable[str]) -> str:
    *others, last = [*parts] or [""]
    return f"{', '.join(others)} and {last}" if others else last


def _failed_attempts(
    rule: Rule, groups: Sequence[Group], windows: WindowCache
) -> dict[Group, str]:
    tokens = sums(rule, windows, *WASTED_TOKENS)
    usd = sums(rule, windows, "llm_wasted_cost_usd")
    names, stats = windows.stats(select_nodes(rule.per, rule.match), rule.window)
    retries = dict(zip(names, stats.retries().tolist(), strict=True))
    costs = {}
    for group in groups:
        repeated = int(retries.get(group, 0))
        spent = _text(0.0, tokens.get(group, 0.0), usd.get(group, 0.0))
        parts = [
            f"{repeated:,} {'retry' if repeated == 1 else 'retries'}" * (repeated > 0),
            f"{spent} for failed attempts" if spent else "",
        ]
        if text := "; ".join(filter(None, parts)):
            costs[group] = f"{text} in {duration(rule.window)}"
    return costs


def _excess_seconds(
    rule: Rule, limits: Mapping[Group, float | None], windows: WindowCache
) -> dict[Group, str]:
    """Return by how much the executions of the window exceed the limit together."""
    nodes = select_nodes(rule.per, rule.match)
    costs = mean_costs(nodes, rule.window, windows)
    names, stats = windows.stats(nodes, rule.window)
    counts = dict(zip(names, stats.executions.tolist(), strict=True))
    excess = {
        group: (costs[group].seconds - limit) * counts[group]
        for group, limit in limits.items()
        if group in costs and limit is not None
    }
    return {
        group: f"{duration(seconds)} more than allowed in {duration(rule.window)}"
        for group, seconds in excess.items()
        if seconds > 0
    }

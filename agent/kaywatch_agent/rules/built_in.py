"""The rules that exist without configuration.

They are the thresholds of KayGraph's page on monitoring, and one rule on the alerts
themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from kaywatch_agent.rules.conditions import compare
from kaywatch_agent.rules.config import ThresholdsConfig
from kaywatch_agent.rules.matchers import Matcher
from kaywatch_agent.rules.rule import Inhibition, Rule
from kaywatch_agent.rules.state import Timing
from kaywatch_agent.units import MIB

__all__ = ["BUILT_IN", "INHIBITION", "built_in_rules"]


class _BuiltIn(NamedTuple):
    """A built-in rule; `clear` is relative to the threshold."""

    metric: str
    op: str
    clear: float
    per: tuple[str, ...]
    for_: float = 60.0


# By their keys in [alerting.thresholds]: the page's MONITORING_THRESHOLDS, and ours.
_BUILT_IN: Final[Mapping[str, _BuiltIn]] = {
    "success_rate_min": _BuiltIn("success_rate", "<", 1.01, ("graph", "node")),
    "avg_execution_time_max": _BuiltIn("latency_avg", ">", 0.9, ("graph", "node")),
    "error_rate_max": _BuiltIn("error_rate", ">", 0.8, ("graph", "node")),
    "memory_usage_max": _BuiltIn("memory_rss", ">", 0.95, ("service", "pid")),
    "alerts_refused_max": _BuiltIn("alerts_refused", ">", 1.0, ("rule",), 0.0),
}

BUILT_IN: Final = tuple(_BUILT_IN)

# Two of the page's thresholds are about the same errors: one notification is enough.
INHIBITION: Final = Inhibition(
    (Matcher("alertname", "success_rate_min"),),
    (Matcher("alertname", "error_rate_max"),),
    ("service", "graph", "node"),
)


def built_in_rules(
    thresholds: ThresholdsConfig, notify: tuple[str, ...]
) -> Iterator[Rule]:
    """Yield the rules that are not disabled, notifying these receivers."""
    for name, built_in in _BUILT_IN.items():
        value = getattr(thresholds, name)
        if value is False:
            continue
        scale = MIB if built_in.metric == "memory_rss" else 1.0
        clear = value * built_in.clear * scale
        if built_in.op == "<":
            clear = min(1.0, clear)
        yield Rule(
            name=name,
            kind="threshold",
            condition=compare(built_in.metric, built_in.op, value * scale, clear),
            timing=Timing(built_in.for_, 120.0, 600.0),
            window=300.0,
            min_executions=20,
            match=(),
            per=built_in.per,
            cooldown=300.0,
            repeat_interval=4 * 3600.0,
            severity="warning",
            notify=notify,
            built_in=True,
        )

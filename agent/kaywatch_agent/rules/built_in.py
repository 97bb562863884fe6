"""The rules that exist without configuration.

They are the thresholds of KayGraph's page on monitoring, the usual failures of graphs,
and one rule on the alerts themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final, NamedTuple

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.model.alerts import Severity
from kaywatch_agent.rules.conditions import compare
from kaywatch_agent.rules.config import ThresholdsConfig
from kaywatch_agent.rules.expression import Compare
from kaywatch_agent.rules.matchers import Matcher
from kaywatch_agent.rules.reachable import (
    CLEAR_SHARE,
    check_factor,
    check_reachable,
    usual_clear,
)
from kaywatch_agent.rules.rule import Condition, Inhibition, Rule, Stuck
from kaywatch_agent.rules.state import Timing
from kaywatch_agent.settings.reader import ErrorCollector
from kaywatch_agent.units import MIB

__all__ = ["BUILT_IN", "INHIBITIONS", "MIN_EXECUTIONS", "built_in_rules"]

NODE: Final = ("service", "graph", "node")
GRAPH: Final = ("service", "graph")

# With fewer, a single failure exceeds the threshold of 5 %.
MIN_EXECUTIONS: Final = 20


class _BuiltIn(NamedTuple):
    """A built-in rule, apart from its threshold; durations are in seconds.

    Attributes:
        metric: its metric; empty for a stuck node, whose threshold is a factor.
        op: how the metric is compared with the threshold.
        clear: the value that clears it, relative to the threshold.
        per: one alert for each combination of these labels.
        for_, keep_firing_for, window, min_executions, severity, once_per: as of any
            rule.
    """

    metric: str
    op: str
    clear: float = 1.0
    per: tuple[str, ...] = NODE
    for_: float = 60.0
    keep_firing_for: float = 120.0
    window: float = 300.0
    min_executions: int = MIN_EXECUTIONS
    severity: Severity = "warning"
    once_per: tuple[str, ...] = ()


# By their keys in [alerting.thresholds]: the page's MONITORING_THRESHOLDS, then ours.
_BUILT_IN: Final[Mapping[str, _BuiltIn]] = {
    "success_rate_min": _BuiltIn("success_rate", "<", CLEAR_SHARE),
    "avg_execution_time_max": _BuiltIn("latency_avg", ">", 0.9),
    "error_rate_max": _BuiltIn("error_rate", ">", CLEAR_SHARE),
    "memory_usage_max": _BuiltIn("memory_rss", ">", 0.95, ("service",)),
    # Five executions in half an hour: nodes that the page's thresholds never judge.
    "low_traffic": _BuiltIn(
        "error_rate", ">=", CLEAR_SHARE, window=1800.0, min_executions=5
    ),
    # A death is certain at once, and ends when a successor has been connected for a
    # while: a process that dies again and again is one alert.
    "process_died": _BuiltIn(
        "processes_died", ">", per=("service",), for_=0.0, severity="error"
    ),
    "dead_end": _BuiltIn("dead_ends", ">", for_=0.0, window=1800.0),
    "never_reached": _BuiltIn("unreached_runs", ">=", window=3600.0, severity="info"),
    # A loop may be legitimate while it is new; three times as many visits cost money,
    # and so do twice as many without a new node.
    "unusual_loop": _BuiltIn(
        "visits_over_usual", ">", for_=0.0, severity="info", once_per=GRAPH
    ),
    "runaway": _BuiltIn(
        "runaway_factor", ">=", for_=0.0, severity="error", once_per=GRAPH
    ),
    "silent": _BuiltIn("missing_runs", ">", per=GRAPH, window=3600.0),
    "slow": _BuiltIn("latency_over_usual", ">", CLEAR_SHARE),
    "stuck": _BuiltIn("", ">", for_=0.0, keep_firing_for=0.0),
    "masked_failures": _BuiltIn("masked_rate", ">", CLEAR_SHARE, window=1800.0),
    "wasted_spend": _BuiltIn(
        "llm_wasted_share", ">", CLEAR_SHARE, window=3600.0, severity="info"
    ),
    # It ends once a run costs 1.3 times the usual.
    "cost_per_run": _BuiltIn("cost_over_usual", ">", 0.65, per=GRAPH, window=3600.0),
    "drift": _BuiltIn("action_drift", ">", CLEAR_SHARE, window=1800.0, severity="info"),
    "alerts_refused_max": _BuiltIn("alerts_refused", ">", per=("rule",), for_=0.0),
    "exports_rejected_max": _BuiltIn("export_rejected", ">", per=("server",), for_=0.0),
}

BUILT_IN: Final = tuple(_BUILT_IN)

# A model may take longer than the page's threshold allows; each node learns how long.
MODEL_FACTOR: Final = 2.0

# What a Python process uses at least, and what a host has at most (64 TiB), in MiB.
SMALLEST_MIB: Final = 4
LARGEST_MIB: Final = 64 * 2**20

# A node is never stuck earlier than this, in seconds, however fast it usually is.
STUCK_AT_LEAST: Final = 60.0


def _same_cause(source: str, target: str, equal: tuple[str, ...] = NODE) -> Inhibition:
    return Inhibition(
        (Matcher("alertname", source),),
        (Matcher("alertname", target),),
        equal,
        same_cause=True,
    )


# These rules are about the same errors or the same run: one notification is enough.
INHIBITIONS: Final = (
    _same_cause("success_rate_min", "error_rate_max"),
    _same_cause("success_rate_min", "low_traffic"),
    _same_cause("error_rate_max", "low_traffic"),
    _same_cause("success_rate_min", "masked_failures"),
    _same_cause("low_traffic", "masked_failures"),
    _same_cause("runaway", "unusual_loop", GRAPH),
    _same_cause("avg_execution_time_max", "slow"),
    Inhibition(
        (Matcher("alertname", "process_died"),),
        (Matcher("alertname", "silent"),),
        ("service",),
    ),
)


def built_in_rules(thresholds: ThresholdsConfig, notify: tuple[str, ...]) -> list[Rule]:
    """Return the rules that are not disabled, notifying these receivers.

    Raises:
        ConfigError: all thresholds that are always or never exceeded.
    """
    problems, rules = ErrorCollector(), []
    for name, built_in in _BUILT_IN.items():
        value = getattr(thresholds, name)
        if value is not False:
            with problems.collect():
                rules.append(_rule(name, built_in, value, notify))
    problems.raise_all()
    return rules


# -- inside --------------------------------------------------------------------------


def _rule(name: str, of: _BuiltIn, value: float, notify: tuple[str, ...]) -> Rule:
    return Rule(
        name=name,
        kind="threshold" if of.metric else "stuck",
        condition=_condition(name, of, value),
        timing=Timing(of.for_, of.keep_firing_for, 2 * of.window),
        window=of.window,
        min_executions=of.min_executions,
        match=(),
        per=of.per,
        cooldown=300.0,
        repeat_interval=4 * 3600.0,
        severity=of.severity,
        notify=notify,
        built_in=True,
        once_per=of.once_per,
    )


def _condition(name: str, of: _BuiltIn, value: float) -> Condition:
    if not of.metric:
        check_factor(f"alerting.thresholds.{name}", value)
        return Stuck(factor=value, max_age=None, at_least=STUCK_AT_LEAST)
    key = f"alerting.thresholds.{name}"
    check_reachable(key, Compare(of.metric, of.op, value))
    if of.metric == "latency_avg" and value == 0:
        text = "0: every execution takes longer; write false to disable the rule"
        raise ConfigError(key, text)
    if of.metric == "memory_rss":
        _check_mib(key, value)
        value *= MIB
    condition = compare(of.metric, of.op, value, usual_clear(of.op, value, of.clear))
    if of.metric == "latency_avg":
        return dataclasses.replace(condition, model_factor=MODEL_FACTOR)
    return condition


def _check_mib(key: str, value: float) -> None:
    """Raise ConfigError for a limit of memory that was meant in another unit."""
    if value == 0:
        text = "0: every process uses more; write false to disable the rule"
        raise ConfigError(key, text)
    if value < SMALLEST_MIB:
        text = f"{value:g}: in MiB, every process uses more; write"
        raise ConfigError(key, f"{text} {value * 1024:g} for {value:g} GiB")
    if value > LARGEST_MIB:
        text = f"{value:g}: in MiB, no process uses as much; write"
        raise ConfigError(key, f"{text} {value / MIB:g} for {value:g} bytes")

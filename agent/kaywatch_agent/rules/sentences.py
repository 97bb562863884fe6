"""One sentence on the value of a threshold rule, as a person on call reads it.

Strategy: two templates by metric, one for a problem and one for its end. A metric
without templates, such as a rate or the application's own, is compared in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from kaywatch_agent.rules import metrics
from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.expression import leading
from kaywatch_agent.rules.rule import Rule, Threshold
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.units import duration, quantity

__all__ = ["next_step", "states_value", "threshold_sentence"]


class _Sentences(NamedTuple):
    """The sentences on a metric; `{note}` and `{detail}` are the note of a breach.

    `{value}` is the value with its unit, and `{count}` the value as a number.

    Attributes:
        problem: while the value is, or was lately, on the bad side.
        end: after it has resolved.
        next_step: what to look at; empty for the links alone.
    """

    problem: str
    end: str
    next_step: str = ""


def _slow(what: str, noun: str) -> _Sentences:
    counted = f"({{executions}} {noun} in {{window}}"
    return _Sentences(
        f"{what} {{value}}{{beyond}} {counted}, the slowest {{note}})",
        f"{what} {{value}}{{beyond}} {counted})",
        "compare the node's calls and attempts in the slowest runs",
    )


def _latencies(prefix: str, noun: str) -> dict[str, _Sentences]:
    averages = {
        f"{prefix}avg": _slow(f"{noun} take on average", noun),
        f"{prefix}max": _slow(f"the longest of the {noun} takes", noun),
    }
    percentiles = {
        f"{prefix}p{percent}": _slow(f"the p{percent} of {noun} is", noun)
        for percent in (50, 90, 95, 99)
    }
    return {**averages, **percentiles}


_LOOP: Final = _Sentences(
    "{note}",
    "no run visits it more often than usual",
    "look at the actions of the run; end it if it makes no progress",
)
_FAILURES: Final = "look at the error and at what changed shortly before it began"

_SENTENCES: Final[Mapping[str, _Sentences]] = {
    **_latencies("latency_", "executions"),
    **_latencies("run_latency_", "runs"),
    "latency_over_usual": _Sentences(
        "executions take {note} ({executions} in {window})",
        "executions take as long as usual ({executions} in {window})",
        "compare the node's calls and attempts with those of an hour before",
    ),
    "dead_ends": _Sentences(
        "{note}{beyond}",
        "no run has ended early in {window}",
        "add an edge for the action, or return an action that has one",
    ),
    "unreached_runs": _Sentences(
        "never executed, although its graph has run {count} times",
        "a run has executed it",
        "check the edges and actions that lead to it, or remove the node",
    ),
    "masked_rate": _Sentences(
        "hidden failures in {value} of attempts in {window}{beyond}; a retry, a"
        " fallback or on_error hid them",
        "{value} of attempts in {window} failed and were hidden{beyond}",
        "fix the hidden error before the retries are no longer enough",
    ),
    "llm_wasted_share": _Sentences(
        "{note} in {window}: {value}{beyond}",
        "{value} of the cost of models was spent on failed attempts in {window}",
        "fix the error of the attempts, or retry less often",
    ),
    "memory_rss": _Sentences(
        "the largest process uses {value} of memory{beyond}{detail}",
        "the largest process uses {value} of memory{beyond}",
        "look for what grows with each run; restart the process before the kernel"
        " kills it",
    ),
    "cpu_percent": _Sentences(
        "the busiest process uses {value} of a core{beyond}{detail}",
        "the busiest process uses {value} of a core{beyond}",
    ),
    "processes_died": _Sentences(
        "{note}",
        "a process of the service runs again",
        "read the process's log, and the kernel's log in case memory ran out",
    ),
    "alerts_refused": _Sentences(
        "{value} alerts were refused: the rule has reached max_alerts_per_rule",
        "no alert is refused any more",
        "group the rule by fewer labels, or raise alerting.max_alerts_per_rule",
    ),
    "export_rejected": _Sentences(
        "the server rejected {value} series of the last snapshot{detail}",
        "the server accepts all series",
        "look up the reason in docs/prometheus.md, and run `kaywatch doctor exports`",
    ),
    "visits_over_usual": _LOOP,
    "runaway_factor": _LOOP,
    "action_drift": _Sentences(
        "{note}",
        "it takes its actions as often as before",
        "compare its recent inputs with earlier ones; look for a changed prompt, model"
        " or deployment",
    ),
    "cost_over_usual": _Sentences(
        "{note}",
        "a run costs as much as a week ago",
        "compare calls, tokens and models of a recent run with those of an earlier one",
    ),
    "missing_runs": _Sentences(
        "{note}",
        "it runs again",
        "check what starts its runs: a schedule, a queue, or its callers",
    ),
    "run_visits_max": _Sentences(
        "one run has visited nodes {value} times{beyond}{detail}",
        "no run has visited nodes more than {value} times in {window}",
        "look at the actions of the run; end it if it makes no progress",
    ),
    "node_visits_max": _Sentences(
        "one run has visited it {value} times{beyond}{detail}",
        "no run has visited it more than {value} times in {window}",
        "look at the actions of the run; end it if it makes no progress",
    ),
}

_NEXT_STEPS: Final = dict.fromkeys(
    ("success_rate", "error_rate", "run_success_rate", "run_error_rate"), _FAILURES
)


def threshold_sentence(alert: Alert, rule: Rule, condition: Threshold) -> str:
    """Return the state of a threshold's alert in one sentence, without its location."""
    templates = _SENTENCES.get(condition.metric)
    if templates is None or alert.value is None:
        return _comparison(alert, rule, condition)
    is_over = alert.lifecycle.state is AlertState.OK
    template = templates.end if is_over else templates.problem
    if "{note}" in template and not alert.note:
        return _comparison(alert, rule, condition)
    unit = metrics.find(condition.metric).unit
    return template.format(
        value=quantity(alert.value, unit),
        count=quantity(alert.value, ""),
        beyond=_beyond(alert, condition, unit),
        executions=f"{alert.executions:,}",
        window=duration(rule.window),
        note=alert.note,
        detail=f": {alert.note}" if alert.note else "",
    )


def next_step(condition: Threshold) -> str:
    """Return the next step when a threshold's alert fires; empty for none."""
    templates = _SENTENCES.get(condition.metric)
    return templates.next_step if templates else _NEXT_STEPS.get(condition.metric, "")


def states_value(condition: Threshold) -> bool:
    """Return whether the sentence on a threshold contains the value as a figure."""
    templates = _SENTENCES.get(condition.metric)
    if templates is None:
        return True
    return "{value}" in templates.problem or "{count}" in templates.problem


# -- inside --------------------------------------------------------------------------


def _comparison(alert: Alert, rule: Rule, condition: Threshold) -> str:
    """Return such as `error rate 7.0 %, above 5.0 % (7 of 100 failed in 5m)`."""
    metric = metrics.find(condition.metric)
    name = condition.metric.removeprefix("custom.").replace("_", " ")
    text = f"{name} {quantity(alert.value, metric.unit)}"
    if alert.threshold is not None:
        side = _side(condition, alert.value, alert.threshold)
        text += f", {side} {quantity(alert.threshold, metric.unit)}"
    if alert.executions and metric.of_finished:
        failed = f"{alert.errors:,} of {alert.executions:,} failed"
        text += f" ({failed} in {duration(rule.window)})"
    return text


def _beyond(alert: Alert, condition: Threshold, unit: str) -> str:
    """Return such as `, above 5s`; nothing for a limit of zero."""
    if not alert.threshold:
        return ""
    side = _side(condition, alert.value, alert.threshold)
    return f", {side} {quantity(alert.threshold, unit)}"


def _side(condition: Threshold, value: float | None, threshold: float) -> str:
    """Return `above` or `below` if the value is on the bad side, else `limit`."""
    op = leading(condition.breach).op
    if value is None:
        return "limit"
    if value == threshold:
        # 50 % are not above 50 %.
        return "at the limit of" if op.endswith("=") else "limit"
    if op.startswith("<"):
        return "below" if value < threshold else "limit"
    return "above" if value > threshold else "limit"

"""Converts rules to a file of Prometheus alert rules.

Strategy: `promql` converts metrics and comparisons; here each kind of rule becomes one
expression. The level at which an alert clears is expressed with `ALERTS`, the series in
which Prometheus records its alerts: while an alert fires, values that are not clear
keep it firing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from kaywatch_agent.rules.describe import condition_text, fields_of, unit_of
from kaywatch_agent.rules.explain import rule_sentence
from kaywatch_agent.rules.expression import AllOf, Compare, Not
from kaywatch_agent.rules.promql import (
    HISTORY,
    IN_PROGRESS,
    Histograms,
    InexpressibleError,
    Scope,
    compare,
    promql_duration,
    promql_number,
    slow_executions,
    with_minimum,
)
from kaywatch_agent.rules.rule import (
    Absence,
    AlertSettings,
    BurnRate,
    Rule,
    Stuck,
    Threshold,
    Transition,
)
from kaywatch_agent.units import duration, quantity

__all__ = ["RuleFile", "convert", "why_inexpressible"]


@dataclass(frozen=True)
class RuleFile:
    """The result of a conversion.

    Attributes:
        text: the file, in YAML.
        exported: the names of its rules.
        notes: what its rules leave out, by rule.
        omitted: the reasons of rules without an equivalent, by rule.
    """

    text: str
    exported: tuple[str, ...]
    notes: Mapping[str, str]
    omitted: Mapping[str, str]


def convert(
    settings: AlertSettings,
    rules: Iterable[Rule],
    *,
    histograms: Histograms = "native",
    keep_firing_for: bool = True,
) -> RuleFile:
    """Convert rules.

    Args:
        settings: the settings of all alerts.
        rules: the rules to convert.
        histograms: which histograms the server stores.
        keep_firing_for: whether the server knows this key, as Prometheus does since
            2.42.
    """
    entries: dict[str, list[str]] = {}
    notes: dict[str, str] = {}
    omitted: dict[str, str] = {}
    for rule in rules:
        try:
            alert = _alert(rule, settings, histograms)
        except InexpressibleError as error:
            omitted[rule.name] = str(error)
            continue
        if alert.note:
            notes[rule.name] = alert.note
        entries[rule.name] = alert.lines(keep_firing_for=keep_firing_for)
    text = "\n".join([*_head(notes, omitted), *_group(entries)]) + "\n"
    return RuleFile(text, tuple(entries), notes, omitted)


def why_inexpressible(rule: Rule) -> str:
    """Return why Prometheus has no equivalent of a rule; empty if it has one."""
    try:
        _alert(rule, AlertSettings(rules={}), "native")
    except InexpressibleError as error:
        return str(error)
    return ""


# -- inside --------------------------------------------------------------------------

_HEAD: Final = "Written by `kaywatch rules export --format prometheus`."

_VALUES: Final = {
    "ratio": "{{ $value | humanizePercentage }}",
    "seconds": "{{ $value | humanizeDuration }}",
}
_NUMBER: Final = "{{ $value | humanize }}"


@dataclass
class _Alert:
    """An alert rule of Prometheus.

    Attributes:
        rule: the rule that it is converted from.
        expression: of several lines.
        labels: in addition to those of the expression.
        summary: a template.
        note: what it leaves out; empty for nothing.
    """

    rule: Rule
    expression: str
    labels: dict[str, str]
    summary: str
    note: str = ""

    def lines(self, *, keep_firing_for: bool) -> list[str]:
        timing = self.rule.timing
        lines = [f"- alert: {_quote(self.rule.name)}", "  expr: |-"]
        lines += [f"    {line}" for line in self.expression.splitlines()]
        if timing.for_:
            lines.append(f"  for: {promql_duration(timing.for_)}")
        if timing.keep_firing_for and keep_firing_for:
            kept = promql_duration(timing.keep_firing_for)
            lines.append(f"  keep_firing_for: {kept}")
        return [*lines, *_table("labels", self.labels), *self._annotations()]

    def _annotations(self) -> list[str]:
        values = {
            "summary": self.summary,
            "description": _escape(rule_sentence(self.rule)),
            "runbook_url": _escape(self.rule.runbook_url),
        }
        return _table("annotations", {k: v for k, v in values.items() if v})


def _alert(rule: Rule, settings: AlertSettings, histograms: Histograms) -> _Alert:
    if rule.timing.on_no_data == "alert":
        raise InexpressibleError(
            'on_no_data = "alert": Prometheus resolves alerts without data; add a rule'
            " of the kind absence"
        )
    scope = Scope(rule.per, rule.match, rule.window, histograms)
    expression, note = _expression(rule, scope)
    shared = {k: v for k, v in settings.labels.items() if k not in rule.per}
    labels = {**shared, **rule.labels, "severity": rule.severity}
    if isinstance(rule.condition, Transition):
        labels["action"] = rule.condition.action
    summary = _summary(rule, settings)
    if summary is None:
        unknown = "its summary uses a number that Prometheus does not have"
        note = f"{note}; {unknown}" if note else unknown
        summary = _default_summary(rule)
    escaped = {name: _escape(value) for name, value in labels.items()}
    return _Alert(rule, expression, escaped, summary, note)


def _expression(rule: Rule, scope: Scope) -> tuple[str, str]:
    """Return the expression of a rule, and what it leaves out."""
    match rule.condition:
        case Threshold() as condition:
            return _threshold(rule, condition, scope)
        case Absence() as condition:
            return _absence(condition, scope), ""
        case BurnRate() as condition:
            return _burn_rate(condition, scope), ""
        case Transition(change="share") as condition:
            return _share(rule, condition, scope), ""
        case Transition():
            raise InexpressibleError(HISTORY)
        case Stuck():
            raise InexpressibleError(IN_PROGRESS)


def _threshold(rule: Rule, condition: Threshold, scope: Scope) -> tuple[str, str]:
    text, note = compare(condition.breach, scope), ""
    if not isinstance(condition.clear, Not) or condition.clear.part != condition.breach:
        band = compare(condition.clear, scope, negated=True)
        text = f"(\n  {text}\n  or\n  {band} and {_is_firing(rule)}\n)"
    least = rule.min_executions if condition.needs_executions else 0
    if least:
        text = f"{text}\nand {with_minimum(sorted(condition.metrics), least, scope)}"
    if condition.model_factor:
        # Such a node has a limit of its own, which is learned.
        calls = scope.sum("kaygraph_llm_calls_total")
        text = f"{text}\nunless {calls} > 0"
        note = f"nodes that call models are left out: {HISTORY}"
    return text, note


def _is_firing(rule: Rule) -> str:
    name = _quote(rule.name)
    on = ", ".join(rule.per)
    return f'on ({on}) ALERTS{{alertname={name},alertstate="firing"}}'


def _absence(condition: Absence, scope: Scope) -> str:
    age = promql_number(condition.max_age)
    oldest = promql_number(condition.forget_after)
    family = "kaygraph_node_last_execution_timestamp_seconds"
    by = f" by ({', '.join(scope.per)}) " if scope.per else ""
    parts = [f"time() - max{by}({scope.select(family)}) > {age} <= {oldest}"]
    for labels in condition.expect:
        inner = ",".join(f"{k}={_quote(v)}" for k, v in labels.items())
        series = f"{family}{{{inner}}}"
        # An expected series is absent if it does not exist, or if its last execution is
        # older than `forget_after`: the first expression leaves out such series, so
        # that those nobody expects are forgotten.
        parts.append(f"absent({series})")
        parts.append(f"time() - max{by}({series}) > {oldest}")
    return "\nor ".join(parts)


def _burn_rate(condition: BurnRate, scope: Scope) -> str:
    allowed = round(1.0 - condition.objective, 12)
    parts = []
    for window in (condition.long, condition.short):
        of = Scope(scope.per, scope.match, window, scope.histograms)
        bad, total = _bad_and_total(condition, of)
        factor = promql_number(condition.factor)
        parts.append(f"{bad} / {total} / {allowed!r} > {factor}")
        if window == condition.long:
            enough = f"{total} >= {condition.min_events}"
        else:
            parts.append(f"{bad} >= {condition.min_bad}")
    return "\nand ".join([*parts, enough])


def _bad_and_total(condition: BurnRate, scope: Scope) -> tuple[str, str]:
    if condition.latency_le is not None:
        total = scope.sum("kaygraph_node_executions_total")
        return slow_executions(scope, condition.latency_le), total
    family = "kaygraph_node_outcomes_total"
    return scope.sum(family, 'outcome="error"'), scope.sum(
        family, 'outcome!="cancelled"'
    )


def _share(rule: Rule, condition: Transition, scope: Scope) -> str:
    total = scope.sum("kaygraph_node_executions_total")
    action = f"action={_quote(condition.action)}"
    taken = scope.sum("kaygraph_transitions_total", action)
    # A node that never took the action has no sample of it.
    share = f"({taken} or {total} * 0) / {total}"
    ends = ((">", condition.above), ("<", condition.below))
    parts = [f"{share} {op} {end}" for op, end in ends if end is not None]
    text = "\nor ".join(parts)
    if len(parts) > 1:
        text = f"({text})"
    return f"{text}\nand {total} >= {rule.min_executions}"


# -- texts ---------------------------------------------------------------------------


def _summary(rule: Rule, settings: AlertSettings) -> str | None:
    """Return a rule's summary as a template; None if it cannot be one."""
    if not rule.summary:
        return _default_summary(rule)
    parts = []
    for text, name, spec, _ in fields_of(rule.summary):
        parts.append(_escape(text))
        if name is None:
            continue
        part = _field(rule, settings, name, spec or "")
        if part is None:
            return None
        parts.append(part)
    return "".join(parts)


def _field(rule: Rule, settings: AlertSettings, name: str, spec: str) -> str | None:
    """Return a field of a summary as a template; None for an unknown number."""
    condition = rule.condition
    known = {
        "rule": rule.name,
        "metric": getattr(condition, "metric", rule.kind),
        "window": quantity(rule.window, "seconds"),
        **settings.labels,
        **rule.labels,
    }
    if name in rule.per:
        return f"{{{{ $labels.{name} }}}}"
    if name in known:
        return _escape(format(known[name], spec))
    if name == "value" and _shows_value(rule):
        return _value(rule, spec)
    limits = {
        "threshold": getattr(condition, "threshold", None),
        "clear": getattr(condition, "clear_at", None),
    }
    limit = limits.get(name)
    return None if limit is None else format(limit, spec)


def _value(rule: Rule, spec: str) -> str:
    if spec.endswith("%"):
        return _VALUES["ratio"]
    if re.fullmatch(r"(\.\d+)?[efg]", spec):
        return f'{{{{ printf "%{spec}" $value }}}}'
    return _VALUES.get(unit_of(rule), _NUMBER)


def _default_summary(rule: Rule) -> str:
    where = " / ".join(f"{{{{ $labels.{name} }}}}" for name in rule.per) or rule.name
    text = f"{where}: {_escape(condition_text(rule))}"
    window = "" if isinstance(rule.condition, Absence) else duration(rule.window)
    text += f" over {window}" if window else ""
    return f"{text}, now {_value(rule, '')}" if _shows_value(rule) else text


def _shows_value(rule: Rule) -> bool:
    """Return whether the value of the expression is that of the rule's metric."""
    match rule.condition:
        case Threshold(breach=Compare(metric=metric), clear=clear):
            return clear.metrics() == {metric}
        case Threshold(breach=AllOf(parts), clear=Not()):
            return all(isinstance(part, Compare) for part in parts)
        case Threshold() | Absence(expect=(_, *_)):
            return False
    return True


def _escape(text: str) -> str:
    """Return a text that Prometheus's templates leave as it is."""
    return text.replace("{{", '{{ "{{" }}')


# -- YAML ----------------------------------------------------------------------------


def _quote(text: str) -> str:
    """Return a string as YAML and PromQL write it between quotes."""
    return json.dumps(text, ensure_ascii=False)


def _table(name: str, values: Mapping[str, str]) -> list[str]:
    return [f"  {name}:", *(f"    {k}: {_quote(v)}" for k, v in values.items())]


def _head(notes: Mapping[str, str], omitted: Mapping[str, str]) -> list[str]:
    lines = [_HEAD, *(f"{name}: {text}." for name, text in notes.items())]
    if omitted:
        lines += ["", "Prometheus cannot express these rules:"]
        lines += [f"  {name}: {text}." for name, text in omitted.items()]
    return [f"# {line}".rstrip() for line in lines]


def _group(entries: Mapping[str, list[str]]) -> list[str]:
    lines = ["groups:", "  - name: kaywatch-rules"]
    if not entries:
        return [*lines, "    rules: []"]
    lines.append("    rules:")
    for entry in entries.values():
        lines += [*(f"      {line}".rstrip() for line in entry), ""]
    return lines[:-1]

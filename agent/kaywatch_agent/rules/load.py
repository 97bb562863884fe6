"""Rules from their tables in the configuration, each checked as far as that goes.

The keys are those of docs/alerts.md. The thresholds of KayGraph's page on monitoring
are rules that are there without configuration, and so is one on the alerts themselves.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, get_args

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.model.alerts import SEVERITIES, Severity
from kaywatch_agent.rules import metrics
from kaywatch_agent.rules.expression import (
    Compare,
    Not,
    Predicate,
    leading,
    parse,
)
from kaywatch_agent.rules.keys import ALERTING, COMMON, KIND_KEYS, defaults
from kaywatch_agent.rules.matchers import Matcher
from kaywatch_agent.rules.matchers import parse as matcher
from kaywatch_agent.rules.metrics import METRICS, MetricSource
from kaywatch_agent.rules.rule import (
    Absence,
    AlertSettings,
    BurnRate,
    Change,
    Grouping,
    Inhibition,
    Rule,
    Stuck,
    Test,
    Threshold,
    Transition,
)
from kaywatch_agent.rules.silence import Silence, validated
from kaywatch_agent.rules.state import Timing
from kaywatch_agent.rules.summary import check
from kaywatch_agent.settings.reader import Problems, Table
from kaywatch_agent.units import MIB, duration, parse_duration

__all__ = ["KINDS", "PAGE", "TABLES", "load"]

# The tables of the file that are ours.
TABLES: Final[tuple[str, ...]] = ("alerting", "defaults", "rule", "inhibit", "silence")

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_LABEL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# The page's MONITORING_THRESHOLDS, and ours: (key, metric, operator, value, clear, per,
# for how many seconds).
_PAGE: Final = (
    ("success_rate_min", "success_rate", "<", 0.95, 1.01, ("graph", "node"), 60.0),
    ("avg_execution_time_max", "latency_avg", ">", 5.0, 0.9, ("graph", "node"), 60.0),
    ("error_rate_max", "error_rate", ">", 0.05, 0.8, ("graph", "node"), 60.0),
    ("memory_usage_max", "memory_rss", ">", 1024.0, 0.95, ("service", "pid"), 60.0),
    ("kaywatch-alerts-refused", "alerts_refused", ">", 0.0, 1.0, ("rule",), 0.0),
)

PAGE: Final = tuple(key for key, *_ in _PAGE)

_COMMON: Final = [key.name for key in COMMON]
_DEFAULTS: Final = defaults(COMMON)

_TIERS: Final = (
    {"factor": 14.4, "long": "1h", "short": "5m", "severity": "critical"},
    {"factor": 6.0, "long": "6h", "short": "30m", "severity": "critical"},
    {"factor": 1.0, "long": "3d", "short": "6h", "severity": "warning"},
)


def load(
    values: Mapping[str, Any],
    *,
    receivers: Collection[str] = (),
    retention: float = 30 * 86_400.0,
) -> AlertSettings:
    """Return what the tables of a configuration say about alerts.

    Args:
        values: the whole file, or the part of it that TABLES names.
        receivers: the names that `notify` may have.
        retention: for how many seconds the past is kept.

    Raises:
        ConfigError: naming the key, what it holds and what is allowed.
    """
    return _Loader(values, receivers, retention).settings()


class _Loader:
    def __init__(
        self, values: Mapping[str, Any], receivers: Collection[str], retention: float
    ) -> None:
        self._values = values
        self._receivers = receivers
        self._retention = retention
        self._warnings: list[str] = []
        self._rules: dict[str, Rule] = {}
        self._defaults: Mapping[str, Any] = values.get("defaults", {})
        self._notify: tuple[str, ...] = ()
        self._grace = AlertSettings.startup_grace

    def settings(self) -> AlertSettings:
        problems = Problems()
        alerting = Table({}, "alerting", defaults(ALERTING))
        with problems.caught():
            alerting = Table(
                self._values.get("alerting", {}), "alerting", defaults(ALERTING)
            )
        with problems.caught():
            self._defaults = self._values.get("defaults", {})
            Table(self._defaults, "defaults", known=_COMMON[3:]).done()
        with problems.caught():
            self._grace = alerting.duration("startup_grace")
            self._notify = tuple(self._receivers)
            self._notify = self._named(alerting, "default_notify", self._notify)
        for number, table in enumerate(self._tables("rule", problems)):
            with problems.caught():
                self._add(table, number)
        inhibitions, silences = [], []
        for table in self._tables("inhibit", problems):
            with problems.caught():
                inhibitions.append(_inhibition(table))
        for number, table in enumerate(self._tables("silence", problems), 1):
            with problems.caught():
                silences.append(_silence(table, number))
        with problems.caught():
            self._page(alerting)
        with problems.caught():
            settings = self._alerting(alerting)
        problems.check()
        return dataclasses.replace(
            settings,
            rules=self._rules,
            inhibitions=(*_BUILT_IN, *inhibitions),
            silences=tuple(silences),
            warnings=tuple(self._warnings),
        )

    def _alerting(self, table: Table) -> AlertSettings:
        settings = AlertSettings(
            {},
            interval=table.duration("evaluation_interval"),
            startup_grace=table.duration("startup_grace"),
            labels=_labels(table, "labels"),
            namespace=table.text("namespace"),
            external_url=table.text("external_url").rstrip("/"),
            max_instances=table.whole("max_instances_per_rule", least=1),
            grouping=Grouping(
                table.texts("group_by"),
                table.duration("group_wait"),
                table.duration("group_interval"),
            ),
        )
        if not 1.0 <= settings.interval <= 300.0:
            raise table.error("evaluation_interval", 'from "1s" to "5m"')
        table.done()
        return settings

    def _add(self, table: Table, number: int) -> None:
        for rule in self._rule(table, number):
            if rule.name in self._rules:
                raise table.error("name", f'"{rule.name}" is there twice')
            self._rules[rule.name] = rule

    def _tables(self, name: str, problems: Problems) -> list[Table]:
        """Return those tables of a list that are some."""
        found = self._values.get(name, [])
        if not isinstance(found, list):
            problems.add(name, f"write [[{name}]], with two brackets")
            return []
        tables = []
        for number, part in enumerate(found):
            with problems.caught():
                tables.append(Table(part, f"{name}[{number}]"))
        return tables

    # -- one rule ----------------------------------------------------------------------

    def _rule(self, table: Table, number: int) -> list[Rule]:
        name = table.text("name")
        kind = table.choice("kind", KINDS, _DEFAULTS["kind"])
        if not name:
            raise table.error("name", "missing: a rule is known by its name")
        if not _NAME.fullmatch(name):
            raise table.error(
                "name", f'"{name}": letters, digits, _ . - and at most 100'
            )
        table.problems.check()
        table = Table(
            self._values["rule"][number],
            table.path,
            {**_DEFAULTS, **_KIND_DEFAULTS.get(kind, {}), **self._defaults},
            _COMMON,
        )
        if not table.flag("enabled"):
            return []
        rules = [
            self._common(table, name + suffix, kind, test, window, severity, notify)
            for suffix, test, window, severity, notify in KINDS[kind](self, table)
        ]
        table.done()
        return rules

    def _common(
        self,
        table: Table,
        name: str,
        kind: str,
        test: Test,
        window: float,
        severity: Severity | None,
        notify: tuple[str, ...] | None,
    ) -> Rule:
        if window > self._retention:
            kept = duration(self._retention)
            raise table.error("window", f"{duration(window)}: only {kept} are kept")
        timing = Timing(
            table.duration("for"),
            table.duration("keep_firing_for"),
            table.duration("no_data_after", duration(max(2 * window, 600.0))),
            table.choice("on_no_data", ("keep", "ok", "alert"), "keep"),
        )
        return Rule(
            name=name,
            kind=kind,
            test=test,
            timing=timing,
            window=window,
            min_executions=table.whole("min_executions", _LEAST.get(kind, 20)),
            match=table.parsed("match", matcher),
            per=self._per(table, test),
            cooldown=table.duration("cooldown"),
            repeat_interval=table.duration("repeat_interval"),
            severity=severity or _severity(table, _DEFAULTS["severity"]),
            labels=_labels(table, "labels"),
            notify=self._named(table, "notify", self._notify)
            if notify is None
            else notify,
            summary=table.checked("summary", _template, table.text("summary")),
            runbook_url=table.text("runbook_url"),
        )

    def _per(self, table: Table, test: Test) -> tuple[str, ...]:
        allowed, own = _labels_of(test)
        default = [label for label in ("graph", "node") if label in allowed]
        found = table.texts("per", default or allowed[:1])
        for label in found:
            if label not in allowed and not own:
                names = ", ".join(allowed)
                raise table.error("per", f'"{label}": the labels here are {names}')
        if len(set(found)) < len(found):
            raise table.error("per", "a label is there twice")
        return found

    def _named(
        self, table: Table, key: str, default: tuple[str, ...]
    ) -> tuple[str, ...]:
        found = table.texts(key, default)
        for name in found:
            if name not in self._receivers:
                names = ", ".join(sorted(self._receivers)) or "none yet"
                raise table.error(
                    key,
                    f'"{name}" is no receiver; add [receiver.{name}] (there: {names})',
                )
        return found

    def _window(self, table: Table) -> float:
        window = table.duration("window")
        if window < 10:
            raise table.error("window", f'{window:g} s: at least "10s"')
        return window

    # -- kinds: (suffix of the name, test, window, severity, notify) -------------------

    def threshold(self, table: Table) -> list[_Part]:
        window = self._window(table)
        test = (
            _expression(table)
            if "when" in table
            else _compared(
                table,
                self._metric(table),
                table.text("op"),
                table.number("value") if "value" in table else None,
            )
        )
        least = table.whole("min_executions", _LEAST["threshold"])
        for metric in sorted(test.breach.metrics()):
            quantile = re.search(r"p(\d\d)$", metric)
            if quantile and least < 100 / (100 - int(quantile[1])):
                need = round(100 / (100 - int(quantile[1])))
                self._warnings.append(
                    f"{table.path}.min_executions: {metric} says little of fewer than"
                    f" {need} executions, and this is {least}"
                )
        return [("", test, window, None, None)]

    def _metric(self, table: Table) -> str:
        name = table.text("metric")
        if not name:
            raise table.error("metric", 'missing; or write when = "error_rate > 0.05"')
        table.checked("metric", metrics.find, name)
        return name

    def absence(self, table: Table) -> list[_Part]:
        max_age = table.duration("max_age")
        if max_age <= 0:
            raise table.error("max_age", 'missing: how long is too long, such as "15m"')
        expect = []
        for n, labels in enumerate(table.either("expect", [])):
            if not isinstance(labels, dict) or not labels:
                raise table.error(
                    f"expect[{n}]", 'expected labels such as { graph = "nightly" }'
                )
            expect.append({str(key): str(value) for key, value in labels.items()})
        forget = table.duration("forget_after")
        if forget <= max_age:
            raise table.error("forget_after", "has to be longer than max_age")
        test = Absence(max_age, tuple(expect), forget, self._grace)
        return [("", test, max_age, None, None)]

    def burn_rate(self, table: Table) -> list[_Part]:
        objective = table.number("objective")
        if not 0.0 < objective < 1.0:
            raise table.error(
                "objective", f"{objective:g}: between 0 and 1, such as 0.99"
            )
        slo_window = table.duration("slo_window")
        sli = table.either("sli", None)
        latency = None
        if sli != "success":
            if not isinstance(sli, dict) or set(sli) != {"latency_le"}:
                raise table.error("sli", 'write "success" or { latency_le = "2s" }')
            latency = table.checked("sli", parse_duration, str(sli["latency_le"]))
        tiers = (
            table.tables("tiers")
            if "tiers" in table
            else [
                Table(tier, f"{table.path}.tiers[{n}]") for n, tier in enumerate(_TIERS)
            ]
        )
        least = table.whole("min_events", least=1)
        return [
            self._tier(tier, objective, slo_window, latency, least) for tier in tiers
        ]

    def _tier(
        self,
        tier: Table,
        objective: float,
        slo_window: float,
        latency: float | None,
        least: int,
    ) -> _Part:
        factor = tier.number("factor")
        long, short = tier.duration("long"), tier.duration("short")
        reachable = 1.0 / (1.0 - objective)
        if factor * (1.0 - objective) >= 1.0:
            raise tier.error(
                "factor",
                f"{factor:g} can never be reached: if everything fails, an objective"
                f" of {objective:g} burns {reachable:.3g} times too fast;"
                f" choose less than that",
            )
        if not 0 < short < long <= slo_window:
            raise tier.error("long", "expected short < long <= slo_window")
        if long > self._retention:
            kept = duration(self._retention)
            raise tier.error("long", f"{duration(long)}: only {kept} are kept")
        test = BurnRate(objective, slo_window, latency, factor, long, short, least)
        severity = _severity(tier, "critical")
        notify = self._named(tier, "notify", self._notify) if "notify" in tier else None
        tier.done()
        suffix = "-" + duration(long).replace(" ", "")
        return suffix, test, long, severity, notify

    def transition_share(self, table: Table) -> list[_Part]:
        window = self._window(table)
        change: Change = table.choice("change", get_args(Change), "share")
        above = table.number("above") if "above" in table else None
        below = table.number("below") if "below" in table else None
        action = table.text("action")
        if change == "share" and (not action or (above is None and below is None)):
            raise table.error(
                "action",
                'missing: write action = "retry" with above = 0.3 or below = 0.1',
            )
        test = Transition(change, action, above, below)
        return [("", test, window, None, None)]

    def stuck(self, table: Table) -> list[_Part]:
        max_age = table.duration("max_age") if "max_age" in table else None
        factor = table.number("factor")
        if factor <= 1:
            raise table.error("factor", f"{factor:g}: more than 1 times the p99")
        test = Stuck(factor, max_age, table.duration("at_least"))
        return [("", test, 3600.0, None, None)]

    def process_died(self, table: Table) -> list[_Part]:
        test = _simple("processes_died", ">", 0.0, 0.0)
        return [("", test, self._window(table), None, None)]

    def runaway(self, table: Table) -> list[_Part]:
        given = [key for key in _VISITS if key in table]
        if not given:
            raise table.error(
                "max_visits",
                "missing: how many nodes a run may visit, such as 100; or"
                " max_node_visits: how often one of them",
            )
        if len(given) > 1:
            raise table.error(
                "max_node_visits", "either this or max_visits: write a rule for each"
            )
        (key,) = given
        test = _simple(_VISITS[key], ">", float(table.whole(key, 0, 1)), None)
        return [("", test, self._window(table), None, None)]

    # -- without configuration ---------------------------------------------------------

    def _page(self, alerting: Table) -> None:
        thresholds = Table(
            alerting.either("thresholds", {}) or {}, "alerting.thresholds"
        )
        for key, metric, op, usual, margin, per, hold in _PAGE:
            if key in thresholds and thresholds.either(key, 0) is False:
                continue
            value = thresholds.number(key, usual)
            scale = MIB if metric == "memory_rss" else 1.0
            clear = value * margin * scale
            if op == "<":
                clear = min(1.0, clear)
            if key not in self._rules:
                self._rules[key] = Rule(
                    name=key,
                    kind="threshold",
                    test=_simple(metric, op, value * scale, clear),
                    timing=Timing(hold, 120.0, 600.0),
                    window=300.0,
                    min_executions=20,
                    match=(),
                    per=per,
                    cooldown=300.0,
                    repeat_interval=4 * 3600.0,
                    severity="warning",
                    notify=self._notify,
                    built_in=True,
                )
        thresholds.done()


_Part = tuple[str, Test, float, Severity | None, tuple[str, ...] | None]

KINDS: Final[Mapping[str, Callable[[_Loader, Table], list[_Part]]]] = {
    "threshold": _Loader.threshold,
    "absence": _Loader.absence,
    "burn_rate": _Loader.burn_rate,
    "transition_share": _Loader.transition_share,
    "stuck": _Loader.stuck,
    "process_died": _Loader.process_died,
    "runaway": _Loader.runaway,
}

# What a runaway's keys bound.
_VISITS: Final = {"max_visits": "run_visits_max", "max_node_visits": "node_visits_max"}

_KIND_DEFAULTS: Final = {kind: defaults(keys) for kind, keys in KIND_KEYS.items()}

# Of kinds whose least number isn't 20.
_LEAST: Final = {"threshold": 20, "process_died": 0, "stuck": 20, "absence": 0}

# Both of the page's are about the same errors: one message is enough.
_BUILT_IN: Final = (
    Inhibition(
        (Matcher("alertname", "success_rate_min"),),
        (Matcher("alertname", "error_rate_max"),),
        ("service", "graph", "node"),
    ),
)


# -- inside --------------------------------------------------------------------------


def _compared(table: Table, metric: str, op: str, value: float | None) -> Threshold:
    if op not in ("<", "<=", ">", ">="):
        raise table.error("op", f'"{op}" is not one of < <= > >=')
    if value is None:
        raise table.error("value", "missing: what the metric is compared with")
    clear = table.number("clear") if "clear" in table else None
    healthy = clear is None or (clear >= value if op[0] == "<" else clear <= value)
    if not healthy:
        side = "above" if op[0] == "<" else "below"
        raise table.error(
            "clear", f"{clear:g} has to be {side} value = {value:g}, where all is well"
        )
    return _simple(metric, op, value, clear)


def _simple(metric: str, op: str, value: float, clear: float | None) -> Threshold:
    breach = Compare(metric, op, value)
    back = Not(breach)
    well: Predicate = back
    if clear is not None and clear != value:
        well = Compare(metric, ">=" if op[0] == "<" else "<=", clear)
    shown = value if clear is None else clear
    return Threshold(breach, well, metric, value, shown, (metrics.find(metric).source,))


def _expression(table: Table) -> Threshold:
    for key in ("metric", "op", "value", "clear"):
        if key in table:
            raise table.error(key, "either this or when, not both")

    def condition(key: str) -> Predicate:
        return table.checked(
            key, lambda text: parse(text, metrics.known, METRICS), table.text(key)
        )

    breach = condition("when")
    clear = condition("clear_when") if "clear_when" in table else Not(breach)
    names = sorted(breach.metrics() | clear.metrics())
    sources = tuple({metrics.find(name).source: None for name in names})
    first = leading(breach)
    return Threshold(breach, clear, first.metric, first.value, None, sources)


def _severity(table: Table, default: Severity) -> Severity:
    return table.choice("severity", SEVERITIES, default)


def _labels_of(test: Test) -> tuple[tuple[str, ...], bool]:
    """Return the labels that alerts can have, and whether there may be others."""
    if not isinstance(test, Threshold):
        return MetricSource.NODES.labels, False
    shared = [
        label
        for label in test.sources[0].labels
        if all(label in source.labels for source in test.sources)
    ]
    return tuple(shared), test.sources == (MetricSource.CUSTOM,)


def _labels(table: Table, key: str) -> dict[str, str]:
    found = table.strings(key)
    for name, value in found.items():
        if not _LABEL.fullmatch(name) or name in ("alertname", "severity"):
            raise table.error(f"{key}.{name}", "is no name for a label of yours")
        if not value:
            raise table.error(f"{key}.{name}", "is empty")
    return found


def _inhibition(table: Table) -> Inhibition:
    def matchers(key: str) -> tuple[Matcher, ...]:
        found = table.parsed(key, matcher)
        if not found:
            raise table.error(key, "missing: matchers such as 'severity=\"critical\"'")
        return found

    found = Inhibition(matchers("source"), matchers("target"), table.texts("equal"))
    table.done()
    return found


def _silence(table: Table, number: int) -> Silence:
    times = {}
    for key in ("starts", "ends"):
        found = table.either(key, None)
        if not isinstance(found, dt.datetime):
            raise table.error(key, "expected a time such as 2026-12-01T22:00:00Z")
        times[f"{key}_at"] = found
    silence = Silence(
        id=f"configured-{number}",
        matchers=table.parsed("match", matcher),
        created_by="the configuration",
        comment=table.text("comment"),
        **times,
    )
    try:
        validated(silence)
    except ValueError as error:
        raise ConfigError(table.path, str(error)) from None
    table.done()
    return silence


def _template(text: str) -> str:
    """Return a summary's template, if it can be filled in.

    Raises:
        ValueError: it can't.
    """
    check(text)
    return text

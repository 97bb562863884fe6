"""Turns the tables of the configuration into rules, and validates them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from msgspec.structs import replace

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.model.alerts import Severity
from kaywatch_agent.rules import conditions
from kaywatch_agent.rules.built_in import INHIBITIONS, built_in_rules
from kaywatch_agent.rules.checks import (
    check_alerting,
    check_expected,
    check_keys,
    check_own_labels,
    check_receivers,
    check_summary,
    labels_per,
    warn_of_bytes,
    warn_of_labels,
    warn_of_matchers,
)
from kaywatch_agent.rules.conditions import (
    check_labels,
    check_minimum,
    check_objective,
)
from kaywatch_agent.rules.config import (
    KINDS,
    AbsenceConfig,
    AlertingConfig,
    BurnRateConfig,
    RuleConfig,
    RuleDefaults,
    RunawayConfig,
    StuckConfig,
    ThresholdConfig,
    ThresholdsConfig,
    TransitionConfig,
)
from kaywatch_agent.rules.matchers import parse as parse_matcher
from kaywatch_agent.rules.mute_config import check_names, read_mute
from kaywatch_agent.rules.prometheus import why_inexpressible
from kaywatch_agent.rules.reachable import warn_of_clear, warn_of_overlap
from kaywatch_agent.rules.rule import (
    AlertSettings,
    Condition,
    Grouping,
    Inhibition,
    Rule,
    Threshold,
)
from kaywatch_agent.rules.silence import Silence
from kaywatch_agent.rules.state import Timing
from kaywatch_agent.rules.suppression_config import read_inhibition, read_silence
from kaywatch_agent.settings.reader import ErrorCollector, section, valid_section
from kaywatch_agent.units import duration, parse_duration

__all__ = ["TABLES", "load"]

# The tables of the file that `load` reads.
TABLES: Final = ("alerting", "defaults", "rule", "inhibit", "silence", "mute")

T = TypeVar("T")

# They have other keys for the periods that they evaluate.
_WITHOUT_WINDOW: Final = ("absence", "burn_rate", "stuck")

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")


def load(
    values: Mapping[str, Any],
    *,
    receivers: Collection[str] = (),
    retention: float = 30 * 86_400.0,
) -> AlertSettings:
    """Return the settings of alerts that the tables of a configuration define.

    Args:
        values: the whole file, or its tables named in TABLES.
        receivers: the names that `notify` may contain.
        retention: for how many seconds the past is stored.

    Raises:
        ConfigError: all errors, each with its key, the value and what is allowed.
    """
    problems = ErrorCollector()
    defaults, changed_defaults = dict[str, Any](), False
    table = values.get("alerting", {})
    alerting = valid_section(AlertingConfig, table, "alerting", problems)
    alerting = alerting or AlertingConfig()
    with problems.collect():
        parsed = section(RuleDefaults, values.get("defaults", {}), "defaults")
        changed_defaults = parsed != RuleDefaults()
        defaults = values.get("defaults", {})
    # Later tables are read even if earlier ones are wrong: all errors are reported at
    # once.
    loader = _RuleLoader(alerting, defaults, receivers, retention)
    _read_tables(values, "rule", problems, loader.add)
    with problems.collect():
        loader.add_built_in(alerting.thresholds)
    inhibitions = _read_tables(values, "inhibit", problems, read_inhibition)
    silences = _read_tables(values, "silence", problems, read_silence)
    mutes = _read_tables(values, "mute", problems, read_mute)
    with problems.collect():
        check_alerting(alerting, receivers)
        check_names(mutes)
    problems.raise_all()
    if changed_defaults and not values.get("rule"):
        text = "without effect: it applies to [[rule]], and there is none"
        loader.warnings.append(f"defaults: {text}")
    rules = loader.rules.values()
    loader.warnings += warn_of_labels(alerting, inhibitions, rules)
    loader.warnings += warn_of_matchers(inhibitions, silences, mutes, alerting, rules)
    settings = _settings(alerting, loader, [*INHIBITIONS, *inhibitions], silences)
    return dataclasses.replace(settings, mutes=tuple(mutes))


# -- inside --------------------------------------------------------------------------


def _settings(
    alerting: AlertingConfig,
    loader: _RuleLoader,
    inhibitions: Sequence[Inhibition],
    silences: Sequence[Silence],
) -> AlertSettings:
    fleet = {n: rule for n, rule in loader.rules.items() if rule.where == "fleet"}
    return AlertSettings(
        rules={n: rule for n, rule in loader.rules.items() if n not in fleet},
        inhibitions=tuple(inhibitions),
        silences=tuple(
            replace(silence, id=f"configured-{number}")
            for number, silence in enumerate(silences, 1)
        ),
        interval=parse_duration(alerting.evaluation_interval),
        labels=alerting.labels,
        namespace=alerting.namespace,
        external_url=alerting.external_url.rstrip("/"),
        max_alerts=alerting.max_alerts_per_rule,
        grouping=Grouping(
            alerting.group_by,
            parse_duration(alerting.group_wait),
            parse_duration(alerting.group_interval),
        ),
        warnings=tuple(loader.warnings),
        fleet_rules=fleet,
    )


class _Variant(NamedTuple):
    """One of the rules that a table becomes: a burn rate has one for each tier."""

    condition: Condition
    window: float
    suffix: str = ""  # of the name
    severity: Severity | None = None  # None for that of the table
    notify: tuple[str, ...] | None = None  # likewise
    tier: int = 0


class _RuleLoader:
    """The rules of the file, and the warnings about them."""

    def __init__(
        self,
        alerting: AlertingConfig,
        defaults: Mapping[str, Any],
        receivers: Collection[str],
        retention: float,
    ) -> None:
        self.rules: dict[str, Rule] = {}
        self.warnings: list[str] = []
        self._names: set[str] = set()  # of all tables, also of invalid ones
        self.notify = tuple(receivers)
        if alerting.default_notify is not None:
            self.notify = alerting.default_notify
        self._labels = alerting.labels
        self._grace = parse_duration(alerting.startup_grace)
        self._defaults = defaults
        self._receivers = receivers
        self._retention = retention

    def add(self, table: Any, path: str) -> None:
        """Add the rules that a table becomes."""
        kind: Any = "threshold"
        own = table if isinstance(table, dict) else {}
        if isinstance(table, dict):
            kind = table.get("kind", kind)
            table = {**self._defaults, **table}
        if not isinstance(kind, str) or kind not in KINDS:
            self._refuse_kind(kind, table, path)
        problems = ErrorCollector()
        self._claim_name(table, path, problems)
        if "window" in own and kind in _WITHOUT_WINDOW:
            text = f"without effect: a rule of the kind {kind} has no window; remove it"
            self.warnings.append(f"{path}.window: {text}")
        config = valid_section(KINDS[kind], table, path, problems)
        if config is not None and config.enabled:
            further = ErrorCollector()
            self._add_variants(config, path, further)
            # An invalid key is not also missing.
            problems.add_others(further)
        problems.raise_all()

    def add_built_in(self, thresholds: ThresholdsConfig) -> None:
        """Add the built-in rules that no rule of the same name replaces."""
        for rule in built_in_rules(thresholds, self.notify):
            self.rules.setdefault(rule.name, rule)

    def _claim_name(self, table: Any, path: str, problems: ErrorCollector) -> None:
        """Collect an error for an invalid name, or one that an earlier table has."""
        name = table.get("name") if isinstance(table, dict) else None
        # `section` reports a missing name. A disabled rule may have any.
        if not isinstance(name, str) or table.get("enabled") is False:
            return
        if not _NAME.fullmatch(name):
            allowed = "up to 100 letters, digits, _ . -"
            problems.add(f"{path}.name", f'invalid name "{name}": expected {allowed}')
        # A tier of an earlier table may have the name as well.
        elif name in self._names or name in self.rules:
            problems.add(f"{path}.name", f'"{name}" is defined twice')
        self._names.add(name)

    def _add_variants(
        self, config: RuleConfig, path: str, problems: ErrorCollector
    ) -> None:
        check_keys(config, path, self._receivers, problems)
        with problems.collect():
            for variant in self._variants(config, path):
                with problems.collect():
                    rule = self._rule(config, variant, path)
                    _check_where(rule, path)
                    if variant.suffix and rule.name in self._names:
                        text = f'"{rule.name}" is defined twice'
                        problems.add(f"{path}.name", text)
                    self.rules.setdefault(rule.name, rule)

    @staticmethod
    def _refuse_kind(kind: object, table: Mapping[str, Any], path: str) -> None:
        problems = ErrorCollector()
        problems.add(f"{path}.kind", f"{kind!r} is not one of {', '.join(KINDS)}")
        if "name" not in table:
            problems.add(f"{path}.name", 'missing; for example "checkout-fails"')
        problems.raise_all()

    def _rule(self, config: RuleConfig, variant: _Variant, path: str) -> Rule:
        problems = ErrorCollector()
        notify = config.notify if variant.notify is None else variant.notify
        match = tuple(map(parse_matcher, config.match))
        per: tuple[str, ...] = ()
        with problems.collect():
            self._check_window(variant.window, path)
        with problems.collect():
            check_labels(f"{path}.match", match, variant.condition)
        with problems.collect():
            per = labels_per(config, variant.condition, path)
            check_expected(config, per, path)
            check_own_labels(config, per, path)
            check_summary(config, per, self._labels, path)
        with problems.collect():
            key = f"{path}.tiers[{variant.tier}].notify"
            check_receivers(key, variant.notify or (), self._receivers)
        problems.raise_all()
        return Rule(
            name=config.name + variant.suffix,
            kind=config.kind,
            condition=variant.condition,
            timing=_timing(config, variant.window),
            window=variant.window,
            min_executions=config.min_executions,
            match=match,
            per=per,
            cooldown=parse_duration(config.cooldown),
            repeat_interval=parse_duration(config.repeat_interval),
            severity=variant.severity or config.severity,
            labels=config.labels,
            notify=self.notify if notify is None else notify,
            summary=config.summary,
            runbook_url=config.runbook_url,
            where=config.where,
        )

    def _check_window(self, window: float, path: str) -> None:
        # A longer window would silently be evaluated over less than it says.
        if window > self._retention:
            stored = duration(self._retention)
            text = f"{duration(window)} is too long: only {stored} are stored"
            raise ConfigError(f"{path}.window", text)

    def _variants(self, config: RuleConfig, path: str) -> list[_Variant]:
        match config:
            case BurnRateConfig():
                return _tiers(config, path)
            case AbsenceConfig():
                absence = conditions.absence(config, path, self._grace)
                return [_Variant(absence, absence.max_age)]
            case StuckConfig():
                return [_Variant(conditions.stuck(config, path), 3600.0)]
        window = parse_duration(config.window)
        # The shortest bucket is 10 s long.
        if window < 10:
            raise ConfigError(f"{path}.window", f'{window:g}s: expected at least "10s"')
        condition: Condition = conditions.compare("processes_died", ">", 0.0, 0.0)
        match config:
            case ThresholdConfig():
                condition = conditions.threshold(config, path)
                self._warn_of_quantiles(condition, config, path)
                key = "when" if config.when else "value"
                if warning := warn_of_bytes(condition):
                    self.warnings.append(f"{path}.{key}: {warning}")
                if warning := warn_of_clear(condition) or warn_of_overlap(condition):
                    key = "clear_when" if config.clear_when else "clear"
                    self.warnings.append(f"{path}.{key}: {warning}")
            case TransitionConfig():
                condition = conditions.transition(config, path)
            case RunawayConfig():
                condition = conditions.runaway(config, path)
        return [_Variant(condition, window)]

    def _warn_of_quantiles(
        self, condition: Threshold, config: ThresholdConfig, path: str
    ) -> None:
        """Warn of a percentile that `min_executions` is too low to determine."""
        for metric in sorted(condition.breach.metrics()):
            quantile = re.search(r"p(\d\d)$", metric)
            needed = round(100 / (100 - int(quantile[1]))) if quantile else 0
            if config.min_executions < needed:
                self.warnings.append(
                    f"{path}.min_executions: {config.min_executions} is too few:"
                    f" {metric} is meaningless for fewer than {needed} executions"
                )


# -- other tables --------------------------------------------------------------------


def _timing(config: RuleConfig, window: float) -> Timing:
    # A window keeps its last event for its own length; Datadog also waits for two.
    no_data_after = max(2 * window, 600.0)
    if config.no_data_after is not None:
        no_data_after = parse_duration(config.no_data_after)
    return Timing(
        parse_duration(config.for_),
        parse_duration(config.keep_firing_for),
        no_data_after,
        config.on_no_data,
    )


def _check_where(rule: Rule, path: str) -> None:
    """Raise ConfigError for a rule that nothing would evaluate."""
    if rule.where == "fleet" and (reason := why_inexpressible(rule)):
        text = f'"fleet": Prometheus cannot express the rule: {reason}; write "host"'
        raise ConfigError(f"{path}.where", text)


def _tiers(config: BurnRateConfig, path: str) -> list[_Variant]:
    problems, variants = ErrorCollector(), list[_Variant]()
    with problems.collect():
        check_minimum(path, "min_events", config.min_events, 1)
    if not config.tiers:
        problems.add(f"{path}.tiers", "the list is empty; remove it, or add a tier")
    if config.latency_le is not None and parse_duration(config.latency_le) <= 0:
        text = f'"{config.latency_le}": expected more than 0, such as "2s"'
        problems.add(f"{path}.latency_le", text)
    with problems.collect():
        check_objective(f"{path}.objective", config.objective)
    problems.raise_all()
    for number, tier in enumerate(config.tiers):
        with problems.collect():
            condition = conditions.burn_rate(config, tier, f"{path}.tiers[{number}]")
            suffix = "-" + duration(condition.long).replace(" ", "")
            rest = suffix, tier.severity, tier.notify, number
            variants.append(_Variant(condition, condition.long, *rest))
    problems.raise_all()
    return variants


def _read_tables(
    values: Mapping[str, Any],
    name: str,
    problems: ErrorCollector,
    read: Callable[[Any, str], T],
) -> list[T]:
    """Return what `read` makes of each table in a list of tables, and of its path."""
    tables, results = values.get(name, []), []
    if not isinstance(tables, list):
        problems.add(name, f"expected a list of tables; write [[{name}]]")
        return []
    for number, table in enumerate(tables):
        with problems.collect():
            results.append(read(table, f"{name}[{number}]"))
    return results

"""Validates keys of the tables of alerts that do not depend on a rule's kind."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.model.alerts import Severity
from kaywatch_agent.rules.conditions import check_minimum, labels_of, parse_key
from kaywatch_agent.rules.config import AbsenceConfig, AlertingConfig, RuleConfig
from kaywatch_agent.rules.describe import FIELDS, check_template, fields_of
from kaywatch_agent.rules.matchers import Matcher
from kaywatch_agent.rules.matchers import parse as parse_matcher
from kaywatch_agent.rules.metrics import METRICS
from kaywatch_agent.rules.mute import MuteWindow
from kaywatch_agent.rules.rule import Condition, Inhibition, Rule, Threshold
from kaywatch_agent.rules.silence import Silence
from kaywatch_agent.settings.reader import ErrorCollector, check_link
from kaywatch_agent.units import MIB, parse_duration

__all__ = [
    "check_alerting",
    "check_expected",
    "check_keys",
    "check_own_labels",
    "check_receivers",
    "check_summary",
    "describe_unknown",
    "labels_per",
    "warn_of_bytes",
    "warn_of_labels",
    "warn_of_matchers",
]

# The labels that name where something happens, in this order.
PLACE: Final = ("service", "graph", "node")

# No Python process uses less memory, in bytes.
SMALLEST_PROCESS: Final = MIB

_LABEL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_keys(
    config: RuleConfig,
    path: str,
    receivers: Collection[str],
    problems: ErrorCollector,
) -> None:
    """Collect the errors of the keys that rules of all kinds have."""
    with problems.collect():
        check_minimum(path, "min_executions", config.min_executions, 0)
    with problems.collect():
        _check_labels(f"{path}.labels", config.labels)
    with problems.collect():
        check_receivers(f"{path}.notify", config.notify or (), receivers)
    with problems.collect():
        if config.runbook_url:
            check_link(f"{path}.runbook_url", config.runbook_url)


def check_alerting(config: AlertingConfig, receivers: Collection[str]) -> None:
    """Raise ConfigError with all errors of `[alerting]`."""
    problems = ErrorCollector()
    with problems.collect():
        if config.external_url:
            check_link("alerting.external_url", config.external_url)
            _check_base(config.external_url)
    # The tick, of which an evaluation is a part, comes once a second.
    if not 1.0 <= parse_duration(config.evaluation_interval) <= 300.0:
        text = f'"{config.evaluation_interval}": expected a duration from "1s" to "5m"'
        problems.add("alerting.evaluation_interval", text)
    with problems.collect():
        check_minimum("alerting", "max_alerts_per_rule", config.max_alerts_per_rule, 1)
    with problems.collect():
        _check_labels("alerting.labels", config.labels)
    with problems.collect():
        notified = config.default_notify or ()
        check_receivers("alerting.default_notify", notified, receivers)
    problems.raise_all()


def check_receivers(
    path: str, names: Collection[str], receivers: Collection[str]
) -> None:
    """Raise ConfigError for the name of an unknown receiver."""
    for name in names:
        if name not in receivers:
            listed = ", ".join(sorted(receivers)) or "none yet"
            raise ConfigError(
                path,
                f'unknown receiver "{name}"; add [receiver.{name}] (known: {listed})',
            )


def labels_per(config: RuleConfig, condition: Condition, path: str) -> tuple[str, ...]:
    """Return the labels that distinguish the alerts of a rule.

    Raises:
        ConfigError: the rule's series lack one of them, or it is listed twice.
    """
    allowed, custom = labels_of(condition)
    if config.per is None:
        default = [label for label in allowed if label in PLACE]
        return tuple(default or allowed[:1])
    for label in config.per:
        if label not in allowed and not custom:
            names = ", ".join(allowed)
            raise ConfigError(
                f"{path}.per", f'unknown label "{label}"; this rule has {names}'
            )
    if len(set(config.per)) < len(config.per):
        twice = next(label for label in config.per if config.per.count(label) > 1)
        raise ConfigError(f"{path}.per", f'"{twice}" is listed twice; list it once')
    return config.per


def check_expected(config: RuleConfig, per: Collection[str], path: str) -> None:
    """Raise ConfigError for an expected label set that no series can have."""
    if not isinstance(config, AbsenceConfig):
        return
    problems = ErrorCollector()
    for number, labels in enumerate(config.expect):
        key = f"{path}.expect[{number}]"
        for label in labels:
            if label not in per:
                text = f"unknown label; per is {', '.join(per) or 'empty'}"
                problems.add(f"{key}.{label}", text)
        missing = [label for label in per if label not in labels]
        if labels and missing:
            text = f"without {', '.join(missing)}: add it, or remove it from per"
            problems.add(key, text)
        for matcher in map(parse_matcher, config.match):
            if not missing and not matcher.holds(labels):
                problems.add(key, f"does not match {matcher}, so it is never seen")
    problems.raise_all()


def check_summary(
    config: RuleConfig, per: Collection[str], shared: Collection[str], path: str
) -> None:
    """Raise ConfigError for an invalid template, or a field that no alert has.

    Args:
        config: the rule.
        per: the labels that distinguish its alerts.
        shared: the labels of all alerts.
        path: of its table.
    """
    parse_key(f"{path}.summary", check_template, config.summary)
    known = (*FIELDS, *per, *config.labels, *shared)
    for _, name, _, _ in fields_of(config.summary):
        if name is not None and name not in known:
            text = f"unknown field {{{name}}}{_suggest(name, known)}"
            raise ConfigError(f"{path}.summary", text)


def check_own_labels(config: RuleConfig, per: Collection[str], path: str) -> None:
    """Raise ConfigError for a label that the alerts inherit from their series."""
    for name in config.labels:
        if name in per:
            text = "the alerts have this label from their series; choose another"
            raise ConfigError(f"{path}.labels.{name}", text)


def warn_of_labels(
    alerting: AlertingConfig, inhibitions: Iterable[Inhibition], rules: Iterable[Rule]
) -> Iterator[str]:
    """Yield a warning about each label by which no alert can be grouped or inhibited.

    Args:
        alerting: the settings of all alerts.
        inhibitions: those of the configuration, in its order.
        rules: all rules.
    """
    known = {"alertname", "severity", *alerting.labels}
    for rule in rules:
        known.update(rule.per, rule.labels)
    used = {"alerting.group_by": alerting.group_by}
    for number, one in enumerate(inhibitions):
        used[f"inhibit[{number}].equal"] = one.equal
    for key, names in used.items():
        for name in names:
            if name not in known:
                hint = _suggest(name, known)
                yield f'{key}: no alert has the label "{name}"{hint}'


def warn_of_matchers(
    inhibitions: Iterable[Inhibition],
    silences: Iterable[Silence],
    mutes: Iterable[MuteWindow],
    alerting: AlertingConfig,
    rules: Collection[Rule],
) -> Iterator[str]:
    """Yield a warning about each matcher that no alert, or every alert, matches.

    Args:
        inhibitions: those of the configuration, in its order.
        silences: likewise.
        mutes: likewise.
        alerting: the settings of all alerts.
        rules: all rules.
    """
    lists = {
        **{f"inhibit[{n}].source": one.source for n, one in enumerate(inhibitions)},
        **{f"inhibit[{n}].target": one.target for n, one in enumerate(inhibitions)},
        **{f"silence[{n}].match": one.matchers for n, one in enumerate(silences)},
        **{f"mute[{n}].match": one.matchers for n, one in enumerate(mutes)},
    }
    for key, matchers in lists.items():
        for number, matcher in enumerate(matchers):
            for text in describe_unknown(matcher, alerting.labels, rules):
                yield f"{key}[{number}]: {text}"


def describe_unknown(
    matcher: Matcher, shared: Collection[str], rules: Collection[Rule]
) -> Iterator[str]:
    """Yield what a matcher of alerts names although no alert has it.

    Args:
        matcher: of a silence or an inhibition.
        shared: the labels of all alerts.
        rules: all rules.
    """
    labels = {"alertname", "severity", *shared}
    for rule in rules:
        labels.update(rule.per, rule.labels)
    if matcher.name not in labels:
        yield f'no alert has the label "{matcher.name}"{_suggest(matcher.name, labels)}'
    known: Collection[str] = {rule.name for rule in rules}
    if matcher.name == "severity":
        known = typing.get_args(Severity)
    if matcher.name in ("alertname", "severity"):
        for value in _words(matcher):
            if value not in known:
                hint = _suggest(value, known)
                yield f'no alert has {matcher.name} = "{value}"{hint}'


def warn_of_bytes(condition: Threshold) -> str:
    """Return a warning of a limit that was meant in MiB; else nothing."""
    for one in condition.breach.comparisons():
        is_size = one.metric in METRICS and METRICS[one.metric].unit == "bytes"
        if is_size and 0 < one.value < SMALLEST_PROCESS:
            often = "always" if one.op.startswith(">") else "never"
            return (
                f"{one} is {often} true: the metric is in bytes;"
                f" write {one.value * MIB:.0f} for {one.value:g} MiB"
            )
    return ""


# -- inside --------------------------------------------------------------------------


def _check_base(url: str) -> None:
    """Raise ConfigError for a URL to which no path can be appended."""
    if "?" in url or "#" in url:
        text = f'"{url}": expected a URL without ? and #, to which paths are appended'
        raise ConfigError("alerting.external_url", text)


def _words(matcher: Matcher) -> list[str]:
    """Return the values of a matcher that are plain words: not `low.*`."""
    words = matcher.value.split("|") if matcher.is_regex else [matcher.value]
    return [word for word in words if re.fullmatch(r"[\w-]+", word)]


def _check_labels(path: str, labels: Mapping[str, str]) -> None:
    for name, value in labels.items():
        # Alertmanager's rules for names. The two others are added to each alert.
        if not _LABEL.fullmatch(name) or name in ("alertname", "severity"):
            raise ConfigError(
                f"{path}.{name}",
                "invalid label name: expected letters, digits and _, without a digit"
                " first, other than alertname and severity",
            )
        # Alertmanager removes empty labels: the alert would have another identity
        # there.
        if not value:
            raise ConfigError(f"{path}.{name}", "the value is empty; remove the label")


def _suggest(name: str, known: Collection[str]) -> str:
    """Return the most similar known name, and all known names, as a hint."""
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{hint} (known: {', '.join(sorted({*known}))})"

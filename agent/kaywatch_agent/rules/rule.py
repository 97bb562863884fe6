"""What a rule is, once its table has been read and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from kaywatch_agent.model.alerts import Severity
from kaywatch_agent.rules.expression import Predicate, leading
from kaywatch_agent.rules.matchers import Matcher
from kaywatch_agent.rules.metrics import MetricSource
from kaywatch_agent.rules.silence import Silence
from kaywatch_agent.rules.state import Timing

__all__ = [
    "Absence",
    "BurnRate",
    "Change",
    "Grouping",
    "Inhibition",
    "Rule",
    "AlertSettings",
    "Stuck",
    "Test",
    "Threshold",
    "Transition",
]


@dataclass(frozen=True)
class Threshold:
    """A metric beyond a value, or several of them.

    Attributes:
        breach: when it is met.
        clear: when all is well again; between the two nothing changes.
        metric: the one that is shown.
        threshold: what it is compared with.
        clear_at: where it is clear; None when that isn't one number.
        sources: what the metrics come from.
    """

    breach: Predicate
    clear: Predicate
    metric: str
    threshold: float
    clear_at: float | None
    sources: tuple[MetricSource, ...]


@dataclass(frozen=True)
class Absence:
    """No execution for too long.

    Attributes:
        max_age: how long is too long, in seconds.
        expect: label sets that have to be there even if they were never seen.
        forget_after: what was not seen for so long, and isn't expected, is forgotten.
        grace: for so many seconds after the start, nothing is absent.
    """

    max_age: float
    expect: tuple[Mapping[str, str], ...]
    forget_after: float
    grace: float = 60.0


@dataclass(frozen=True)
class BurnRate:
    """The error budget is used up too fast, over a long and a short window.

    From the Site Reliability Workbook, chapter 5, table 5-8: both windows have more
    errors than `factor` times what the objective allows. A rule has one tier; those
    that a table has become one rule each.

    Attributes:
        objective: the share that has to be good, such as 0.99.
        slo_window: what the objective is of, in seconds.
        latency_le: good is what took at most so many seconds; None: what succeeded.
        factor: how many times faster than allowed.
        long, short: seconds.
        min_events: in the long window, or nothing is known.
        min_bad: in the short one, before it counts.
    """

    objective: float
    slo_window: float
    latency_le: float | None
    factor: float
    long: float
    short: float
    min_events: int
    min_bad: int = 3


Change = Literal["share", "new", "vanished"]


@dataclass(frozen=True)
class Transition:
    """An action is taken more or less often than it should be.

    Attributes:
        change: `share`: it left its band; `new`: one that was never taken before;
            `vanished`: one that is no longer taken.
        action: which; empty for each, where that has a meaning.
        above, below: the band's ends; None for none.
    """

    change: Change
    action: str = ""
    above: float | None = None
    below: float | None = None


@dataclass(frozen=True)
class Stuck:
    """A node has been at work for too long.

    Attributes:
        factor: longer than this times its p99.
        max_age: longer than so many seconds in any case; None for no such limit.
        at_least: whatever the p99 is, not before so many seconds.
    """

    factor: float
    max_age: float | None
    at_least: float


Test = Threshold | Absence | BurnRate | Transition | Stuck

# What makes a rule another one; the rest may change while it fires.
_MEANING: Final = ("kind", "window", "match", "per", "test", "min_executions")


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: what it is known by, also as `alertname`.
        kind: threshold, absence, burn_rate, transition_share, stuck, …
        test: what is looked at.
        timing: how long what has to last.
        window: seconds.
        min_executions: fewer say nothing.
        match: which series it is about.
        per: one alert for each combination of these labels.
        cooldown: least seconds between two firing notifications of one alert.
        repeat_interval: seconds until what still fires is said again; 0 for never.
        severity, labels, summary, runbook_url: as they are told.
        notify: the receivers' names.
        built_in: whether it is there without configuration.
    """

    name: str
    kind: str
    test: Test
    timing: Timing
    window: float
    min_executions: int
    match: tuple[Matcher, ...]
    per: tuple[str, ...]
    cooldown: float
    repeat_interval: float
    severity: Severity
    labels: Mapping[str, str] = field(default_factory=dict)
    notify: tuple[str, ...] = ()
    summary: str = ""
    runbook_url: str = ""
    built_in: bool = False

    @property
    def meaning(self) -> str:
        """A hash of what it looks at, to tell another rule from another wording."""
        parts = [repr(getattr(self, name)) for name in _MEANING]
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]

    @property
    def falls(self) -> bool:
        """Whether it is low values that are bad."""
        match self.test:
            case Threshold(breach=breach):
                return leading(breach).op.startswith("<")
            case Transition(above=None, below=float()):
                return True
        return False


class Inhibition(msgspec.Struct, frozen=True):
    """While a source fires, its targets are not told.

    Attributes:
        source, target: matchers over all labels, `alertname` and `severity` as well.
        equal: labels that have to be the same in both.
    """

    source: tuple[Matcher, ...]
    target: tuple[Matcher, ...]
    equal: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grouping:
    """How alerts share messages, for receivers that group.

    Attributes:
        group_by: the labels that make a group.
        group_wait: seconds in which a group's first message gathers alerts.
        group_interval: least seconds between two messages of a group.
    """

    group_by: tuple[str, ...] = ("alertname", "graph")
    group_wait: float = 10.0
    group_interval: float = 60.0


@dataclass(frozen=True)
class AlertSettings:
    """All about alerts that is set (`[alerting]`, `[[rule]]` and so on).

    Attributes:
        rules: by name.
        inhibitions: which alerts keep others quiet.
        silences: those that the configuration has.
        interval: seconds between two evaluations, at least.
        startup_grace: no absence before so many seconds after the start.
        labels: on every alert.
        namespace: part of the dedup keys; the same on all replicas.
        external_url: where links lead; empty for none.
        max_instances: alerts per rule; more are refused, and that is said.
        grouping: how alerts share messages.
        warnings: what is allowed, and probably not meant.
    """

    rules: Mapping[str, Rule]
    inhibitions: tuple[Inhibition, ...] = ()
    silences: tuple[Silence, ...] = ()
    interval: float = 1.0
    startup_grace: float = 60.0
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = ""
    external_url: str = ""
    max_instances: int = 500
    grouping: Grouping = field(default_factory=Grouping)
    warnings: tuple[str, ...] = ()

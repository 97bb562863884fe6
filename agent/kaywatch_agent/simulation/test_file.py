"""The tests of rules in a file, as `kaywatch rules test FILE` runs them.

A test lists stimuli by time, and the alerts and messages expected from them. The
dataclasses are the tables of the file; docs/alerts.md documents their keys.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.notify.config import AlertmanagerConfig, ReceiverConfig
from kaywatch_agent.rules.config import MatcherText
from kaywatch_agent.rules.matchers import parse as parse_matcher
from kaywatch_agent.rules.rule import AlertSettings
from kaywatch_agent.rules.silence import Silence
from kaywatch_agent.settings.reader import Duration, ErrorCollector, section
from kaywatch_agent.simulation.stimuli import (
    ExecutionStimulus,
    MetricStimulus,
    ProcessStimulus,
    RunStimulus,
    Stimulus,
    TopologyStimulus,
)
from kaywatch_agent.units import parse_duration

__all__ = ["ExpectedAlerts", "ExpectedMessage", "Outage", "TestCase", "load"]

# A Tuesday, at midnight.
START: Final = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)

MAX_LENGTH: Final = 7 * 86_400.0

Receivers = Mapping[str, ReceiverConfig]


@dataclass(frozen=True, kw_only=True)
class TestSilence:
    """A silence, relative to the start of the test."""

    match: tuple[MatcherText, ...]
    from_: Duration = "0"
    to: Duration = "7d"
    comment: str = ""

    def check(self, path: str) -> None:
        """Raise ConfigError if it would silence everything."""
        if not self.match:
            raise ConfigError(
                f"{path}.match",
                "the list is empty and would silence everything; add a matcher",
            )

    def make(self, start: dt.datetime, number: int) -> Silence:
        """Return the silence of a test that starts at `start`."""
        return Silence(
            id=f"silence-{number}",
            matchers=tuple(map(parse_matcher, self.match)),
            starts_at=start + dt.timedelta(seconds=parse_duration(self.from_)),
            ends_at=start + dt.timedelta(seconds=parse_duration(self.to)),
            comment=self.comment,
        )


@dataclass(frozen=True, kw_only=True)
class Outage:
    """A receiver that is unreachable, relative to the start of the test."""

    receiver: str
    from_: Duration = "0"
    to: Duration = "7d"


@dataclass(frozen=True, kw_only=True)
class ExpectedAlerts:
    """The labels of all alerts of a rule at a time, by state."""

    rule: str
    at: Duration = "0"
    pending: tuple[dict[str, str], ...] = ()
    firing: tuple[dict[str, str], ...] = ()
    recovering: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExpectedMessage:
    """An expected message; `body` is a part of its body, in JSON."""

    to: str
    at: Duration = "0"
    kind: Literal["firing", "repeat", "resolved"] = "firing"
    alerts: int | None = None
    contains: tuple[str, ...] = ()
    body: Any = None


@dataclass(frozen=True, kw_only=True)
class TestCase:
    """One test (`[[test]]`); durations are relative to its start.

    With `message` or `no_messages`, all messages are compared; otherwise none are.
    """

    name: str
    start: dt.datetime = START
    length: Duration | None = None
    interval: Duration = "10s"
    no_messages: bool = False
    executions: tuple[ExecutionStimulus, ...] = ()
    runs: tuple[RunStimulus, ...] = ()
    metric: tuple[MetricStimulus, ...] = ()
    process: tuple[ProcessStimulus, ...] = ()
    topology: tuple[TopologyStimulus, ...] = ()
    silence: tuple[TestSilence, ...] = ()
    outage: tuple[Outage, ...] = ()
    alerts: tuple[ExpectedAlerts, ...] = ()
    message: tuple[ExpectedMessage, ...] = ()

    @property
    def last(self) -> float:
        """When the last alert or message is expected, in seconds."""
        times = [alerts.at for alerts in self.alerts]
        times += [message.at for message in self.message]
        return max(map(parse_duration, times), default=0.0)

    @property
    def seconds(self) -> float:
        """The duration of the test: by default until the last expectation."""
        if self.length is not None:
            return parse_duration(self.length)
        return self.last + parse_duration(self.interval)

    @property
    def stimuli(self) -> dict[str, Sequence[Stimulus]]:
        """The stimuli of the case, by key."""
        return {
            "executions": self.executions,
            "runs": self.runs,
            "metric": self.metric,
            "process": self.process,
            "topology": self.topology,
        }


def load(
    values: Mapping[str, Any], settings: AlertSettings, receivers: Receivers
) -> list[TestCase]:
    """Return the tests of a file.

    Args:
        values: the file; the tests are its tables `test`.
        settings: the rules that are tested.
        receivers: by name.

    Raises:
        ConfigError: all errors, each with its key.
    """
    tables = values.get("test")
    if not isinstance(tables, list) or not tables:
        raise ConfigError("test", "missing: write [[test]], see docs/alerts.md")
    problems, cases = ErrorCollector(), []
    for number, table in enumerate(tables):
        path = f"test[{number}]"
        with problems.collect():
            case = section(TestCase, table, path)
            _check(case, path, settings, receivers)
            cases.append(case)
    problems.raise_all()
    return cases


# -- inside --------------------------------------------------------------------------


def _check(
    case: TestCase, path: str, settings: AlertSettings, receivers: Receivers
) -> None:
    _check_times(case, path)
    if not case.name:
        raise ConfigError(f"{path}.name", "missing; describe what the test shows")
    if case.no_messages and case.message:
        raise ConfigError(
            f"{path}.no_messages",
            "cannot be combined with [[test.message]]; remove one",
        )
    for key, stimuli in case.stimuli.items():
        for number, stimulus in enumerate(stimuli):
            stimulus.check(f"{path}.{key}[{number}]")
    for number, silence in enumerate(case.silence):
        silence.check(f"{path}.silence[{number}]")
    for number, expected in enumerate(case.alerts):
        _check_alerts(expected, f"{path}.alerts[{number}]", settings)
    for number, message in enumerate(case.message):
        _check_message(message, f"{path}.message[{number}]", receivers)
    for number, outage in enumerate(case.outage):
        key = f"{path}.outage[{number}].receiver"
        _check_receiver(key, outage.receiver, receivers)
        if isinstance(receivers[outage.receiver], AlertmanagerConfig):
            raise ConfigError(
                key,
                "an Alertmanager has no outage: alerts are sent to it repeatedly;"
                " choose another receiver",
            )


def _check_times(case: TestCase, path: str) -> None:
    if case.start.tzinfo is None:
        raise ConfigError(
            f"{path}.start", "needs a time zone, as in 2026-12-01T00:00:00Z"
        )
    if parse_duration(case.interval) < 1:
        raise ConfigError(
            f"{path}.interval", f'"{case.interval}": expected at least "1s"'
        )
    if not case.last <= case.seconds <= MAX_LENGTH:
        raise ConfigError(
            f"{path}.length",
            "expected at most 7d, and not before the last alert or message",
        )


def _check_alerts(expected: ExpectedAlerts, path: str, settings: AlertSettings) -> None:
    rule = settings.rules.get(expected.rule)
    if rule is None:
        names = ", ".join(settings.rules) or "none"
        raise ConfigError(
            f"{path}.rule", f'unknown rule "{expected.rule}" (known: {names})'
        )
    allowed = rule.per
    if rule.kind == "transition_share":
        allowed = (*allowed, "action")
    for state in ("pending", "firing", "recovering"):
        for number, labels in enumerate(getattr(expected, state)):
            for label in labels:
                if label not in allowed:
                    raise ConfigError(
                        f"{path}.{state}[{number}].{label}",
                        f"the labels of {rule.name} are {', '.join(allowed) or 'none'}",
                    )


def _check_message(message: ExpectedMessage, path: str, receivers: Receivers) -> None:
    _check_receiver(f"{path}.to", message.to, receivers)
    if message.alerts is not None and message.alerts < 1:
        raise ConfigError(f"{path}.alerts", f"{message.alerts}: expected at least 1")
    if not isinstance(message.body, dict | list | None):
        raise ConfigError(
            f"{path}.body", 'expected a table such as { event_action = "x" }'
        )


def _check_receiver(path: str, name: str, receivers: Collection[str]) -> None:
    if name not in receivers:
        names = ", ".join(receivers) or "none; write [receiver.NAME]"
        raise ConfigError(path, f'unknown receiver "{name}" (known: {names})')

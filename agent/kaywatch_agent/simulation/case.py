"""A test of rules: what happens, which alerts there should be, and who is sent what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kaywatch_agent.rules.silence import Silence
from kaywatch_agent.simulation.lab import SyntheticSource
from kaywatch_agent.simulation.rehearsal import Outage

__all__ = ["TestCase", "ExpectedMessage", "Stimulus", "ExpectedAlerts"]


class Stimulus(NamedTuple):
    """Something that happens at times, in seconds from the start."""

    times: tuple[float, ...]
    do: Callable[[SyntheticSource, float, int], None]


class ExpectedAlerts(NamedTuple):
    """Which alerts of a rule there should be at a time, by state."""

    path: str
    at: float
    rule: str
    labels: Mapping[str, tuple[Mapping[str, str], ...]]


class ExpectedMessage(NamedTuple):
    """A message that there should be.

    Attributes:
        at: when it is sent, in seconds from the start.
        receiver: to whom.
        kind: why.
        alerts: how many it is about; None for any number.
        contains: what stands in its texts.
        body: part of what is sent; None for anything.
    """

    at: float
    receiver: str
    kind: str
    alerts: int | None
    contains: tuple[str, ...]
    body: Any


@dataclass(frozen=True)
class TestCase:
    """One test.

    Attributes:
        name: what it is called.
        start: Unix seconds.
        length: for how long it goes on, in seconds.
        interval: seconds between two evaluations.
        happenings: what happens.
        silences: what is silenced.
        outages: when receivers can't be reached.
        alerts: which alerts there should be.
        messages: all messages there should be; None where nobody looks.
    """

    name: str
    start: float
    length: float
    interval: float
    happenings: tuple[Stimulus, ...]
    silences: tuple[Silence, ...]
    outages: tuple[Outage, ...]
    alerts: tuple[ExpectedAlerts, ...]
    messages: tuple[ExpectedMessage, ...] | None

"""Runs a test of rules on a virtual clock, and says what is not as it should be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from kaywatch_agent.notify.config import ReceiverConfig
from kaywatch_agent.rules.rule import AlertSettings
from kaywatch_agent.simulation.case import TestCase
from kaywatch_agent.simulation.differences import of_alerts, of_messages
from kaywatch_agent.simulation.lab import SyntheticSource
from kaywatch_agent.simulation.rehearsal import Simulation

__all__ = ["CaseResult", "run"]

# The agent has been looking for so long when a test begins.
BEFORE: Final = 4 * 3600.0


class CaseResult(NamedTuple):
    """What came of a test; without differences it passed."""

    case: TestCase
    differences: list[str]
    rehearsal: Simulation


def run(
    case: TestCase, settings: AlertSettings, receivers: Mapping[str, ReceiverConfig]
) -> CaseResult:
    """Run a test of rules that tell these receivers."""
    lab = SyntheticSource(case.start - BEFORE)
    rehearsal = Simulation(settings, receivers, host="test", outages=case.outages)
    for silence in case.silences:
        rehearsal.engine.silences.put(silence)
    events = sorted(
        (
            (time, number, happening.do)
            for happening in case.happenings
            for number, time in enumerate(happening.times)
        ),
        key=lambda event: event[0],
    )
    wanted = sorted(case.alerts, key=lambda want: want.at)
    differences: list[str] = []
    at = number = 0
    for count in range(int(case.length // case.interval) + 1):
        now = count * case.interval
        while at < len(events) and events[at][0] <= now:
            time, nth, do = events[at]
            do(lab, case.start + time, nth)
            at += 1
        rehearsal.look(lab.scene(case.start + now), case.interval if count else 0.0)
        while number < len(wanted) and wanted[number].at < now + case.interval:
            differences += of_alerts(wanted[number], rehearsal.engine)
            number += 1
    rehearsal.deliver(case.start + case.length)
    if case.messages is not None:
        differences += of_messages(case, case.messages, rehearsal)
    return CaseResult(case, differences, rehearsal)

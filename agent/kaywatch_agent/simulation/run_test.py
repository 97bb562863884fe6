"""Runs a test of rules on a virtual clock, and reports the differences."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

from kaywatch_agent.notify.config import ReceiverConfig
from kaywatch_agent.rules.rule import AlertSettings
from kaywatch_agent.simulation.differences import compare_alerts, compare_messages
from kaywatch_agent.simulation.simulation import OutagePeriod, Simulation
from kaywatch_agent.simulation.stimuli import Stimulus
from kaywatch_agent.simulation.synthetic import SyntheticSource
from kaywatch_agent.simulation.test_file import TestCase
from kaywatch_agent.units import parse_duration

__all__ = ["CaseResult", "run_test"]

# How long the agent has been observing when a test starts.
BEFORE: Final = 4 * 3600.0


class CaseResult(NamedTuple):
    """The result of a test; without differences, it passed."""

    case: TestCase
    differences: list[str]
    simulation: Simulation


def run_test(
    case: TestCase, settings: AlertSettings, receivers: Mapping[str, ReceiverConfig]
) -> CaseResult:
    """Run a test of rules that notify these receivers."""
    start, interval = case.start.timestamp(), parse_duration(case.interval)
    source = SyntheticSource(start - BEFORE)
    simulation = _simulation(case, settings, receivers)
    events = deque(_list_events(case))
    expected = deque(sorted(case.alerts, key=lambda alerts: parse_duration(alerts.at)))
    differences: list[str] = []
    for step in range(int(case.seconds // interval) + 1):
        now = step * interval
        while events and events[0][0] <= now:
            time, number, stimulus = events.popleft()
            stimulus.apply(source, start + time, number)
        simulation.evaluate(source.eval_input(start + now), interval if step else 0.0)
        while expected and parse_duration(expected[0].at) < now + interval:
            differences += compare_alerts(expected.popleft(), simulation.engine)
    simulation.delivery.deliver(start + case.seconds)
    if case.message or case.no_messages:
        differences += compare_messages(case, simulation.delivery)
    return CaseResult(case, differences, simulation)


def _list_events(case: TestCase) -> list[tuple[float, int, Stimulus]]:
    """Return the times of all stimuli in order, with the number of each."""
    events = [
        (time, number, stimulus)
        for stimuli in case.stimuli.values()
        for stimulus in stimuli
        for number, time in enumerate(stimulus.times(case.seconds))
    ]
    return sorted(events, key=lambda event: event[0])


def _simulation(
    case: TestCase, settings: AlertSettings, receivers: Mapping[str, ReceiverConfig]
) -> Simulation:
    start = case.start.timestamp()
    outages = [
        OutagePeriod(
            outage.receiver,
            start + parse_duration(outage.from_),
            start + parse_duration(outage.to),
        )
        for outage in case.outage
    ]
    simulation = Simulation(settings, receivers, host="test", outages=outages)
    for number, silence in enumerate(case.silence, 1):
        simulation.engine.silences.put(silence.make(case.start, number))
    return simulation

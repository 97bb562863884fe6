"""Built-in rules over a week of twenty graphs: every fault is reported, and no other.

`python -m tests.agent.simulation.test_week` prints the figures of both weeks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import pytest
from tests.agent.simulation.company import (
    DAY,
    GRAPHS,
    HOUR,
    START,
    Company,
    Effect,
    Fault,
)

from kaywatch_agent.aggregate.change import StoredHistory
from kaywatch_agent.config import assemble
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.simulation.backtest import Episode, backtest, find_episodes
from kaywatch_agent.simulation.simulation import Simulation
from kaywatch_agent.units import duration

# A week takes half a minute of a core, and a busy machine takes its time.
pytestmark = pytest.mark.timeout(300)

HOOK = {"hook": {"type": "webhook", "url_file": "/run/secrets/hook"}}
RETRIES = Effect(retries=2)

# Faults from reports on agents in production, at any hour of the week.
REPORTED = (
    Fault("OpenHands: an action repeated", "agent0", 34, 1, Effect(visits=40),
          ("unusual_loop",)),
    Fault("OpenClaw: 1,535 equal calls", "agent1", 62, 2, Effect(looping=1535),
          ("runaway",)),
    Fault("rimz: a loop with a heartbeat", "agent2", 92, 1, Effect(looping=300),
          ("runaway",)),
    Fault("Temporal: attempts that fail in a row", "chat1", 27, 2, RETRIES,
          ("masked_failures",)),
    Fault("OpenLIT: tokens wasted on failures", "chat2", 132, 3, Effect(wasted=0.4),
          ("wasted_spend",)),
    Fault("clawmetry: twice the usual cost", "form0", 58, 4, Effect(cost=3.0),
          ("cost_per_run",)),
    Fault("tldraw: the cost of a weekend", "chat3", 153, 4, Effect(cost=3.0),
          ("cost_per_run",)),
    Fault("LangSmith: no run any more", "form1", 82, 6, Effect(stops=True),
          ("silent",)),
    Fault("exhausted fallbacks of a rare graph", "report", 104, 6, Effect(errors=0.9),
          ("low_traffic",)),
    Fault("Datadog: a cache that is missed", "chat5", 107, 2, Effect(seconds=5.0),
          ("slow",)),
)  # fmt: skip

# Faults that stored history shows.
STORED = (
    Fault("a node fails", "form2", 34, 3, Effect(errors=0.5),
          ("success_rate_min", "error_rate_max")),
    Fault("a rare graph fails", "report", 57, 8, Effect(errors=0.9), ("low_traffic",)),
    Fault("dead ends", "chat5", 61, 3, Effect(dead_ends=0.2), ("dead_end",)),
    Fault("hidden failures", "chat1", 75, 3, RETRIES, ("masked_failures",)),
    Fault("too slow", "chat4", 86, 3, Effect(seconds=9.0),
          ("avg_execution_time_max",)),
    Fault("slower than usual", "agent3", 82, 3, Effect(seconds=5.0), ("slow",)),
    Fault("a graph stops", "form1", 106, 6, Effect(stops=True), ("silent",)),
    Fault("other actions", "chat0", 110, 4, Effect(revise=0.6), ("drift",)),
    Fault("wasted money", "chat2", 132, 3, Effect(wasted=0.4), ("wasted_spend",)),
    Fault("dearer runs", "chat3", 153, 4, Effect(cost=3.0), ("cost_per_run",)),
)  # fmt: skip


WEEK = 7
# A short form, with the faults of its days.
DAYS = [3, pytest.param(WEEK, marks=pytest.mark.long)]


def until_day(days: int, faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """Return the faults that can be reported within so many days."""
    return tuple(one for one in faults if one.start + one.hours + 2 <= days * 24)


def simulate(faults: tuple[Fault, ...], days: int = WEEK) -> Simulation:
    """Let days pass on a virtual clock, after nine days without faults."""
    config = assemble({"receiver": HOOK})
    simulation = Simulation(config.alerts, config.notify.receivers)
    company = Company(faults)
    for hour in range(-9 * 24, 0):
        now = START + hour * HOUR
        company.advance(now, HOUR)
        simulation.evaluate(company.source.eval_input(now), HOUR)
    passed = 600.0
    for step in range(days * 144):
        now = START + step * 600.0
        company.advance(now, 600.0)
        simulation.evaluate(company.source.eval_input(now), passed)
        passed = 600.0
        # Alerts that wait for a minute fire now. If there is none, a minute later has
        # nothing new to evaluate.
        alerts = simulation.engine.store.alerts.values()
        if any(alert.lifecycle.state is AlertState.PENDING for alert in alerts):
            simulation.evaluate(company.source.eval_input(now + 60.0), 60.0)
            passed = 540.0
    return simulation


def store(faults: tuple[Fault, ...], days: int = WEEK) -> StoredHistory:
    """Return nine days, and days with faults, as the store has them.

    Those are hours, and minutes of the last day: of its last hours in the short form,
    because each minute is evaluated.
    """
    fine = DAY if days == WEEK else 2 * HOUR
    company = Company(faults)
    end, buckets = START + days * DAY, []
    time = START - 9 * DAY
    while time < end:
        length = HOUR if time < end - fine else 300.0
        # The last event of a bucket is near its end.
        company.advance(time + length - 10.0, length)
        time += length
    steps = company.source.steps()
    for number in sorted(steps):
        length = HOUR if number * 10 < end - fine else 60.0
        buckets.append((number * 10.0 // length * length, length, steps[number]))
    return StoredHistory(
        company.source.registry, buckets, buckets[0][0], end, company.source.failures
    )


def backtest_week(faults: tuple[Fault, ...], days: int = WEEK) -> list[Episode]:
    """Return what all built-in rules would have reported of the stored days."""
    history = store(faults, days)
    settings = assemble({"receiver": HOOK}).alerts
    receivers = assemble({"receiver": HOOK}).notify.receivers
    # What is usual is learned from the nine days before.
    report = backtest(settings, history, START, receivers=receivers)
    return find_episodes(report.simulation)


def is_about(episode: Episode, fault: Fault) -> bool:
    """Return whether an alert is about a fault: its graph, while it lasts or after."""
    begin = START + fault.start * HOUR
    # Windows are an hour long, and buckets of the past as well.
    end = begin + (fault.hours + 2) * HOUR
    return episode.labels.get("graph") == fault.graph and begin <= episode.start <= end


def judge(
    episodes: Iterable[Episode], faults: Sequence[Fault]
) -> tuple[dict[str, str], list[str]]:
    """Return after which time each fault was reported, and the false alarms."""
    week = [episode for episode in episodes if episode.start >= START]
    reported = {}
    for fault in faults:
        own = [
            episode
            for episode in week
            if is_about(episode, fault) and episode.rule in fault.rules
        ]
        if own:
            delay = own[0].start - START - fault.start * HOUR
            reported[fault.name] = f"{own[0].rule} after {duration(delay)}"
    false = [
        f"{episode.rule} {episode.labels} at {(episode.start - START) / HOUR:.1f} h"
        for episode in week
        if not any(is_about(episode, fault) for fault in faults)
    ]
    return reported, false


@pytest.mark.parametrize("days", DAYS)
def test_reported_faults_are_found_in_days_of_operation(days: int) -> None:
    faults = until_day(days, REPORTED)
    assert len(faults) >= 4
    reported, false = judge(find_episodes(simulate(faults, days)), faults)
    assert [*reported] == [fault.name for fault in faults]
    assert len(false) <= 1, false


@pytest.mark.parametrize("days", DAYS)
def test_a_backtest_of_stored_days_finds_each_fault(days: int) -> None:
    assert len(GRAPHS) == 20
    faults = until_day(days, STORED)
    assert len(faults) >= 3
    reported, false = judge(backtest_week(faults, days), faults)
    assert [*reported] == [fault.name for fault in faults]
    assert len(false) <= 1, false


def main() -> int:
    """Print the figures of both weeks."""
    worst = 0
    for title, episodes, faults in (
        ("seven days on a virtual clock", find_episodes(simulate(REPORTED)), REPORTED),
        ("backtest of a stored week", backtest_week(STORED), STORED),
    ):
        reported, false = judge(episodes, faults)
        print(f"{title}: {len(reported)} of {len(faults)}, {len(false)} false alarms")
        for fault in faults:
            print(f"| {fault.name} | {reported.get(fault.name, 'not reported')} |")
        print(*false[:20], sep="\n")
        worst = max(worst, len(faults) - len(reported), len(false) - 1)
    return int(worst > 0)


if __name__ == "__main__":
    sys.exit(main())

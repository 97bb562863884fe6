"""A past that never was, recorded by the store's own code."""

from __future__ import annotations

from pathlib import Path

from tests.agent.aggregate.samples import Event
from tests.agent.store.ticks import KEYS, NAMES, START, Ticks

from kaywatch_agent.model.series import EndPoint, Kind
from kaywatch_agent.store.store import Store

__all__ = ["BEGIN", "HOURS", "record"]

BEGIN = START - START % 3600
HOURS = 28
PAY = next(n for n, key in enumerate(KEYS) if key.kind is Kind.NODE)

# When a third of the executions failed, in seconds from the beginning.
OUTAGES = ((1 * 3600, 3 * 3600), (20 * 3600, 20 * 3600 + 900), (27.5 * 3600, 1e9))

# Seconds from one commit to the next; their number is what recording takes time for.
STEP = 600


def is_out(seconds: float) -> bool:
    """Return whether a third of the executions fail at this time."""
    return any(start <= seconds < end for start, end in OUTAGES)


def record(path: Path) -> None:
    """Record 28 hours: 30 executions a minute of one node, with three outages.

    One of two hours, of which only hours are left; one of a quarter of an hour, of
    which minutes are left; and one that lasts.
    """
    store = Store(path, synchronous="OFF")
    store.restore()
    ticks = Ticks()
    names = {**NAMES, "ends": [EndPoint("", "", "")]}
    sizes = {facet: len(values) for facet, values in names.items()}
    try:
        for start in range(0, HOURS * 3600, STEP):
            # In the last 10 s of each minute: each bucket takes time.
            events = [
                Event(PAY, BEGIN + at + 50 + n / 3, 0.2, int(is_out(at) and n % 3 == 0))
                for at in range(start, start + STEP, 60)
                for n in range(30)
            ]
            change = ticks.change(BEGIN + start + STEP, events)
            aggregate = change.aggregate._replace(names=names, sizes=sizes)
            store.commit(change._replace(aggregate=aggregate))
    finally:
        store.close()

"""What went away with its process or its data, so that its end was not observed.

Strategy: a value of processes in progress drops when a process dies, as it does when an
execution ends or memory is freed. The rules are evaluated without the process, and once
more with what was last known of it. If only the latter is a breach, an alert that fires
has not recovered: it has no data. A count drops to 0 when nothing runs any more, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from kaywatch_agent.model.client import Client
from kaywatch_agent.model.series import ClientState

__all__ = [
    "Departure",
    "departure",
    "has_departed",
    "lost_services",
    "newest",
    "unobserved",
]


class Departure(NamedTuple):
    """The last value of something that went away.

    Attributes:
        value: what the value would be with it.
        at: when it went away, Unix seconds.
        text: which process it was, for messages; may be empty.
        is_final: whether it cannot come back, because its process has died.
    """

    value: float
    at: float
    text: str = ""
    is_final: bool = False


def has_departed(client: Client) -> bool:
    """Return whether a process is gone without an orderly end, or may be gone."""
    return client.state in (ClientState.DIED, ClientState.DISCONNECTED)


def departure(client: Client, value: float) -> Departure:
    """Return the departure of a process that `has_departed`, with its last value."""
    is_dead = client.state is ClientState.DIED
    what = "died" if is_dead else "is disconnected"
    text = f"pid {client.pid} on {client.host} {what}"
    return Departure(value, client.since, text, is_dead)


def unobserved(now: float, text: str = "") -> Departure:
    """Return the departure of the data that would show whether a breach has ended."""
    return Departure(math.inf, now, text)


def lost_services(clients: Iterable[Client], after: float) -> dict[str, Departure]:
    """Return the services that lost their last process after a time, Unix seconds.

    What they count is 0 now, however high it was.
    """
    connected: set[str] = set()
    lost: dict[str, Departure] = {}
    for client in clients:
        if client.state is ClientState.CONNECTED:
            connected.add(client.service)
        elif has_departed(client) and client.since >= after:
            one = departure(client, math.inf)
            lost[client.service] = newest([one, lost.get(client.service, one)])
    return {name: one for name, one in lost.items() if name not in connected}


def newest(departures: Iterable[Departure]) -> Departure:
    """Return the departure that happened last."""
    return max(departures, key=lambda one: one.at)

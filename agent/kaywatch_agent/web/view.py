"""What the web stage reads of the agent, and whom it asks to change something."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from kaywatch_agent.aggregate.aggregator import Aggregator
from kaywatch_agent.aggregate.clients import Clients
from kaywatch_agent.aggregate.event_stream import EventStream
from kaywatch_agent.aggregate.view import View
from kaywatch_agent.model.client import Client
from kaywatch_agent.notify.delivery import Delivery
from kaywatch_agent.rules.loop import Alerting
from kaywatch_agent.runtime.health import Health

__all__ = ["AgentView"]


@dataclass(frozen=True)
class AgentView:
    """The agent as the web stage sees it; used on the event loop only.

    Attributes:
        socket: returns the path of the socket that clients push to.
        health: the readiness of each stage.
        event_stream: single events, for those who listen.
        alerting: alerts, rules and silences.
        delivery: messages and receivers.
        aggregator: all that was aggregated.
        known_clients: those that are here or left lately.
        clock: returns Unix seconds.
        wait_durable: waits until all that was changed is durable; returns why it is
            not, empty if it is.
    """

    socket: Callable[[], str]
    health: Health
    event_stream: EventStream
    alerting: Alerting
    delivery: Delivery
    aggregator: Aggregator
    known_clients: Clients
    clock: Callable[[], float]
    wait_durable: Callable[[], Awaitable[str]]

    def view(self) -> View:
        """Return a picture of all that was aggregated up to the last tick."""
        return self.aggregator.view(self.clock())

    def clients(self) -> Iterable[Client]:
        """Return the known clients."""
        return self.known_clients

"""The web server's view of the agent: the data it reads, the components it changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kaywatch_agent.aggregate.event_stream import EventStream
from kaywatch_agent.aggregate.view import View
from kaywatch_agent.model.client import Client
from kaywatch_agent.notify.delivery import Delivery
from kaywatch_agent.rules.loop import Alerting
from kaywatch_agent.rules.rule import Rule
from kaywatch_agent.runtime.health import Health

__all__ = [
    "AgentUsage",
    "AgentView",
    "BacktestError",
    "BacktestSummary",
    "PastEpisode",
]


class AgentUsage(NamedTuple):
    """The agent's work and its use of resources.

    Attributes:
        events: accepted since the store was created.
        memory_bytes: resident memory of the agent's process.
        store_bytes: size of the store; 0 without a store.
        cpu_seconds: CPU time that the agent's process used so far.
    """

    events: int
    memory_bytes: int
    store_bytes: int
    cpu_seconds: float


class BacktestError(Exception):
    """A backtest is not possible now; the text is the reason."""


class PastEpisode(NamedTuple):
    """A period in which an alert would have fired; `end` is None while it lasts."""

    alert: str
    labels: Mapping[str, str]
    start: float
    end: float | None
    value: float | None


class BacktestSummary(NamedTuple):
    """The result of a backtest of one rule.

    Attributes:
        start, end: the period, Unix seconds.
        evaluations: the number of evaluations.
        episodes: in the order in which they started.
        notifications: messages that a firing alert would have sent, with repeats.
        skipped: why the rule cannot be evaluated over the past; empty if it can.
    """

    start: float
    end: float
    evaluations: int
    episodes: Sequence[PastEpisode]
    notifications: int
    skipped: str


@dataclass(frozen=True)
class AgentView:
    """The agent as the web server sees it; used on the event loop only.

    Attributes:
        health: the readiness of each stage.
        event_stream: single events, for subscribers.
        alerting: alerts, rules and silences.
        delivery: messages and receivers.
        view: returns the data that was aggregated up to the last tick.
        clients: the connected clients, and clients that left recently.
        socket: returns the path of the socket that clients push to.
        usage: returns the agent's use of resources.
        clock: returns Unix seconds.
        backtest: evaluates a rule over the past since a time; called in a thread. It
            raises `BacktestError`.
        reload: reads and applies the configuration; returns the errors, if nothing was
            changed.
        wait_durable: waits until all changes are durable; returns the reason if they
            are not, else an empty string.
    """

    health: Health
    event_stream: EventStream
    alerting: Alerting
    delivery: Delivery
    view: Callable[[], View]
    clients: Iterable[Client]
    socket: Callable[[], str]
    usage: Callable[[], AgentUsage]
    clock: Callable[[], float]
    backtest: Callable[[Rule, float], BacktestSummary]
    reload: Callable[[], list[str]]
    wait_durable: Callable[[], Awaitable[str]]

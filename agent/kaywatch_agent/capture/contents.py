"""What a capture holds, counted without an agent."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from kaywatch_agent.capture.recording import Reader
from kaywatch_agent.protocol.batches import BatchReader
from kaywatch_agent.protocol.columns import Checked
from kaywatch_agent.protocol.decoder import decode
from kaywatch_agent.protocol.messages import Batch, Bye, Hello, Message

__all__ = ["Contents", "Service", "examine"]


class Service(msgspec.Struct):
    """One service's share of a capture."""

    service: str
    processes: int = 0
    batches: int = 0
    executions: int = 0
    runs: int = 0
    points: int = 0
    failures: int = 0
    dropped: dict[str, int] = {}

    @property
    def events(self) -> int:
        """Executions, runs and points."""
        return self.executions + self.runs + self.points


class Contents(msgspec.Struct):
    """What a capture holds.

    Attributes:
        agent: the version of the agent that took it.
        redacted: whether texts were replaced.
        started: when the first message came, Unix seconds; None if none did.
        ended: when the last one did.
        connections: how many there were.
        messages: how many there are, by type.
        bytes: of all messages.
        services: by name.
        missed: messages that were left out, as the capture did not keep up.
        problem: why it could not be read to its end, empty if it could.
    """

    agent: str
    redacted: bool
    started: float | None = None
    ended: float | None = None
    connections: int = 0
    messages: dict[str, int] = {}
    bytes: int = 0
    services: list[Service] = []
    missed: int = 0
    problem: str = ""

    @property
    def events(self) -> int:
        """Of all services."""
        return sum(service.events for service in self.services)


def examine(reader: Reader) -> Contents:
    """Read a capture to its end, and return what it holds."""
    count = _Count()
    found = Contents(reader.header.agent, reader.header.redacted)
    connections, types = set(), Counter[str]()
    for at, connection, message in reader:
        connections.add(connection)
        if message is None:
            continue
        found.started = at if found.started is None else found.started
        found.ended = at
        found.bytes += len(message)
        types[count.take(message, connection)] += 1
    found.connections = len(connections)
    found.messages = dict(types)
    found.services = sorted(count.services.values(), key=lambda one: one.service)
    for service, clients in count.clients().items():
        count.services[service].processes = clients
    found.missed, found.problem = reader.missed, reader.problem
    return found


class _Count:
    """Counts messages by service."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self._reader = BatchReader()
        self._service: dict[str, str] = {}  # by client

    def take(self, encoded: bytes, connection: int) -> str:
        """Count a message; return its type."""
        message: Message = decode(encoded)
        match message:
            case Hello():
                self._of(message.client, message.service)
            case Batch():
                # Who never says who it is is one process for each connection.
                client = message.client or f"connection {connection}"
                self._batch(message, self._of(client, message.service))
            case Bye():
                _add(self._of(message.client, "").dropped, dict(message.drops))
        return type(message).__name__.lower()

    def clients(self) -> Counter[str]:
        """Return how many processes each service has."""
        return Counter(self._service.values())

    def _of(self, client: str, service: str) -> Service:
        name = service or self._service.get(client, "unknown")
        self._service[client] = name
        return self.services.setdefault(name, Service(name))

    def _batch(self, batch: Batch, into: Service) -> None:
        checked = Checked()
        into.batches += 1
        into.failures += len(self._reader.details(batch, checked).failures)
        _add(into.dropped, dict(batch.drops))
        for joined in self._reader.events([batch], [""], [checked]):
            into.executions += sum(joined.executions)
            into.points += sum(joined.points)
            into.runs += sum(joined.runs)


def _add(counts: dict[str, int], more: dict[str, Any]) -> None:
    for key, count in more.items():
        counts[key] = counts.get(key, 0) + count

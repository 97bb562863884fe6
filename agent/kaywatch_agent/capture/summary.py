"""Summarizes the content of a capture, without an agent."""

from __future__ import annotations

from collections import Counter

import msgspec

from kaywatch_agent.capture.file import CaptureReader
from kaywatch_agent.protocol.batches import BatchReader
from kaywatch_agent.protocol.columns import BatchErrors
from kaywatch_agent.protocol.decoder import decode
from kaywatch_agent.protocol.messages import Batch, Bye, Hello

__all__ = ["CaptureSummary", "ServiceSummary", "summarize"]


class ServiceSummary(msgspec.Struct):
    """The valid events of one service."""

    service: str
    processes: int = 0
    batches: int = 0
    executions: int = 0
    runs: int = 0
    points: int = 0
    failures: int = 0
    dropped: Counter[str] = msgspec.field(default_factory=Counter)


class CaptureSummary(msgspec.Struct):
    """The content of a capture.

    Attributes:
        agent: the version of the agent that it was recorded from.
        redacted: whether texts were replaced.
        started: when the first message arrived, Unix seconds; None without messages.
        ended: when the last message arrived.
        connections: the number of connections.
        messages: the number of messages by type.
        bytes: of all messages.
        services: what each service sent, by name.
        missed: the number of messages that the capture did not record.
        problem: why the file could not be read to its end; empty if it could.
    """

    agent: str
    redacted: bool
    started: float | None = None
    ended: float | None = None
    connections: int = 0
    messages: Counter[str] = msgspec.field(default_factory=Counter)
    bytes: int = 0
    services: list[ServiceSummary] = []
    missed: int = 0
    problem: str = ""


def summarize(reader: CaptureReader) -> CaptureSummary:
    """Read a capture to its end, and return a summary of its content."""
    summary = CaptureSummary(reader.header.agent, reader.header.redacted)
    counter = _ServiceCounter()
    connections = set()
    for at, connection, message in reader:
        connections.add(connection)
        if message is None:
            continue
        summary.started = at if summary.started is None else summary.started
        summary.ended = at
        summary.bytes += len(message)
        summary.messages[counter.add(message, connection)] += 1
    summary.connections = len(connections)
    summary.services = counter.summaries()
    summary.missed, summary.problem = reader.missed, reader.problem
    return summary


class _ServiceCounter:
    """Counts events by service."""

    def __init__(self) -> None:
        self._summaries: dict[str, ServiceSummary] = {}
        self._service_of: dict[str, str] = {}  # by client
        # The agent's own decoder, so that events that the agent rejects do not count.
        self._reader = BatchReader()

    def add(self, encoded: bytes, connection: int) -> str:
        """Count a message; return its type."""
        message = decode(encoded)
        match message:
            case Hello():
                self._summary(message.client, message.service)
            case Batch():
                # Clients without an id count as one process per connection.
                client = message.client or f"connection {connection}"
                self._add_batch(message, self._summary(client, message.service))
            case Bye():
                self._summary(message.client, "").dropped.update(message.drops)
        return type(message).__name__.lower()

    def summaries(self) -> list[ServiceSummary]:
        """Return the content that each service sent, by name."""
        for service, processes in Counter(self._service_of.values()).items():
            self._summaries[service].processes = processes
        return [summary for _, summary in sorted(self._summaries.items())]

    def _summary(self, client: str, service: str) -> ServiceSummary:
        name = service or self._service_of.get(client, "unknown")
        self._service_of[client] = name
        return self._summaries.setdefault(name, ServiceSummary(name))

    def _add_batch(self, batch: Batch, summary: ServiceSummary) -> None:
        checked = BatchErrors()
        summary.batches += 1
        summary.failures += len(self._reader.details(batch, checked).failures)
        summary.dropped.update(batch.drops)
        for joined in self._reader.events([batch], [""], [checked]):
            summary.executions += sum(joined.executions)
            summary.points += sum(joined.points)
            summary.runs += sum(joined.runs)

"""One batch decoded by itself: what the joined path makes of it, as one value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from kaywatch.wire import ErrorCode
from kaywatch_agent.protocol import decoder, messages
from kaywatch_agent.protocol.batches import BatchReader
from kaywatch_agent.protocol.columns import BatchErrors
from kaywatch_agent.protocol.messages import Executions, Points, Runs
from kaywatch_agent.protocol.table import Table

__all__ = ["Batch", "Decoder", "Message"]


class Batch(NamedTuple):
    """A batch: its valid part, and the errors of the rest."""

    client: str
    seq: int | None
    sent: float | None
    service: str
    recorded: int
    drops: Mapping[str, int]
    table: Table
    executions: Executions | None
    points: Points | None
    runs: Runs | None
    failures: Any
    topologies: Any
    in_flight: Any
    rejected: Counter[ErrorCode]
    problem: str
    loops: Any = None
    looped: Any = ()
    process: Any = None


Message = messages.Message | Batch


class Decoder:
    """Decodes messages, batches included."""

    def __init__(self) -> None:
        self._reader = BatchReader()

    def decode(self, frame: bytes) -> Any:
        message = decoder.decode(frame)
        if not isinstance(message, messages.Batch):
            return message
        checked = BatchErrors()
        joined = list(self._reader.events([message], [message.service], [checked]))
        events = (
            joined[0].events if joined else messages.Events(Table([""], [], [], []))
        )
        details = self._reader.details(message, checked)
        return Batch(
            *message[:6],
            table=events.table,
            executions=events.executions,
            points=events.points,
            runs=events.runs,
            rejected=checked.rejected,
            problem=checked.problem,
            **details._asdict(),
        )

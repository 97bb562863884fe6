"""Sends the messages of a capture to an agent, as the captured clients did.

Strategy: one task sends all messages in the captured order, each over a connection that
corresponds to the captured one. One task per connection reads the replies. If a client
continues over another connection, sending waits until its earlier batches are
acknowledged, because they could arrive out of order. The bytes that await
acknowledgement are bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from kaywatch import wire
from kaywatch_agent.capture.file import CaptureReader, CaptureRecord
from kaywatch_agent.capture.rewrite import (
    MessageRewriter,
    RewrittenMessage,
    send_offset,
)
from kaywatch_agent.errors import CaptureError
from kaywatch_agent.protocol.framing import FrameReader

__all__ = ["ReplayProgress", "replay"]

# Bytes that may await acknowledgement: about 100 full batches.
MAX_UNACKNOWLEDGED: Final = 16 * 1024 * 1024

# An agent commits every second; a slow disk takes a few.
TIMEOUT_SECONDS: Final = 30.0
SHOW_SECONDS: Final = 0.2
READ_BYTES: Final = 65_536


@dataclass
class ReplayProgress:
    """The progress of a replay, and the agent's answers.

    Attributes:
        messages: sent messages.
        events: the events in these messages.
        acknowledged: events of batches that the agent has committed.
        connections: opened connections.
        clients: client ids used.
        unusable: malformed messages of the capture, which were not sent.
        errors: the agent's errors by code.
        error_texts: the text of the first error of each code.
        refused: batches that the agent rejected.
        slow_requests: how often the agent asked for less data.
        max_delay: the largest delay of a message, in seconds.
        seconds: the time since the start.
    """

    messages: int = 0
    events: int = 0
    acknowledged: int = 0
    connections: int = 0
    clients: int = 0
    unusable: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    error_texts: dict[str, str] = field(default_factory=dict)
    refused: int = 0
    slow_requests: int = 0
    max_delay: float = 0.0
    seconds: float = 0.0


def replay(
    reader: CaptureReader,
    endpoint: str,
    *,
    speed: float,
    keep_times: bool,
    salt: bytes,
    show: Callable[[ReplayProgress], None],
) -> ReplayProgress:
    """Send all messages of a capture, and wait until the agent has committed them.

    Args:
        reader: the capture.
        endpoint: the path of the agent's socket.
        speed: the factor by which to be faster than the capture; infinite for as fast
            as the agent acknowledges.
        keep_times: whether events keep their times; otherwise they are shifted to now.
        salt: distinguishes this replay's clients from those of any other replay.
        show: called several times a second.

    Raises:
        CaptureError: no agent listens, or it goes away during the replay.
    """
    work = _CaptureReplay(endpoint, speed, keep_times, MessageRewriter(salt), show)
    return asyncio.run(work.run(reader))


class _AgentLost(Exception):
    """The agent closed the connection, is silent, or is not an agent."""


class _SentBatch(NamedTuple):
    seq: int
    size: int
    events: int


@dataclass
class _ReplayedClient:
    """A client, and its batches that await acknowledgement."""

    connection: _Connection | None = None
    unacknowledged: deque[_SentBatch] = field(default_factory=deque)
    last_seq: int = 0
    bye_sent: bool = False


# Compared by identity, because equal connections are still different.
@dataclass(eq=False)
class _Connection:
    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    clients: dict[bytes, _ReplayedClient] = field(default_factory=dict)
    ended: bool = False  # in the capture: close it once everything is acknowledged
    closed: bool = False

    @property
    def drained(self) -> bool:
        return not any(client.unacknowledged for client in self.clients.values())

    async def send(self, message: bytes) -> None:
        self.writer.write(wire.frame(message))
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await self.writer.drain()
        except TimeoutError:
            raise _AgentLost(f"has read nothing for {TIMEOUT_SECONDS:.0f} s") from None

    def close(self) -> None:
        self.closed = True
        self.writer.close()


class _CaptureReplay:
    def __init__(
        self,
        endpoint: str,
        speed: float,
        keep_times: bool,
        rewriter: MessageRewriter,
        show: Callable[[ReplayProgress], None],
    ) -> None:
        self._progress = ReplayProgress()
        self._endpoint = endpoint
        self._speed = speed
        self._keep_times = keep_times
        self._rewriter = rewriter
        self._show = show
        self._connections: dict[int, _Connection] = {}
        self._clients: dict[bytes, _ReplayedClient] = {}
        self._unacknowledged = 0  # bytes
        self._answered = asyncio.Event()  # a batch was acknowledged or refused
        self._started = time.monotonic()
        self._shown = 0.0

    async def run(self, reader: CaptureReader) -> ReplayProgress:
        problem = ""
        try:
            async with asyncio.TaskGroup() as readers:
                first = None
                for record in reader:
                    # The first record's time rather than the header's: a capture may
                    # start long before the first message.
                    first = record.at if first is None else first
                    await self._pace(send_offset(record.at, first, self._speed))
                    await self._replay(record, readers)
                await self._wait_until(lambda: not self._unacknowledged)
                await self._send_byes()
        except* (_AgentLost, OSError) as group:
            problem = next(_reasons(group), "closed the connection")
        finally:
            for connection in self._connections.values():
                # Closing normally would wait for an agent that no longer reads.
                connection.writer.transport.abort()
        self._show_progress()
        if problem:
            raise CaptureError(self._describe_loss(problem))
        return self._progress

    # -- sending -----------------------------------------------------------------------

    async def _replay(self, record: CaptureRecord, readers: asyncio.TaskGroup) -> None:
        connection = self._connections.get(record.connection)
        if record.message is None:
            if connection is not None:
                connection.ended = True
                self._close_if_drained(connection)
            return
        shift = 0.0 if self._keep_times else time.time() - record.at
        out = self._rewriter.rewrite(record.message, record.connection, shift)
        if out is None:
            self._progress.unusable += 1
            return
        if connection is None:
            connection = await self._connect(record.connection)
            readers.create_task(self._read(connection))
        if out.client:
            # The batch is registered before it is sent: its ack may arrive before
            # `send` returns.
            await self._register(out, connection)
        await connection.send(out.message)
        self._progress.messages += 1
        self._progress.events += out.events

    async def _pace(self, offset: float) -> None:
        """Wait until `offset` seconds after the start, or record the delay."""
        while (early := self._started + offset - time.monotonic()) > 0:
            await asyncio.sleep(min(early, SHOW_SECONDS))
            self._show_progress()
        if self._speed != float("inf"):
            self._progress.max_delay = max(self._progress.max_delay, -early)
        self._show_progress()
        # Sending resumes at half of the limit, so that sending and commits overlap.
        if self._unacknowledged > MAX_UNACKNOWLEDGED:
            limit = MAX_UNACKNOWLEDGED // 2
            await self._wait_until(lambda: self._unacknowledged < limit)

    async def _connect(self, number: int) -> _Connection:
        try:
            reader, writer = await asyncio.open_unix_connection(self._endpoint)
        except OSError as error:
            raise _AgentLost(f"cannot be reached: {error.strerror}") from None
        connection = self._connections[number] = _Connection(number, reader, writer)
        self._progress.connections += 1
        return connection

    async def _register(self, out: RewrittenMessage, connection: _Connection) -> None:
        """Account for a client's message before it is sent."""
        client = self._clients.get(out.client)
        if client is None:
            client = self._clients[out.client] = _ReplayedClient()
            self._progress.clients += 1
        if client.connection is not connection:
            if client.connection is not None:
                # Another connection is another stream: a later batch could overtake an
                # earlier one, which the agent would then take for a duplicate.
                await self._wait_until(lambda: not client.unacknowledged)
                client.connection.clients.pop(out.client, None)
            client.connection = connection
            connection.clients[out.client] = client
        client.bye_sent = out.type == "bye"
        # A captured client that sent a batch again gets only one acknowledgement for
        # it.
        if out.seq > client.last_seq:
            client.last_seq = out.seq
            batch = _SentBatch(out.seq, len(out.message), out.events)
            client.unacknowledged.append(batch)
            self._unacknowledged += batch.size

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for replies; request a commit, because a tick may be a second away.

        Raises:
            _AgentLost: nothing was acknowledged in time.
        """
        while not condition():
            self._answered.clear()
            for connection in self._connections.values():
                if not connection.drained:
                    await connection.send(wire.flush(b""))
                    break  # one commit covers all clients
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await self._answered.wait()
            except TimeoutError:
                raise _AgentLost(
                    f"has acknowledged nothing for {TIMEOUT_SECONDS:.0f} s"
                ) from None
            self._show_progress()

    async def _send_byes(self) -> None:
        """End clients that were connected when the capture ended; they did not die."""
        connections = list(self._connections.values())
        for connection in connections:
            for client_id, client in connection.clients.items():
                if not client.bye_sent:
                    await connection.send(wire.bye(client_id, client.last_seq))
        for connection in connections:
            connection.close()
        for connection in connections:
            with contextlib.suppress(OSError):
                await connection.writer.wait_closed()
        self._connections.clear()

    def _close_if_drained(self, connection: _Connection) -> None:
        if connection.ended and connection.drained and not connection.closed:
            del self._connections[connection.number]
            connection.close()

    # -- receiving ---------------------------------------------------------------------

    async def _read(self, connection: _Connection) -> None:
        frames = FrameReader()
        while data := await connection.reader.read(READ_BYTES):
            for frame in frames.receive(data):
                if not isinstance(frame, bytes):
                    raise _AgentLost("is not an agent")
                self._receive(wire.decode(frame), connection)
        if not connection.closed:
            raise _AgentLost("closed the connection")

    def _receive(self, message: dict[str, Any], connection: _Connection) -> None:
        match message.get("type"):
            case "ack":
                client = connection.clients.get(message["client"])
                if client is not None:
                    self._acknowledge(client, message["seq"])
            # A replay must not slow down, because it shows how the agent copes with the
            # captured load.
            case "slow":
                self._progress.slow_requests += 1
                return
            case "error":
                self._count_error(message, connection)
        self._close_if_drained(connection)
        self._answered.set()

    def _acknowledge(self, client: _ReplayedClient, seq: int) -> None:
        while client.unacknowledged and client.unacknowledged[0].seq <= seq:
            batch = client.unacknowledged.popleft()
            self._unacknowledged -= batch.size
            self._progress.acknowledged += batch.events

    def _count_error(self, message: dict[str, Any], connection: _Connection) -> None:
        code = str(message.get("code"))
        self._progress.errors[code] += 1
        self._progress.error_texts.setdefault(code, str(message.get("text", "")))
        for client in connection.clients.values():
            for batch in client.unacknowledged:
                # A refused batch is never acknowledged, so waiting for it would end in
                # a timeout.
                if batch.seq == message.get("seq"):
                    client.unacknowledged.remove(batch)
                    self._unacknowledged -= batch.size
                    self._progress.refused += 1
                    return

    def _show_progress(self) -> None:
        now = time.monotonic()
        self._progress.seconds = now - self._started
        if now - self._shown >= SHOW_SECONDS:
            self._shown = now
            self._show(self._progress)

    def _describe_loss(self, problem: str) -> str:
        progress = self._progress
        return (
            f"the agent at {self._endpoint} {problem}, after {progress.messages:,}"
            f" messages; it acknowledged {progress.acknowledged:,} of their"
            f" {progress.events:,} events. Another replay counts all of them again"
        )


def _reasons(group: BaseExceptionGroup[BaseException]) -> Iterator[str]:
    """Yield the problems with the agent, from the errors of the tasks."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _reasons(error)
        elif isinstance(error, _AgentLost):
            yield str(error)

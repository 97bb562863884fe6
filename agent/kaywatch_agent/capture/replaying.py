"""Plays a capture into an agent, as the clients that it was taken from.

Strategy: one task sends, in the order of the capture, each captured connection over one
of its own; a task for each connection reads what comes back. A client that goes on over
another connection waits until what it sent over the last one is acknowledged, or its
numbers could arrive out of order. What is not acknowledged yet is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from kaywatch import wire
from kaywatch_agent.capture.copying import Copier, Outgoing, due
from kaywatch_agent.capture.recording import Reader, Record
from kaywatch_agent.errors import CaptureError
from kaywatch_agent.protocol.framing import FrameReader

__all__ = ["Replayed", "replay"]

# Bytes that may wait for their acks: some 100 full batches.
MAX_UNACKNOWLEDGED: Final = 16 * 1024 * 1024

# An agent that is alive commits within a second, on a slow disk within some.
PATIENCE_SECONDS: Final = 30.0
SHOW_SECONDS: Final = 0.2
READ_BYTES: Final = 65_536


@dataclass
class Replayed:
    """What has been sent so far, and what the agent said to it.

    Attributes:
        messages: that were sent.
        events: that they hold.
        acknowledged: events of batches that the agent has committed.
        connections: that were opened.
        clients: ids that the agent sees.
        unusable: messages of the capture that no agent would take.
        errors: the agent's, by code.
        texts: what it says of the first of each code.
        refused: batches that it refused for good.
        slow: how often it asked to be sent less.
        behind: how late a message was sent at most, in seconds.
        seconds: since the start.
    """

    messages: int = 0
    events: int = 0
    acknowledged: int = 0
    connections: int = 0
    clients: int = 0
    unusable: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    texts: dict[str, str] = field(default_factory=dict)
    refused: int = 0
    slow: int = 0
    behind: float = 0.0
    seconds: float = 0.0


def replay(
    reader: Reader,
    endpoint: str,
    *,
    speed: float,
    keep_times: bool,
    salt: bytes,
    show: Callable[[Replayed], None],
    clock: Callable[[], float] = time.time,
) -> Replayed:
    """Send all of a capture, and wait until it is acknowledged.

    Args:
        reader: the capture.
        endpoint: the agent's socket.
        speed: how many times faster than it came; infinite for as fast as can be.
        keep_times: whether events stay when they were; else they are now.
        salt: what makes this replay's clients others than those of any other.
        show: called with the state from time to time.
        clock: Unix seconds.

    Raises:
        CaptureError: there is no agent, or it is lost meanwhile.
    """
    work = _Replay(endpoint, speed, None if keep_times else clock, Copier(salt), show)
    return asyncio.run(work.run(reader))


class _Lost(Exception):
    """The agent hung up."""


@dataclass
class _Sender:
    """What one client has sent, and not been acknowledged."""

    line: _Line | None = None
    waiting: deque[tuple[int, int, int]] = field(default_factory=deque)
    sent: int = 0  # the highest number
    greeted: bool = True  # its connection has not ended, nor has it said goodbye


class _Line:
    """One connection."""

    def __init__(
        self,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer
        self.senders: dict[bytes, _Sender] = {}
        self.ending = False  # to be closed once all is acknowledged
        self.closing = False

    @property
    def settled(self) -> bool:
        return not any(sender.waiting for sender in self.senders.values())

    async def send(self, message: bytes) -> None:
        self.writer.write(wire.frame(message))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.writer.drain()


class _Replay:
    def __init__(
        self,
        endpoint: str,
        speed: float,
        clock: Callable[[], float] | None,
        copier: Copier,
        show: Callable[[Replayed], None],
    ) -> None:
        self.state = Replayed()
        self._endpoint = endpoint
        self._speed = speed
        self._clock = clock
        self._copier = copier
        self._show = show
        self._lines: dict[int, _Line] = {}
        self._senders: dict[bytes, _Sender] = {}
        self._unacknowledged = 0  # bytes
        self._heard = asyncio.Event()  # something was acknowledged or refused
        self._readers: asyncio.TaskGroup
        self._started = 0.0
        self._first: float | None = None
        self._shown = 0.0

    async def run(self, reader: Reader) -> Replayed:
        self._started = time.monotonic()
        problem = ""
        try:
            async with asyncio.TaskGroup() as self._readers:
                for record in reader:
                    await self._record(record)
                await self._settle(lambda: not self._unacknowledged)
                await self._goodbye()
        except* (_Lost, OSError) as lost:
            problem = _reason(lost)
        finally:
            for line in self._lines.values():
                line.writer.transport.abort()
        self._note()
        if problem:
            raise CaptureError(self._lost(problem))
        return self.state

    # -- out ---------------------------------------------------------------------------

    async def _record(self, record: Record) -> None:
        self._first = record.at if self._first is None else self._first
        await self._wait(due(record.at, self._first, self._speed))
        if record.message is None:
            self._end(self._lines.get(record.connection))
            return
        shift = self._clock() - record.at if self._clock is not None else 0.0
        out = self._copier.copy(record.message, record.connection, shift)
        if out is None:
            self.state.unusable += 1
            return
        line = await self._line(record.connection)
        if out.client:
            await self._prepare(out, line)
        await line.send(out.message)
        self.state.messages += 1
        self.state.events += out.events

    async def _wait(self, seconds: float) -> None:
        """Wait until so many seconds after the start, or note how late it is."""
        while (early := self._started + seconds - time.monotonic()) > 0:
            await asyncio.sleep(min(early, SHOW_SECONDS))
            self._note()
        if self._speed != float("inf"):
            self.state.behind = max(self.state.behind, -early)
        self._note()
        if self._unacknowledged > MAX_UNACKNOWLEDGED:
            await self._settle(lambda: self._unacknowledged < MAX_UNACKNOWLEDGED // 2)

    async def _prepare(self, out: Outgoing, line: _Line) -> None:
        """Account for a client's message before it is sent."""
        sender = self._senders.get(out.client)
        if sender is None:
            sender = self._senders[out.client] = _Sender()
            self.state.clients += 1
        if sender.line is not line:
            if sender.line is not None:
                await self._settle(lambda: not sender.waiting)
                sender.line.senders.pop(out.client, None)
            sender.line = line
            line.senders[out.client] = sender
        sender.greeted = out.type != "bye"
        if out.seq > sender.sent:
            sender.sent = out.seq
            sender.waiting.append((out.seq, len(out.message), out.events))
            self._unacknowledged += len(out.message)

    async def _line(self, connection: int) -> _Line:
        line = self._lines.get(connection)
        if line is None:
            try:
                pair = await asyncio.open_unix_connection(self._endpoint)
            except OSError as error:
                raise _Lost(f"can't be connected to: {error.strerror}") from None
            line = self._lines[connection] = _Line(connection, *pair)
            self.state.connections += 1
            self._readers.create_task(self._read(line))
        return line

    def _end(self, line: _Line | None) -> None:
        """Hang up as that connection did, now or once all is acknowledged."""
        if line is not None:
            line.ending = True
            self._close_settled(line)

    def _close_settled(self, line: _Line) -> None:
        if line.ending and line.settled and not line.closing:
            del self._lines[line.number]
            line.closing = True
            line.writer.close()

    async def _settle(self, done: Callable[[], bool]) -> None:
        """Wait for acks; ask for them, since the agent's tick may be a second away."""
        while not done():
            self._heard.clear()
            for line in self._lines.values():
                if not line.settled:
                    await line.send(wire.flush(b""))
                    break  # a commit is of all clients
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._heard.wait()
            except TimeoutError:
                patience = f"{PATIENCE_SECONDS:.0f} s"
                raise _Lost(
                    f"acknowledges nothing any more; waited {patience}"
                ) from None
            self._note()

    async def _goodbye(self) -> None:
        """Say for the clients that were there in the end that they did not die."""
        for line in self._lines.values():
            for client, sender in line.senders.items():
                if sender.greeted:
                    await line.send(wire.bye(client, sender.sent))
        for line in self._lines.values():
            line.closing = True
            line.writer.close()
        for line in self._lines.values():
            with contextlib.suppress(OSError):
                await line.writer.wait_closed()
        self._lines.clear()

    # -- in ----------------------------------------------------------------------------

    async def _read(self, line: _Line) -> None:
        frames = FrameReader()
        while data := await line.reader.read(READ_BYTES):
            for frame in frames.receive(data):
                if not isinstance(frame, bytes):
                    raise _Lost("sends what no agent would")
                self._hear(wire.decode(frame), line)
        if not line.closing:
            raise _Lost("hung up")

    def _hear(self, said: dict[str, Any], line: _Line) -> None:
        match said.get("type"):
            case "ack":
                sender = line.senders.get(said["client"])
                if sender is not None:
                    self._acknowledged(sender, said["seq"])
            case "slow":
                self.state.slow += 1
            case "error":
                self._refused(said, line)

    def _acknowledged(self, sender: _Sender, seq: int) -> None:
        waiting = sender.waiting
        while waiting and waiting[0][0] <= seq:
            _, size, events = waiting.popleft()
            self._unacknowledged -= size
            self.state.acknowledged += events
        if sender.line is not None:
            self._close_settled(sender.line)
        self._heard.set()

    def _refused(self, said: dict[str, Any], line: _Line) -> None:
        code = str(said.get("code"))
        self.state.errors[code] += 1
        self.state.texts.setdefault(code, str(said.get("text", "")))
        seq = said.get("seq")
        for sender in line.senders.values():
            found = next((item for item in sender.waiting if item[0] == seq), None)
            if found is not None:
                sender.waiting.remove(found)
                self._unacknowledged -= found[1]
                self.state.refused += 1
                break
        self._close_settled(line)
        self._heard.set()

    def _note(self) -> None:
        now = time.monotonic()
        self.state.seconds = now - self._started
        if now - self._shown >= SHOW_SECONDS:
            self._shown = now
            self._show(self.state)

    def _lost(self, problem: str) -> str:
        state = self.state
        return (
            f"the agent at {self._endpoint} {problem}, after {state.messages:,}"
            f" messages; of their {state.events:,} events, {state.acknowledged:,} are"
            " acknowledged. A new replay counts all of them again"
        )


def _reason(lost: BaseExceptionGroup[BaseException]) -> str:
    """Return what the agent did, from the errors that it made."""
    errors: list[BaseException] = list(lost.exceptions)
    while errors:
        error = errors.pop(0)
        if isinstance(error, BaseExceptionGroup):
            errors += error.exceptions
        elif isinstance(error, _Lost):
            return str(error)
        elif isinstance(error, TimeoutError):
            return f"reads nothing any more; waited {PATIENCE_SECONDS:.0f} s"
    return "hung up"

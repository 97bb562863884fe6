"""Records the messages that an agent receives into a capture file."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

from kaywatch import wire
from kaywatch_agent.capture.file import (
    FORMAT,
    CaptureHeader,
    CaptureRecord,
    CaptureWriter,
)
from kaywatch_agent.capture.redact import MessageRedactor
from kaywatch_agent.capture.rewrite import count_events
from kaywatch_agent.errors import CaptureError
from kaywatch_agent.protocol.framing import FrameReader

__all__ = ["CaptureProgress", "record"]

# The agent sends something every second, even when no client sends anything.
SILENCE_SECONDS: Final = 10.0
# After a `kill -9`, at most a second of messages is missing from the file.
FLUSH_SECONDS: Final = 1.0
# Ctrl-C and the limits of time and size take effect within this time.
POLL_SECONDS: Final = 0.2
READ_BYTES: Final = 1024 * 1024

# The agent's copy of a message can be larger than the message by this many bytes.
ENVELOPE: Final = 1_024


class CaptureProgress(NamedTuple):
    """The progress of a capture.

    Attributes:
        messages: recorded messages.
        events: the number of events in these messages.
        size: the size of the file in bytes.
        missed: messages that the agent left out because the capture was too slow.
        unredacted: messages left out because they could not be redacted.
        seconds: the time since the start.
        problem: why the capture ended early; empty if it did not.
    """

    messages: int = 0
    events: int = 0
    size: int = 0
    missed: int = 0
    unredacted: int = 0
    seconds: float = 0.0
    problem: str = ""


def record(
    path: Path,
    endpoint: str,
    *,
    seconds: float | None,
    max_size: int,
    redact: bool,
    force: bool,
    show: Callable[[CaptureProgress], None],
) -> CaptureProgress:
    """Record until a signal, the time or size limit, or until the agent disconnects.

    Args:
        path: the file to write.
        endpoint: the path of the agent's socket.
        seconds: the time after which to end; None for no limit.
        max_size: the size of the file in bytes at which to end.
        redact: whether to replace texts that may hold user data.
        force: whether to overwrite an existing file.
        show: called several times a second.

    Raises:
        CaptureError: no agent listens, it rejects the capture, or the file cannot be
            written.
    """
    deadline = time.monotonic() + seconds if seconds is not None else float("inf")
    with contextlib.ExitStack() as stack:
        interrupted = stack.enter_context(_catch_signals())
        # Connect first, so that no file is created if the agent is unreachable.
        agent = _MirrorConnection(endpoint)
        stack.callback(agent.close)
        recording = _Recording(agent, path, redact=redact, force=force)
        stack.callback(recording.close)
        while (
            not interrupted()
            and time.monotonic() < deadline
            and recording.progress.size < max_size
            and not recording.progress.problem
        ):
            recording.step()
            show(recording.progress)
        return recording.finish()


class _Recording:
    """The messages of a connection, on their way to the file."""

    def __init__(
        self, agent: _MirrorConnection, path: Path, *, redact: bool, force: bool
    ) -> None:
        self.progress = CaptureProgress()
        self._agent = agent
        self._redactor = MessageRedactor() if redact else None
        copies = agent.start()
        self._last_time: float = copies[0]["at"]
        version = str(copies[0].get("agent", ""))
        header = CaptureHeader(FORMAT, self._last_time, version, redact)
        # Created once the agent has accepted, so that a rejection leaves no file.
        self._writer = CaptureWriter(path, header, force=force)
        self._started = self._flushed = time.monotonic()
        self._add_all(copies)

    def step(self) -> None:
        """Write the messages that arrive within POLL_SECONDS."""
        problem = ""
        try:
            copies = self._agent.read(POLL_SECONDS)
        except CaptureError as error:
            # The recorded messages are a valid capture, so the file is completed.
            copies, problem = [], str(error)
        self._add_all(copies)
        now = time.monotonic()
        if now - self._flushed >= FLUSH_SECONDS:
            self._flushed = now
            self._writer.flush()
        self.progress = self.progress._replace(
            size=self._writer.size, seconds=now - self._started, problem=problem
        )

    def finish(self) -> CaptureProgress:
        """Mark the capture as complete; return a summary of the recorded messages."""
        self._writer.finish(self._last_time, self.progress.missed)
        return self.progress._replace(size=self._writer.size)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _add_all(self, copies: Iterable[dict[str, Any]]) -> None:
        for copy in copies:
            self._add(copy)

    def _add(self, copy: dict[str, Any]) -> None:
        progress = self.progress
        self._last_time = copy["at"]
        missed = max(progress.missed, copy.get("missed", 0))
        self.progress = progress = progress._replace(missed=missed)
        if "connection" not in copy:
            return
        message = copy.get("message")
        if message is not None:
            if self._redactor is not None:
                message = self._redactor.redact(message)
            if message is None:
                self.progress = progress._replace(unredacted=progress.unredacted + 1)
                return
            self.progress = progress._replace(
                messages=progress.messages + 1,
                events=progress.events + count_events(message),
            )
        self._writer.add(CaptureRecord(copy["at"], copy["connection"], message))


class _MirrorConnection:
    """A connection over which an agent sends copies of the messages it receives."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = _connect(path)
        self._frames = FrameReader(wire.MAX_FRAME + ENVELOPE)
        self._last_read = time.monotonic()

    def start(self) -> list[dict[str, Any]]:
        """Request copies; return the first messages, at least one.

        Raises:
            CaptureError: the agent rejects the capture, or closes the connection.
        """
        try:
            self._socket.sendall(wire.frame(wire.capture()))
        except OSError:
            raise CaptureError(
                f"the agent at {self._path} closed the connection"
            ) from None
        while not (copies := self.read(POLL_SECONDS)):
            pass
        return copies

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def read(self, seconds: float) -> list[dict[str, Any]]:
        """Return the messages of the agent that arrive within `seconds`.

        Raises:
            CaptureError: the agent rejects the capture, disconnects or is silent.
        """
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        readable = poller.poll(seconds * 1000)
        if not readable:
            if time.monotonic() - self._last_read > SILENCE_SECONDS:
                raise CaptureError(
                    f"the agent at {self._path} has sent nothing for"
                    f" {SILENCE_SECONDS:.0f} s"
                )
            return []
        try:
            data = self._socket.recv(READ_BYTES)
        except OSError:
            data = b""
        if not data:
            raise CaptureError(f"the agent at {self._path} closed the connection")
        self._last_read = time.monotonic()
        messages = [self._decode(frame) for frame in self._frames.receive(data)]
        return [message for message in messages if message.get("type") == "captured"]

    def _decode(self, frame: object) -> dict[str, Any]:
        message = None
        if isinstance(frame, bytes):
            with contextlib.suppress(ValueError):
                message = wire.decode(frame)
        if message is None:
            raise CaptureError(f"{self._path} is not the socket of an agent")
        if message.get("type") == "error":
            text = message.get("text", "")
            raise CaptureError(
                f"the agent at {self._path} rejected the capture: {text}"
            )
        return message


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            problem = (
                "no agent listens there; start one, or pass its socket with --socket"
            )
        elif isinstance(error, PermissionError):
            problem = "this user cannot connect to it; run the command as the agent's"
            problem += " user or as root"
        else:
            problem = str(error)
        raise CaptureError(f"{path}: {problem}") from None
    return connection


@contextlib.contextmanager
def _catch_signals() -> Iterator[Callable[[], bool]]:
    """Catch SIGINT and SIGTERM; yield a function that returns whether one arrived."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    previous = {
        number: signal.signal(number, note)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

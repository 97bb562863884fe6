"""Asks an agent for copies of what comes in, and writes them to a file."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple, Self

from kaywatch import wire
from kaywatch_agent.capture.copying import events_in
from kaywatch_agent.capture.recording import Header, Record, Writer
from kaywatch_agent.capture.redaction import Redaction
from kaywatch_agent.errors import CaptureError
from kaywatch_agent.protocol.framing import FrameReader, OutOfStep, Oversized

__all__ = ["Captured", "capture", "connect"]

# The agent says something every second, also when nothing comes in.
SILENCE_SECONDS: Final = 10.0
FLUSH_SECONDS: Final = 1.0
WAIT_SECONDS: Final = 0.2
READ_BYTES: Final = 1024 * 1024

# What the agent's answer adds to a message of the largest size.
ENVELOPE: Final = 1_024


class Captured(NamedTuple):
    """What was written.

    `problem` says why it ended before somebody asked for that.
    """

    messages: int = 0
    events: int = 0
    size: int = 0  # bytes of the file
    missed: int = 0
    unredacted: int = 0  # messages that could not be redacted, and were left out
    seconds: float = 0.0
    problem: str = ""


def capture(
    path: Path,
    endpoint: str,
    *,
    seconds: float | None,
    max_size: int,
    redact: bool,
    force: bool,
    show: Callable[[Captured], None],
) -> Captured:
    """Write what comes in until a signal, the time's or the size's end.

    Args:
        path: the file.
        endpoint: the agent's socket.
        seconds: how long, None for ever.
        max_size: bytes that the file may have.
        redact: whether to replace what may be payload.
        force: whether to overwrite the file.
        show: called with the state from time to time.

    Raises:
        CaptureError: there is no agent, it refuses, or the file can't be written.
    """
    with contextlib.ExitStack() as stack:
        ended = stack.enter_context(_signals())
        agent = stack.enter_context(_Agent(endpoint))
        header = Header(1, agent.began, agent.version, redact)
        writer = Writer(path, header, force=force)
        stack.callback(writer.close)
        work = _Capture(agent, writer, Redaction() if redact else None)
        until = time.monotonic() + seconds if seconds is not None else float("inf")
        while not ended() and time.monotonic() < until and work.state.size < max_size:
            if not work.step():
                break
            show(work.state)
        return work.end()


class _Capture:
    """One capture under way."""

    def __init__(
        self, agent: _Agent, writer: Writer, redaction: Redaction | None
    ) -> None:
        self.state = Captured()
        self._agent = agent
        self._writer = writer
        self._redaction = redaction
        self._started = self._flushed = time.monotonic()
        self._at = agent.began

    def step(self) -> bool:
        """Write what comes within a moment; return whether the agent is still there."""
        problem = ""
        try:
            found = self._agent.read(WAIT_SECONDS)
        except CaptureError as error:
            found, problem = [], str(error)
        for said in found:
            self._take(said)
        now = time.monotonic()
        if now - self._flushed >= FLUSH_SECONDS:
            self._flushed = now
            self._writer.flush()
        self.state = self.state._replace(
            size=self._writer.size, seconds=now - self._started, problem=problem
        )
        return not problem

    def end(self) -> Captured:
        """Say in the file that it is whole."""
        self._writer.end(self._at, self.state.missed)
        return self.state._replace(size=self._writer.size)

    def _take(self, said: dict[str, Any]) -> None:
        state = self.state
        self._at = said["at"]
        if said.get("missed", 0) > state.missed:
            self.state = state = state._replace(missed=said["missed"])
        if "connection" not in said:
            return
        message = said.get("message")
        if message is not None:
            if self._redaction is not None:
                message = self._redaction.message(message)
            if message is None:
                self.state = state._replace(unredacted=state.unredacted + 1)
                return
            self.state = state._replace(
                messages=state.messages + 1, events=state.events + events_in(message)
            )
        self._writer.add(Record(said["at"], said["connection"], message))


class _Agent:
    """The connection to an agent that copies to us what comes in."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = connect(path)
        self._frames = FrameReader(wire.MAX_FRAME + ENVELOPE)
        self._heard = time.monotonic()
        self._first: list[dict[str, Any]] = []
        try:
            self._socket.sendall(wire.frame(wire.capture()))
            while not self._first:
                self._first = self.read(WAIT_SECONDS)
        except OSError as error:
            self._socket.close()
            raise CaptureError(f"the agent at {path} hung up: {error}") from None
        except BaseException:
            self._socket.close()
            raise
        self.began: float = self._first[0]["at"]
        self.version = str(self._first[0].get("agent", ""))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def read(self, seconds: float) -> list[dict[str, Any]]:
        """Return what the agent says within so many seconds.

        Raises:
            CaptureError: it refuses, is gone, or says nothing any more.
        """
        if self._first:
            first, self._first = self._first, []
            return first
        readable, _, _ = select.select([self._socket], [], [], seconds)
        if not readable:
            if time.monotonic() - self._heard > SILENCE_SECONDS:
                raise CaptureError(
                    f"the agent at {self._path} says nothing any more;"
                    f" waited {SILENCE_SECONDS:.0f} s"
                )
            return []
        try:
            data = self._socket.recv(READ_BYTES)
        except OSError:
            data = b""
        if not data:
            raise CaptureError(f"the agent at {self._path} hung up")
        self._heard = time.monotonic()
        return [self._said(frame) for frame in self._frames.receive(data)]

    def _said(self, frame: bytes | Oversized | OutOfStep) -> dict[str, Any]:
        if not isinstance(frame, bytes):
            raise CaptureError(f"what listens at {self._path} is no agent")
        try:
            said = wire.decode(frame)
        except ValueError:
            raise CaptureError(f"what listens at {self._path} is no agent") from None
        if said.get("type") == "error":
            raise CaptureError(_refusal(self._path, said))
        return said if said.get("type") == "captured" else {"at": time.time()}


def _refusal(path: str, said: dict[str, Any]) -> str:
    if said.get("code") == wire.ErrorCode.UNKNOWN_TYPE:
        return f"the agent at {path} is too old for captures; update it"
    return f"the agent at {path} refuses: {said.get('text', '')}"


def connect(path: str) -> socket.socket:
    """Return a connection to an agent's socket.

    Raises:
        CaptureError: nobody listens there, or we may not.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except PermissionError:
        problem = "may not be used by this user"
    except (FileNotFoundError, ConnectionRefusedError):
        problem = "nobody listens there; start an agent, or name its socket"
    except OSError as error:
        problem = str(error)
    else:
        return connection
    connection.close()
    raise CaptureError(f"{path}: {problem}")


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Let SIGINT and SIGTERM end a capture cleanly rather than anyhow."""
    came = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    before = {
        number: signal.signal(number, note)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

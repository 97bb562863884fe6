"""Carries messages from connections to the pipeline, and replies back to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from kaywatch.wire import ErrorCode
from kaywatch_agent.pipeline.mirror import Mirror
from kaywatch_agent.pipeline.pipeline import Pipeline
from kaywatch_agent.pipeline.session import Received, Reply, Session
from kaywatch_agent.protocol.messages import Capture, Flush, Rejected
from kaywatch_agent.runtime.metrics import Counter, Metrics

__all__ = ["Connection", "Intake"]

# A client that reads nothing gets no more replies than this many bytes.
MAX_BACKLOG: Final = 65_536


class IntakeMetrics(Metrics):
    """What comes in and goes out, by whatever transport."""

    received = Counter("kaywatch_received_bytes_total", "Bytes read from clients.")
    withheld = Counter(
        "kaywatch_replies_withheld_total",
        "Replies not sent since the client does not read.",
    )


class Connection(Protocol):
    """The way back to one peer."""

    @property
    def backlog(self) -> int:
        """Bytes that it has not read yet."""

    @property
    def congested(self) -> bool:
        """Whether it should be sent no more until it has read some."""

    def send(self, data: bytes) -> None:
        """Queue bytes for it."""

    def close(self) -> None:
        """Close it, once what is queued has been sent."""


class Intake:
    """What all transports share: the open connections, and the way through."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        request_commit: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """Begin without connections.

        Args:
            pipeline: takes messages and returns replies.
            request_commit: asks for a commit before the next tick.
            clock: Unix seconds.
        """
        self.pipeline = pipeline
        self.mirror = Mirror()
        self.metrics = IntakeMetrics()
        self._request_commit = request_commit
        self._clock = clock
        self._connections: dict[Session, Connection] = {}
        self._unreadable: set[Session] = set()  # replies to them were withheld

    def open(self, session: Session, connection: Connection) -> None:
        """Register the way back to a peer."""
        self._connections[session] = connection

    def close(self, session: Session) -> None:
        """Take note that a connection is lost."""
        connection = self._connections.pop(session, None)
        if connection is None:
            return
        self._unreadable.discard(session)
        self.mirror.remove(connection)
        if session.clients:
            self.mirror.ended(session.number, self._clock())
        self.pipeline.sessions.close(session)

    def receive(self, received: Iterable[Received], session: Session) -> bool:
        """Act on messages in order; return whether anything of them could be used."""
        used = False
        for message, frame in received:
            if isinstance(message, Capture):
                self._capture(session)
                continue
            # The agent's own probe is of no interest to a capture.
            probe = message == Flush("") and not session.clients
            if self.mirror and frame and not (probe or isinstance(message, Rejected)):
                self.mirror.copy(frame, session.number, self._clock())
            self.write(self.pipeline.take(message, session))
            used = used or not isinstance(message, Rejected)
        self.write(self.pipeline.take_rows())
        if self.pipeline.commit_due:
            self._request_commit()
        return used

    def write(self, replies: Iterable[Reply]) -> None:
        """Send replies, each to its peer if that is still connected."""
        for session, payload, close in replies:
            connection = self._connections.get(session)
            if connection is None:
                continue
            if payload and connection.backlog <= MAX_BACKLOG:
                connection.send(session.encode(payload))
            elif payload:
                self.metrics.withheld.add()
                self._unreadable.add(session)
            if close:
                connection.close()

    def tick(self) -> None:
        """Repeat what was withheld to peers that read again; keep captures alive."""
        for session in list(self._unreadable):
            if self._connections[session].backlog <= MAX_BACKLOG:
                self._unreadable.discard(session)
                self.pipeline.sessions.repeat(session)
        self.mirror.tell(self._clock())

    def drained(self, session: Session) -> None:
        """Go on with copies for a capture that has read what it was sent."""
        connection = self._connections.get(session)
        if connection is not None:
            self.mirror.resume(connection)

    def _capture(self, session: Session) -> None:
        """Copy to a peer what comes in from now on, or refuse."""
        connection = self._connections.get(session)
        problem = "only root and the agent's own user may capture"
        if session.peer.trusted and connection is not None:
            problem = self.mirror.add(connection, self._clock())
        if problem:
            self.write(session.error(ErrorCode.FORBIDDEN, problem))

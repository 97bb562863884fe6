"""Pass messages from connections to the pipeline, and replies back."""

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

# Bytes of unread replies, after which further replies to a client are withheld.
MAX_BACKLOG: Final = 65_536


class IntakeMetrics(Metrics):
    """Metrics of all transports."""

    received = Counter("kaywatch_received_bytes_total", "Bytes read from clients.")
    withheld = Counter(
        "kaywatch_replies_withheld_total",
        "Replies withheld because the client does not read.",
    )


class Connection(Protocol):
    """Sends data to one peer."""

    @property
    def backlog(self) -> int:
        """The number of bytes that the peer has not read yet."""

    @property
    def congested(self) -> bool:
        """Whether to wait until the peer has read before sending more."""

    def send(self, data: bytes) -> None:
        """Queue bytes for the peer."""

    def close(self) -> None:
        """Close the connection after all queued bytes have been sent."""


class Intake:
    """The open connections of all transports, and their path to the pipeline."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        request_commit: Callable[[], None],
        request_evaluation: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """Start without connections.

        Args:
            pipeline: processes messages and returns replies.
            request_commit: requests a commit before the next tick.
            request_evaluation: requests an evaluation of the rules before it.
            clock: returns Unix seconds.
        """
        self.pipeline = pipeline
        self.mirror = Mirror()
        self.metrics = IntakeMetrics()
        self._request_commit = request_commit
        self._request_evaluation = request_evaluation
        self._clock = clock
        self._connections: dict[Session, Connection] = {}
        self._withheld: set[Session] = set()  # sessions whose replies were withheld

    def open(self, session: Session, connection: Connection) -> None:
        """Register the connection that carries a session's replies."""
        self._connections[session] = connection

    def close(self, session: Session) -> None:
        """Handle the loss of a connection."""
        connection = self._connections.pop(session, None)
        if connection is None:
            return
        self._withheld.discard(session)
        self.mirror.remove(connection)
        if session.clients:
            self.mirror.copy_end(session.number, self._clock())
        self.pipeline.sessions.close(session)

    def receive(self, received: Iterable[Received], session: Session) -> bool:
        """Process messages in order; return whether any of them was usable."""
        is_usable = False
        for message, frame in received:
            if isinstance(message, Capture):
                self._capture(session)
                continue
            # Captures do not contain the agent's own probe.
            is_probe = message == Flush("") and not session.clients
            if (
                self.mirror
                and frame
                and not (is_probe or isinstance(message, Rejected))
            ):
                self.mirror.copy(frame, session.number, self._clock())
            replies = self.pipeline.take(message, session)
            self.write(replies)
            is_usable = is_usable or not isinstance(message, Rejected)
            if replies and replies[-1].close:
                break  # nothing more is accepted here
        self.write(self.pipeline.take_rows())
        if self.pipeline.urgency.take():
            self._request_evaluation()
        if self.pipeline.commit_due:
            self._request_commit()
        return is_usable

    def write(self, replies: Iterable[Reply]) -> None:
        """Send replies to the peers that are still connected."""
        for session, payload, close in replies:
            connection = self._connections.get(session)
            if connection is None:
                continue
            if payload and connection.backlog <= MAX_BACKLOG:
                connection.send(session.encode(payload))
            elif payload:
                self.metrics.withheld.add()
                self._withheld.add(session)
            if close:
                connection.close()

    def tick(self) -> None:
        """Repeat withheld replies to peers that read again; keep captures alive."""
        for session in list(self._withheld):
            if self._connections[session].backlog <= MAX_BACKLOG:
                self._withheld.discard(session)
                self.pipeline.sessions.repeat_acks(session)
        self.mirror.send_heartbeat(self._clock())

    def drained(self, session: Session) -> None:
        """Resume a capture whose connection is no longer congested."""
        connection = self._connections.get(session)
        if connection is not None:
            self.mirror.resume(connection)

    def _capture(self, session: Session) -> None:
        """Start a capture for a peer, or reject it."""
        connection = self._connections.get(session)
        problem = "only root and the agent's own user may capture"
        if session.peer.trusted and connection is not None:
            problem = self.mirror.add(connection, self._clock())
        if problem:
            self.write(session.error(ErrorCode.FORBIDDEN, problem))

"""The UNIX socket that clients of this host push to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import Final

import structlog

from kaywatch import wire
from kaywatch.wire import ErrorCode
from kaywatch_agent.ingest.access import Access, Refusal
from kaywatch_agent.ingest.config import IngestConfig
from kaywatch_agent.ingest.intake import Intake
from kaywatch_agent.ingest.peers import Peer
from kaywatch_agent.ingest.quotas import Quotas, Shares
from kaywatch_agent.ingest.reader import ALONE, FairReader
from kaywatch_agent.pipeline.session import StreamSession
from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics
from kaywatch_agent.runtime.sockets import SocketFile

__all__ = ["UnixConnection", "UnixListener"]

BACKLOG: Final = 1_024

ACCEPTED_AT_ONCE: Final = 64
RETRY_SECONDS: Final = 1.0  # after the descriptors ran out

# No more is read at once than what a socket holds, and then some.
MAX_READ: Final = 1024 * 1024

# A connection is congested from one mark until it is below the other.
HIGH_WATER: Final = 65_536
LOW_WATER: Final = 16_384

log = structlog.get_logger("kaywatch.agent")

TEXTS: Final = {
    Refusal.USER: "user {uid} may not push: see allow_uids and allow_gids of [ingest]",
    Refusal.PROCESS_CONNECTIONS: "process {pid} has connections_per_process already",
    Refusal.USER_CONNECTIONS: "user {uid} has connections_per_user already",
    Refusal.DESCRIPTORS: "the agent can't open more files: raise its LimitNOFILE",
    Refusal.MEMORY: "too much of what is sent is in frames that are not complete",
}


class UnixConnection:
    """One connection."""

    def __init__(self, listener: UnixListener, connection: socket.socket) -> None:
        self.peer = Peer.of(connection)
        self.session: StreamSession | None = None  # None once it is closed
        self.congested = False  # more is queued than the peer has read
        self._listener = listener
        self._socket = connection
        self._output = bytearray()
        self._held = 0  # bytes of an incomplete frame that are counted for it
        self._warned = False  # that it is too fast
        self._closing = False
        self._unwritable = False
        self._registered = False  # for writing

    @property
    def process(self) -> int:
        """The pid at the other end."""
        return self.peer.pid

    @property
    def backlog(self) -> int:
        """Bytes that the client has not read yet, beyond the kernel's buffer."""
        return len(self._output)

    @property
    def reading(self) -> bool:
        """Whether more is to be read."""
        return not self._closing

    @property
    def writing(self) -> bool:
        """Whether bytes wait until they can be written."""
        return bool(self._output)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def read(self, most: int) -> tuple[int, float]:
        """Read and act on some bytes; see `Source.read`."""
        session = self.session
        if session is None:
            return 0, 0.0
        if self._closing:
            self.flush()  # which notices that the peer is gone
            return 0, 0.0
        # The rest of one frame is one message, however long.
        buffer = self._listener.buffer(max(most, session.missing))
        try:
            size = self._socket.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return 0, 0.0
        except OSError:
            size = 0
        if size == 0:
            self._lose()
            return 0, 0.0
        try:
            self._listener.receive(session, buffer[:size])
        except Exception:
            # A fault of ours: the other connections must go on.
            log.exception("a message could not be taken in", pid=self.peer.pid)
            self._lose()
            return 0, 0.0
        pause = self._listener.spend(self, size)
        self._account(session)
        return size, pause

    def send(self, data: bytes) -> None:
        """Queue bytes for the client."""
        if not self._closing and self.session is not None:
            self._write(data)

    def flush(self) -> None:
        """Write what waits, as far as the client has read."""
        try:
            sent = self._socket.send(self._output)
            del self._output[:sent]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            # It reads no more; what it sent before is read all the same.
            self._unwritable = True
            self._output.clear()
        waiting = len(self._output)
        if self._closing and not waiting:
            self._lose()
            return
        if bool(waiting) != self._registered:
            self._registered = bool(waiting)
            self._listener.reader.update(self)
        self._note_congestion(waiting)

    def slow_down(self, rate: float) -> None:
        """Warn the client, once, that it sends more than it may."""
        if not self._warned:
            self._warned = True
            text = f"more than {rate / 1e6:g} MB a second: rate_per_process of [ingest]"
            self.send(wire.frame(wire.error(ErrorCode.OVER_QUOTA, text)))

    def close(self) -> None:
        """Close it, once what is queued has been sent."""
        self._closing = True
        if self._output:
            self._listener.reader.update(self)
        else:
            self._lose()

    def refuse(self, refusal: Refusal) -> None:
        """Report why it is refused, and close it."""
        text = TEXTS[refusal].format(pid=self.peer.pid, uid=self.peer.uid)
        code = ErrorCode.FORBIDDEN if refusal is Refusal.USER else ErrorCode.OVER_QUOTA
        self._listener.count(refusal)
        # Behind what waits to be written: half a message would be cut off by it.
        self._write(wire.frame(wire.error(code, text)))
        if self.session is None:
            self._output.clear()  # it is not waited for
        if self._held:  # at once, so that it is not held against the next connection
            self._listener.hold(self, -self._held)
            self._held = 0
        self.close()

    # -- inside ----------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        if self._unwritable:
            return
        self._output += data
        if len(self._output) == len(data):
            self.flush()
        else:
            self._note_congestion(len(self._output))

    def _note_congestion(self, waiting: int) -> None:
        if waiting > HIGH_WATER:
            self.congested = True
        elif self.congested and waiting < LOW_WATER:
            self.congested = False
            if self.session is not None:
                self._listener.intake.drained(self.session)

    def _account(self, session: StreamSession) -> None:
        held = session.held
        if held == self._held:
            return
        refusal = self._listener.hold(self, held - self._held)
        self._held = held
        if refusal is not None:
            self.refuse(refusal)

    def _lose(self) -> None:
        """Release everything. Idempotent."""
        session, self.session = self.session, None
        if session is not None:
            self._listener.leave(self, session, self._held)
        elif self._socket.fileno() >= 0:
            self.peer.close()  # it never had a session
        self._socket.close()


class IngestMetrics(Metrics):
    """What is counted of the socket."""

    open = Gauge("kaywatch_open_connections", "Ingest connections now.")
    connections = Counter(
        "kaywatch_connections_total", "Ingest connections since the start."
    )
    refused = Counter(
        "kaywatch_ingest_refused_total",
        "Ingest connections refused, or ended for what they took, by reason.",
        labels=("reason",),
    )
    throttled = Counter(
        "kaywatch_ingest_throttled_seconds_total",
        "Time that processes were not read from, since they sent too much.",
    )


class UnixListener:
    """Accepts connections on a path, and reads them."""

    def __init__(self, intake: Intake) -> None:
        self.connections: set[UnixConnection] = set()
        self.path = ""
        self.intake = intake
        self.reader = FairReader()
        self.metrics = IngestMetrics()
        self.metrics.open.set_function(lambda: len(self.connections))
        self._access = Access()
        self._shares = Shares(Quotas())
        self._buffer = bytearray(ALONE)
        self._listening: socket.socket | None = None
        self._file: SocketFile | None = None

    # -- what a connection asks ------------------------------------------------------

    def buffer(self, size: int) -> memoryview:
        """Return a buffer that is valid until the next call."""
        if len(self._buffer) < size:
            self._buffer = bytearray(min(size, MAX_READ))
        return memoryview(self._buffer)[:size]

    def receive(self, session: StreamSession, data: memoryview) -> None:
        """Hand on what a connection has read."""
        self.intake.metrics.received.add(len(data))
        self.intake.receive(session.receive(data), session)

    def leave(
        self, connection: UnixConnection, session: StreamSession, held: int
    ) -> None:
        """Count a connection out, and what was kept for it."""
        peer = connection.peer
        self.reader.remove(connection)
        self._shares.hold(peer.pid, peer.uid, -held)
        self._shares.leave(peer.pid, peer.uid)
        self.connections.discard(connection)
        self.intake.close(session)

    def hold(self, connection: UnixConnection, size: int) -> Refusal | None:
        """Count bytes that are kept for a connection; say so if they are too many."""
        return self._shares.hold(connection.peer.pid, connection.peer.uid, size)

    def spend(self, connection: UnixConnection, size: int) -> float:
        """Count bytes that were taken; return how long to take no more."""
        peer, now = connection.peer, time.monotonic()
        pause = self._shares.spend(peer.pid, peer.uid, size, now)
        if pause > 0:
            self.metrics.throttled.add(pause)
            connection.slow_down(self._shares.quotas.rate)
        return pause

    def count(self, refusal: Refusal) -> None:
        """Count a connection that was refused, or ended."""
        self.metrics.refused.labels(str(refusal)).add()

    # -- life ------------------------------------------------------------------------

    def start(self, config: IngestConfig) -> None:
        """Listen on the configured path.

        Raises:
            StartError: if the path can't be used, or another agent listens there.
        """
        self.use(config)
        self._file = SocketFile("ingest.socket", config.path)
        self._listen(self._file.bind(config.mode, config.group))
        self.path = config.path

    def adopt(self, listening: socket.socket, config: IngestConfig) -> None:
        """Accept on a socket that somebody holds for us, also while we are gone."""
        self.use(config)
        self._listen(listening)
        self.path = str(listening.getsockname())

    def use(self, config: IngestConfig) -> None:
        """Let in whom a configuration names; who is connected stays so."""
        self._access = config.access
        self._shares.quotas = config.quotas

    async def take_all(self) -> None:
        """Take in all that has arrived, for a second at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self.reader.read_all()

    def stop_accepting(self) -> None:
        """Take no new connections; those that are open go on."""
        listening, self._listening = self._listening, None
        if listening is not None:
            asyncio.get_running_loop().remove_reader(listening.fileno())
            listening.close()
        if self._file is not None:
            self._file.remove()

    async def stop(self) -> None:
        """Close all connections."""
        self.stop_accepting()
        for connection in list(self.connections):
            connection.close()
        self.reader.close()

    # -- inside ------------------------------------------------------------------------

    def _listen(self, listening: socket.socket) -> None:
        listening.setblocking(False)
        listening.listen(BACKLOG)
        self._listening = listening
        asyncio.get_running_loop().add_reader(listening.fileno(), self._accept)

    def _accept(self) -> None:
        """Accept what waits; others get their turn after a few."""
        for _ in range(ACCEPTED_AT_ONCE):
            if self._listening is None:
                return
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause_accepting(error)
                return
            self._enter(connection)

    def _pause_accepting(self, error: OSError) -> None:
        """Wait for descriptors to become free; who connects meanwhile waits, too."""
        log.warning("connections can't be accepted", error=str(error))
        self.count(Refusal.DESCRIPTORS)
        listening, loop = self._listening, asyncio.get_running_loop()
        if listening is not None:
            loop.remove_reader(listening.fileno())
            loop.call_later(RETRY_SECONDS, self._resume_accepting, listening)

    def _resume_accepting(self, listening: socket.socket) -> None:
        if self._listening is listening:
            loop = asyncio.get_running_loop()
            loop.add_reader(listening.fileno(), self._accept)

    def _enter(self, accepted: socket.socket) -> None:
        """Give a connection its session, or refuse it."""
        accepted.setblocking(False)
        connection = UnixConnection(self, accepted)
        peer = connection.peer
        refusal: Refusal | None = Refusal.USER
        if self._access.admits(peer):
            refusal = self._shares.enter(peer.pid, peer.uid)
        if refusal is not None:
            connection.refuse(refusal)
            return
        self.metrics.connections.add()
        session = self.intake.pipeline.sessions.open_stream(peer)
        connection.session = session
        self.connections.add(connection)
        self.intake.open(session, connection)
        self.reader.add(connection)

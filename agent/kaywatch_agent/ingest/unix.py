"""The UNIX socket that clients of this host push to."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from typing import Final

import structlog

from kaywatch import wire
from kaywatch.wire import ErrorCode
from kaywatch_agent.ingest.access import Access, Refusal
from kaywatch_agent.ingest.config import IngestConfig
from kaywatch_agent.ingest.intake import Intake
from kaywatch_agent.ingest.peers import LocalPeer
from kaywatch_agent.ingest.quotas import Quotas, QuotaUsage
from kaywatch_agent.ingest.reader import ALONE, FairReader
from kaywatch_agent.ingest.shortage import DescriptorShortage
from kaywatch_agent.pipeline.session import StreamSession
from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics
from kaywatch_agent.runtime.sockets import SocketFile

__all__ = ["UnixConnection", "UnixListener"]

BACKLOG: Final = 1_024

ACCEPTED_AT_ONCE: Final = 64
RETRY_SECONDS: Final = 1.0  # after the agent ran out of file descriptors

# More than a socket buffer holds by default, so one read empties it.
MAX_READ: Final = 1024 * 1024

# A connection becomes congested above the high mark, and stays so until it is below
# the low one.
HIGH_WATER: Final = 65_536
LOW_WATER: Final = 16_384

log = structlog.get_logger("kaywatch.agent")

TEXTS: Final = {
    Refusal.USER: "user {uid} may not push: see allow_uids and allow_gids of [ingest]",
    Refusal.PROCESS_CONNECTIONS: (
        "too many connections of process {pid}: see connections_per_process of [ingest]"
    ),
    Refusal.USER_CONNECTIONS: (
        "too many connections of user {uid}: see connections_per_user of [ingest]"
    ),
    Refusal.DESCRIPTORS: "the agent cannot open more files: raise its LimitNOFILE",
    Refusal.MEMORY: "too many bytes in incomplete frames: complete frames first",
}


class UnixConnection:
    """The connection of one local client."""

    def __init__(self, listener: UnixListener, connection: socket.socket) -> None:
        self.peer = LocalPeer.of(connection)
        self.session: StreamSession | None = None  # None after the connection is lost
        self.congested = False  # too many bytes are queued for the peer
        self._listener = listener
        self._socket = connection
        self._output = bytearray()
        self._buffered = 0  # bytes of an incomplete frame, as counted by the listener
        self._warned = False  # the client was informed that it sends too much
        self._closing = False
        self._unwritable = False
        self._registered = False  # the event loop waits until it is writable

    @property
    def process(self) -> int:
        """The pid of the peer."""
        return self.peer.pid

    @property
    def backlog(self) -> int:
        """Bytes queued for the client that do not fit into the kernel's buffer."""
        return len(self._output)

    @property
    def reading(self) -> bool:
        """Whether to read from this connection."""
        return not self._closing

    @property
    def writing(self) -> bool:
        """Whether queued bytes wait until the connection is writable."""
        return bool(self._output)

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._socket.fileno()

    def read(self, most: int) -> tuple[int, float]:
        """Read and process some bytes; see `Source.read`."""
        session = self.session
        if session is None:
            return 0, 0.0
        if self._closing:
            self.flush()  # detects the loss of the connection
            return 0, 0.0
        # The rest of a frame is read in one go, even if it is long: it is one message.
        buffer = self._listener.buffer(max(most, session.missing))
        try:
            size = self._socket.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return 0, 0.0
        except OSError:
            size = 0
        if size == 0:
            self._release()
            return 0, 0.0
        try:
            self._listener.receive(session, buffer[:size])
        except Exception:
            # An internal error must not affect the other connections.
            log.exception("cannot process a message", pid=self.peer.pid)
            self._release()
            return 0, 0.0
        pause = self._listener.spend(self, size)
        self._count_buffered(session)
        return size, pause

    def send(self, data: bytes) -> None:
        """Queue bytes for the client."""
        if not self._closing and self.session is not None:
            self._write(data)

    def flush(self) -> None:
        """Write queued bytes until the kernel's buffer is full."""
        try:
            sent = self._socket.send(self._output)
            del self._output[:sent]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            # The peer no longer reads, but its data is still processed.
            self._unwritable = True
            self._output.clear()
        waiting = len(self._output)
        if self._closing and not waiting:
            self._release()
            return
        if bool(waiting) != self._registered:
            self._registered = bool(waiting)
            self._listener.reader.update(self)
        self._note_congestion(waiting)

    def slow_down(self, rate: float) -> None:
        """Warn the client, once, that it exceeds the rate limit."""
        if not self._warned:
            self._warned = True
            limit = f"{rate / 1e6:g} MB/s"
            text = f"rate limit of {limit} exceeded: see rate_per_process of [ingest]"
            self.send(wire.frame(wire.error(ErrorCode.OVER_QUOTA, text)))

    def close(self) -> None:
        """Close the connection after all queued bytes have been sent."""
        self._closing = True
        if self._output:
            self._listener.reader.update(self)
        else:
            self._release()

    def refuse(self, refusal: Refusal) -> None:
        """Send the reason for the refusal, and close the connection."""
        text = TEXTS[refusal].format(pid=self.peer.pid, uid=self.peer.uid)
        code = ErrorCode.FORBIDDEN if refusal is Refusal.USER else ErrorCode.OVER_QUOTA
        self._listener.count(refusal)
        # Written after all queued bytes, so that no frame is cut off.
        self._write(wire.frame(wire.error(code, text)))
        if self.session is None:
            self._output.clear()  # do not wait for a refused peer to read
        if self._buffered:  # uncounted at once, so that the next connection can use it
            self._listener.add_buffered(self, -self._buffered)
            self._buffered = 0
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

    def _count_buffered(self, session: StreamSession) -> None:
        buffered = session.buffered
        if buffered == self._buffered:
            return
        refusal = self._listener.add_buffered(self, buffered - self._buffered)
        self._buffered = buffered
        if refusal is not None:
            self.refuse(refusal)

    def _release(self) -> None:
        """Release everything. Idempotent."""
        session, self.session = self.session, None
        if session is not None:
            self._listener.remove(self, session, self._buffered)
        elif self._socket.fileno() >= 0:
            self.peer.close()  # a refused peer has no session that would close it
        self._socket.close()


class IngestMetrics(Metrics):
    """Metrics of the socket."""

    open = Gauge("kaywatch_open_connections", "Open ingest connections.")
    connections = Counter("kaywatch_connections_total", "Accepted ingest connections.")
    refused = Counter(
        "kaywatch_ingest_refused_total",
        "Ingest connections refused or closed, by reason.",
        labels=("reason",),
    )
    throttled = Counter(
        "kaywatch_ingest_throttled_seconds_total",
        "Time that reading from processes was paused by the rate limit.",
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
        self._usage = QuotaUsage(Quotas())
        self._buffer = bytearray(ALONE)
        self._shortage = DescriptorShortage()
        self._is_starved = False  # the kernel had no descriptor for the last connection
        self._listening: socket.socket | None = None
        self._file: SocketFile | None = None

    @property
    def problem(self) -> str:
        """Why connections are refused, empty if they are not."""
        now = time.monotonic()
        if self._shortage.problem and (self._usage.is_full or self._is_starved):
            self._shortage.note(now)
        self._shortage.update(now)
        return self._shortage.problem

    # -- called by connections ---------------------------------------------------------

    def buffer(self, size: int) -> memoryview:
        """Return a buffer that is valid until the next call."""
        if len(self._buffer) < size:
            self._buffer = bytearray(min(size, MAX_READ))
        return memoryview(self._buffer)[:size]

    def receive(self, session: StreamSession, data: memoryview) -> None:
        """Process the data that a connection has read."""
        self.intake.metrics.received.add(len(data))
        self.intake.receive(session.receive(data), session)

    def remove(
        self, connection: UnixConnection, session: StreamSession, buffered: int
    ) -> None:
        """Remove a lost connection, and uncount its buffered bytes."""
        peer = connection.peer
        self.reader.remove(connection)
        self._usage.add_buffered(peer.pid, peer.uid, -buffered)
        self._usage.leave(peer.pid, peer.uid)
        self.connections.discard(connection)
        self.intake.close(session)

    def add_buffered(self, connection: UnixConnection, size: int) -> Refusal | None:
        """Count bytes of incomplete frames; return a refusal if there are too many."""
        return self._usage.add_buffered(connection.peer.pid, connection.peer.uid, size)

    def spend(self, connection: UnixConnection, size: int) -> float:
        """Count bytes that were read; return how many seconds to pause reading."""
        peer, now = connection.peer, time.monotonic()
        pause = self._usage.spend(peer.pid, peer.uid, size, now)
        if pause > 0:
            self.metrics.throttled.add(pause)
            connection.slow_down(self._usage.quotas.rate)
        return pause

    def count(self, refusal: Refusal) -> None:
        """Count a connection that was refused or closed."""
        if refusal is Refusal.DESCRIPTORS:
            self._shortage.note(time.monotonic())
        self.metrics.refused.labels(str(refusal)).add()

    # -- life cycle --------------------------------------------------------------------

    def start(self, config: IngestConfig) -> None:
        """Listen on the configured path.

        Raises:
            StartError: the path cannot be used, or another agent listens there.
        """
        self.use(config)
        self._file = SocketFile("ingest.socket", config.path)
        self._listen(self._file.bind(config.mode, config.group))
        self.path = config.path

    def adopt(self, listening: socket.socket, config: IngestConfig) -> None:
        """Accept connections on a socket that systemd keeps open across restarts."""
        self.use(config)
        self._listen(listening)
        self.path = str(listening.getsockname())

    def use(self, config: IngestConfig) -> None:
        """Apply new access rules and limits. Open connections are not affected."""
        self._access = config.access
        self._usage.quotas = config.quotas

    async def read_all(self) -> None:
        """Process all data that has arrived, for at most a second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self.reader.read_all()

    def stop_accepting(self) -> None:
        """Accept no new connections. Open connections are not affected."""
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
        """Accept pending connections; a limited number, so that other tasks can run."""
        for _ in range(ACCEPTED_AT_ONCE):
            if self._listening is None:
                return
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                self._is_starved = False
                return
            except OSError as error:
                self._pause_accepting(error)
                return
            self._is_starved = False
            self._add(connection)

    def _pause_accepting(self, error: OSError) -> None:
        """Wait for free file descriptors. New connections wait in the backlog."""
        if error.errno in (errno.EMFILE, errno.ENFILE):
            self._is_starved = True
            self.count(Refusal.DESCRIPTORS)
        else:
            log.warning("cannot accept connections", error=str(error))
        listening, loop = self._listening, asyncio.get_running_loop()
        if listening is not None:
            loop.remove_reader(listening.fileno())
            loop.call_later(RETRY_SECONDS, self._resume_accepting, listening)

    def _resume_accepting(self, listening: socket.socket) -> None:
        if self._listening is listening:
            loop = asyncio.get_running_loop()
            loop.add_reader(listening.fileno(), self._accept)

    def _add(self, accepted: socket.socket) -> None:
        """Open a session for a connection, or refuse it."""
        accepted.setblocking(False)
        connection = UnixConnection(self, accepted)
        peer = connection.peer
        refusal: Refusal | None = Refusal.USER
        if self._access.admits(peer):
            refusal = self._usage.enter(peer.pid, peer.uid)
        if refusal is not None:
            connection.refuse(refusal)
            return
        self.metrics.connections.add()
        session = self.intake.pipeline.sessions.open_stream(peer)
        connection.session = session
        self.connections.add(connection)
        self.intake.open(session, connection)
        self.reader.add(connection)

"""The recorder and sender of this process: created at first use, and after a fork.

Importing this module starts nothing and imports only small parts of the standard
library; the thread, the socket and msgpack come with the first event.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from kaywatch._exits import call_before_exit
from kaywatch._forks import call_after_return, process_started
from kaywatch._settings import Settings, settings_from_environment, warn
from kaywatch.recorder import Recorder

if TYPE_CHECKING:
    from types import FrameType

    from kaywatch._send.sender import Sender
    from kaywatch.prices import Price

__all__ = [
    "Process",
    "client_stats",
    "configure",
    "flush",
    "process",
]

FORK_TIMEOUT: Final = 0.5


class Process:
    """Connects the recorder that the application calls with the thread that sends."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.recorder = Recorder(
            self.on_pressure, self.is_sending, self.on_first, self.on_failure
        )
        self.sender: Sender | None = None
        # Called before the last batch is sent, to record what is still in progress.
        self.before_exit: list[Callable[[], None]] = []
        self._starting = threading.Lock()
        self._forking: int | None = None  # the thread that forks and holds the lock
        self._hooked = False
        self._reached = False  # an agent answered before the fork
        self._warned = False
        self._late_until = math.inf  # the deadline of the last exit handlers

    def configure(
        self,
        *,
        endpoint: str | None = None,
        service: str | None = None,
        tags: Mapping[str, str] | None = None,
        enabled: bool | None = None,
        buffer_bytes: int | None = None,
        exit_timeout: float | None = None,
        prices: Mapping[str, Price] | str | os.PathLike[str] | None = None,
        failures: str | None = None,
    ) -> None:
        """Change this process's settings; omitted arguments leave theirs unchanged.

        Nothing needs to be configured: the environment and the defaults suffice. Events
        recorded so far are sent with the old settings.

        Args:
            endpoint: where the agent listens, such as
                `unix:///run/kaywatch/ingest.sock`, or over a broker,
                `mqtts://user@host:8883/kaywatch`. Default: `KAYWATCH_ENDPOINT`, else
                the first of the agent's standard sockets that exists.
            service: the name to report under. Default: `KAYWATCH_SERVICE`, else the
                program's name.
            tags: labels of this process, such as `{"zone": "b"}`. Default:
                `KAYWATCH_TAGS`, as in `zone=b,tier=web`.
            enabled: False makes every call a no-op, like
                `KAYGRAPH_COLLECT_METRICS=false`.
            buffer_bytes: size limit in bytes of the buffer that bridges an outage of
                the agent.
            exit_timeout: maximum time in seconds that the exit waits for the last
                acknowledgement.
            prices: the cost of models by name, or the path of a TOML file with a table
                for each model; they override the file of `KAYWATCH_PRICES` and the
                built-in list. See `kaywatch.Price`.
            failures: how much of an exception is recorded: only its `type`, also its
                `message`, or also its `traceback` (files, lines and functions, without
                source or values). Default: `KAYWATCH_FAILURES`, else `message`.

        Example:
            kaywatch.configure(service="shop", tags={"zone": "b"}, exit_timeout=5)

        Threads and forks:
            Call it from one thread, before the first event. Children of a fork inherit
            the settings.

        Raises:
            ConfigurationError: an argument is invalid; nothing has changed.
        """
        settings = self.settings.updated(
            endpoint=endpoint,
            service=service,
            tags=tags,
            enabled=enabled,
            buffer_bytes=buffer_bytes,
            exit_timeout=exit_timeout,
            failures=failures,
        )
        if prices is not None:
            from kaywatch.prices import use

            use(prices)
        if settings != self.settings:
            self.stop(settings.exit_timeout)
            self.settings = settings

    def service(self) -> str:
        """Return the name that this process reports under."""
        return self.settings.service or _program()

    def is_sending(self) -> bool:
        """Return whether a sender is running in this process."""
        sender = self.sender
        return sender is not None and sender.is_running

    def on_pressure(self) -> None:
        """Start or wake the sender. Called from the slow branch of the hot path."""
        self._renew()
        sender = self.sender
        if sender is not None and sender.is_running:
            sender.wake()
            return
        self._start()
        if self._late_until < math.inf:
            self._end_after_event()

    def on_first(self) -> None:
        """Send the first event after a pause at once."""
        sender = self.sender
        if sender is not None:
            sender.end_pause()

    def on_failure(self) -> None:
        """Send a failure early."""
        sender = self.sender
        if sender is not None and sender.is_running:
            sender.hasten()
        else:
            self.on_pressure()

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until the agent has committed everything that this process recorded.

        Args:
            timeout: maximum time to wait in seconds.

        Returns:
            Whether all events were sent. False immediately if there is no agent.

        Example:
            assert kaywatch.flush(5), kaywatch.client_stats()["error"]

        Threads and forks:
            Blocks the calling thread only. In the child of a fork, it covers the events
            of the child; the parent sends its own.
        """
        self._renew()
        sender = self.sender
        return sender.flush(timeout) if sender is not None else True

    def stop(self, timeout: float) -> bool:
        """Flush and end the thread; the next event starts another."""
        self._renew()
        sender, self.sender = self.sender, None
        return sender.stop(timeout) if sender is not None else True

    def end(self) -> None:
        """Record executions in progress, flush, and announce the end. Idempotent."""
        self._renew()
        self._record_rest()
        self.stop(self.settings.exit_timeout)

    def end_last(self) -> None:
        """End before exit handlers that were registered before kaywatch was imported.

        Events that these handlers record are sent at once, for at most `exit_timeout`
        seconds in total.
        """
        self.end()
        self._late_until = time.monotonic() + self.settings.exit_timeout

    def stats(self) -> dict[str, Any]:
        """Return the numbers of events that this process recorded, delivered and lost.

        Keys: `client` (hex id), `connected`, and in events `recorded`, `acknowledged`,
        `buffered`, `dropped` (by reason); `buffer_bytes`, `folded` (series beyond the
        limit), `name_patterns` (they replace names made per request),
        `loops_left_out` (revisited nodes beyond the limit) and `error` (the current
        one, or empty).

        Example:
            if kaywatch.client_stats()["dropped"]:
                print("events were lost", kaywatch.client_stats()["error"])

        Threads and forks:
            Never blocks. The child of a fork is a client of its own, and starts at
            zero.
        """
        self._renew()
        stats: dict[str, Any] = {
            "client": "",
            "connected": False,
            "recorded": 0,
            "acknowledged": 0,
            "buffered": 0,
            "buffer_bytes": 0,
            "dropped": {},
            "folded": self.recorder.folded,
            "name_patterns": sorted(map("/".join, self.recorder.names.patterns)),
            "loops_left_out": self.recorder.revisits.left_out,
            "error": "",
        }
        sender = self.sender
        if sender is not None:
            connection, batches = sender.connection, sender.connection.batches
            stats |= {
                "client": batches.identity.client.hex(),
                "connected": connection.connected,
                "recorded": batches.recorded,
                "acknowledged": batches.buffer.acked_events,
                "buffered": batches.buffer.events,
                "buffer_bytes": batches.buffer.bytes,
                "dropped": dict(batches.buffer.dropped),
                "error": sender.failure or connection.error,
            }
        return stats

    # -- inside ----------------------------------------------------------------------

    def _prepare_exit(self) -> float:
        """Record what is in progress; return how long the last flush may take."""
        self._record_rest()
        return self.settings.exit_timeout

    def _record_rest(self) -> None:
        for record_rest in self.before_exit:
            try:
                record_rest()
            except Exception as error:  # noqa: BLE001 - the flush must follow
                warn("kaywatch could not record what is in progress: %r", error)

    def _start(self) -> None:
        # Not blocking: a second caller, such as a finalizer that interrupted this very
        # thread, leaves the start to the first.
        if not self._starting.acquire(blocking=False):
            return
        try:
            if self.sender is None and not sys.is_finalizing():
                self.sender = self._make_sender()
            if self.sender is not None and not self.sender.is_running:
                self.sender.start()
        except (RuntimeError, OSError):
            # No file descriptor is free, or no thread can start because the interpreter
            # exits. Events wait for the next start, or for `flush` and `stop`.
            pass
        finally:
            self._starting.release()

    def _end_after_event(self) -> None:
        """Send the event that an exit handler is recording, as soon as it is recorded.

        No code of ours runs after the last exit handler.
        """
        frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
        while frame and frame.f_globals.get("__name__", "").startswith("kaywatch."):
            frame = frame.f_back
        if frame is None or threading.current_thread() is not threading.main_thread():
            return
        is_late = time.monotonic() >= self._late_until
        if (is_late or not call_after_return(frame, self.end)) and not self._warned:
            self._warned = True
            warn(
                "kaywatch may lose what exit handlers record from now on: import"
                " kaywatch before they are registered"
            )

    def _make_sender(self) -> Sender:
        import socket

        from kaywatch._send.batches import Batches
        from kaywatch._send.connecting import connector
        from kaywatch._send.connection import AgentConnection
        from kaywatch._send.identity import new_identity
        from kaywatch._send.sender import Sender
        from kaywatch._send.session import AgentHistory

        settings = self.settings
        identity = new_identity(self.service(), socket.gethostname(), settings.tags)
        connect = settings.connect or connector(settings.endpoint, identity.client)
        batches = Batches(identity, self.recorder, settings.buffer_bytes)
        history = AgentHistory(reached=self._reached)
        self._install_hooks()
        connection = AgentConnection(batches, connect, history)
        return Sender(connection, self.recorder, self._prepare_exit)

    def _install_hooks(self) -> None:
        if not self._hooked:
            self._hooked = True
            os.register_at_fork(
                before=self._before_fork,
                after_in_parent=self._after_fork_in_parent,
                after_in_child=self._after_fork_in_child,
            )
            call_before_exit(self.end)

    def _before_fork(self) -> None:
        # Only one fork at a time, and no start of a sender during it. A signal handler
        # may fork in the middle of a start, so this must not wait forever.
        if self._starting.acquire(timeout=FORK_TIMEOUT):
            self._forking = threading.get_ident()
        if self.sender is not None:
            self.sender.pause()

    def _after_fork_in_parent(self) -> None:
        if self._forking == threading.get_ident():
            self._forking = None
            self._starting.release()
        if self.sender is None or not self.sender.paused:
            return
        frame = sys._getframe().f_back  # noqa: SLF001
        is_main = threading.current_thread() is threading.main_thread()
        # C code may fork without a frame, as uWSGI does.
        if not frame or not is_main or not call_after_return(frame, self.on_pressure):
            self.on_pressure()

    def _after_fork_in_child(self) -> None:
        # Pending events, buffer and connection belong to the parent.
        self._drop_sender()
        self.recorder.forget()

    def _renew(self) -> None:
        """Become a separate client in a child that C code forked, as uWSGI does.

        Python's hooks did not run there, and no thread survives a fork.
        """
        if self.sender is not None and self.sender.pid != os.getpid():
            self._drop_sender()
            self.recorder.forget(before=process_started())

    def _drop_sender(self) -> None:
        sender, self.sender = self.sender, None
        if sender is not None:
            self._reached = sender.connection.history.reached
            sender.abandon()
        self._starting = threading.Lock()
        self._forking = None


def _program() -> str:
    """Return the program's name: that of the script, or of the `python -m` module."""
    main = sys.modules.get("__main__")
    name: str = getattr(getattr(main, "__spec__", None), "name", "")
    name = name.removesuffix("__main__").removesuffix(".")
    if name:
        return name
    # A script, or a folder or zip with a `__main__`.
    stem = os.path.splitext(os.path.basename(sys.argv[0] if sys.argv else ""))[0]
    return "python" if stem in {"", "-c", "-"} else stem


process: Final = Process(settings_from_environment())

configure: Final = process.configure
flush: Final = process.flush
client_stats: Final = process.stats

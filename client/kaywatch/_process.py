"""This process's recorder and sender: made at first use, renewed after a fork.

Importing this module starts nothing and imports only small parts of the standard
library; the thread, the socket and msgpack come with the first event.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import sys
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kaywatch.errors import ConfigurationError
from kaywatch.recorder import Recorder

if TYPE_CHECKING:
    from types import FrameType

    from kaywatch._send.sender import Sender
    from kaywatch._send.transport import Transport
    from kaywatch.prices import Price

__all__ = [
    "Process",
    "Settings",
    "client_stats",
    "configure",
    "flush",
    "parse_tags",
    "process",
    "settings_from_environment",
]

FORK_TIMEOUT: Final = 0.5
MAX_TRIES: Final = 10_000  # other libraries' fork hooks may take their time
MIN_BUFFER_BYTES: Final = 1_000_000
FAILURES: Final = ("type", "message", "traceback")
_OFF: Final = {"0", "false", "no", "off"}


class Settings(NamedTuple):
    """The settings of a process; see `Process.configure`."""

    enabled: bool = True
    endpoint: str | None = None
    service: str = ""
    tags: Mapping[str, str] = MappingProxyType({})
    buffer_bytes: int = 32 * 1024 * 1024
    exit_timeout: float = 2.0
    connect: Callable[[], Transport] | None = None
    failures: str = "message"

    def check(self) -> None:
        """Validate the settings that the type checker can't.

        Raises:
            ConfigurationError: naming the setting and the values that are allowed.
        """
        if self.endpoint is not None:
            from kaywatch._send.connecting import check_usable

            check_usable(self.endpoint)
        if self.failures not in FAILURES:
            allowed = ", ".join(map(repr, FAILURES))
            raise ConfigurationError(
                f"failures={self.failures!r}: expected one of {allowed}"
            )
        if self.buffer_bytes < MIN_BUFFER_BYTES:
            raise ConfigurationError(
                f"buffer_bytes={self.buffer_bytes}: expected at least"
                f" {MIN_BUFFER_BYTES:_}"
            )


def settings_from_environment() -> Settings:
    """Return the settings that the environment gives, logging those it can't use."""
    collect = os.environ.get("KAYGRAPH_COLLECT_METRICS", "true").strip().lower()
    tags, invalid = parse_tags(os.environ.get("KAYWATCH_TAGS", ""))
    if invalid:
        _warn("KAYWATCH_TAGS: expected key=value,..., got %r; ignored", invalid)
    failures = os.environ.get("KAYWATCH_FAILURES", Settings().failures)
    if failures not in FAILURES:
        allowed = " or ".join(FAILURES)
        _warn("KAYWATCH_FAILURES=%s: expected %s; using type", failures, allowed)
        failures = "type"  # the option that reveals least
    return Settings(
        enabled=collect not in _OFF,
        endpoint=os.environ.get("KAYWATCH_ENDPOINT") or None,
        service=os.environ.get("KAYWATCH_SERVICE", ""),
        tags=MappingProxyType(tags),
        failures=failures,
    )


def _warn(text: str, *values: object) -> None:
    import logging  # here, since this is rarely needed and takes milliseconds

    logging.getLogger("kaywatch").warning(text, *values)


def parse_tags(text: str) -> tuple[dict[str, str], list[str]]:
    """Parse tags such as `zone=b,tier=web`.

    Returns:
        The tags, the last one for each key, and the parts that are not key=value.
    """
    tags: dict[str, str] = {}
    invalid: list[str] = []
    for part in filter(None, map(str.strip, text.split(","))):
        key, equals, value = (word.strip() for word in part.partition("="))
        if key and equals:
            tags[key] = value
        else:
            invalid.append(part)
    return tags, invalid


class Process:
    """Connects the recorder that the application calls with the thread that sends."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.recorder = Recorder(on_pressure=self.on_pressure)
        self.sender: Sender | None = None
        # Record what is still in progress, before the last batch is sent.
        self.before_exit: list[Callable[[], None]] = []
        self._starting = threading.Lock()
        self._forking = False
        self._hooked = False
        self._reached = False  # an agent answered before the fork

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

        Raises:
            ConfigurationError: naming the argument, before anything has changed.
        """
        arguments: dict[str, Any] = {
            "endpoint": endpoint,
            "service": service,
            "tags": tags,
            "enabled": enabled,
            "buffer_bytes": buffer_bytes,
            "exit_timeout": exit_timeout,
            "failures": failures,
        }
        changes = {key: value for key, value in arguments.items() if value is not None}
        settings = self.settings._replace(**changes)
        settings.check()
        if prices is not None:
            from kaywatch.prices import use

            use(prices)
        if settings != self.settings:
            self.stop(settings.exit_timeout)
            self.settings = settings

    def service(self) -> str:
        """Return the name that this process reports under."""
        return self.settings.service or _program()

    def on_pressure(self) -> None:
        """Start the sender, or wake it. Called from the hot path's slow side."""
        sender = self.sender
        if sender is None or sender.paused:
            self._start()
        else:
            sender.wake()

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until the agent has committed all that this process recorded.

        Args:
            timeout: maximum time to wait in seconds.

        Returns:
            Whether it has. False at once when there is no agent.
        """
        sender = self.sender
        return sender.flush(timeout) if sender is not None else True

    def stop(self, timeout: float) -> bool:
        """Flush and end the thread; the next event starts another."""
        sender, self.sender = self.sender, None
        return sender.stop(timeout) if sender is not None else True

    def stats(self) -> dict[str, Any]:
        """Return what this process recorded, delivered and lost.

        Keys: `client` (hex id), `connected`, and in events `recorded`, `acknowledged`,
        `buffered`, `dropped` (by reason); `buffer_bytes`, `folded` (series beyond the
        limit), `loops_left_out` (revisited nodes beyond the limit) and `error` (the
        current one, or empty).
        """
        stats: dict[str, Any] = {
            "client": "",
            "connected": False,
            "recorded": 0,
            "acknowledged": 0,
            "buffered": 0,
            "buffer_bytes": 0,
            "dropped": {},
            "folded": self.recorder.folded,
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
                "error": connection.error,
            }
        return stats

    # -- inside ----------------------------------------------------------------------

    def _start(self) -> None:
        # Not blocking: a second caller, such as a finalizer that interrupted this very
        # thread, leaves the start to the first.
        if not self._starting.acquire(blocking=False):
            return
        try:
            if self.sender is None and not sys.is_finalizing():
                self.sender = self._make_sender()
            if self.sender is not None and self.sender.paused:
                self.sender.start()
        except RuntimeError:
            # No thread can start while the interpreter exits. Recorded events wait for
            # `flush` or `stop`, which need none.
            pass
        finally:
            self._starting.release()

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
        return Sender(AgentConnection(batches, connect, history), self.recorder)

    def _install_hooks(self) -> None:
        if not self._hooked:
            self._hooked = True
            os.register_at_fork(
                before=self._before_fork,
                after_in_parent=self._after_fork_in_parent,
                after_in_child=self._after_fork_in_child,
            )
            atexit.register(self._at_exit)
        # A child of multiprocessing exits with os._exit, after its own finalizers.
        util = sys.modules.get("multiprocessing.util")
        spawned = sys.modules.get("multiprocessing.process")
        if util and spawned and spawned.parent_process() is not None:
            util.Finalize(None, self._at_exit, exitpriority=0)

    def _before_fork(self) -> None:
        # One fork at a time, and no start meanwhile. A signal handler may fork in the
        # middle of a start, so this must not wait forever.
        self._forking = self._starting.acquire(timeout=FORK_TIMEOUT)
        if self.sender is not None:
            self.sender.pause()

    def _after_fork_in_parent(self) -> None:
        if self._forking:
            self._forking = False
            self._starting.release()
        if self.sender is None or not self.sender.paused:
            return
        if threading.current_thread() is threading.main_thread():
            _call_after_return(sys._getframe(1), self.on_pressure)  # noqa: SLF001
        else:
            self.on_pressure()

    def _after_fork_in_child(self) -> None:
        # Pending events, buffer and connection belong to the parent.
        if self.sender is not None:
            self._reached = self.sender.connection.history.reached
            self.sender.connection.abandon()
        self.sender = None
        self._starting = threading.Lock()
        self._forking = False
        self.recorder.forget()

    def _at_exit(self) -> None:
        for record_rest in self.before_exit:
            record_rest()
        self.stop(self.settings.exit_timeout)


def _program() -> str:
    """Return the program's name: the script's, or the module's of `python -m`."""
    main = sys.modules.get("__main__")
    name: str = getattr(getattr(main, "__spec__", None), "name", "")
    name = name.removesuffix("__main__").removesuffix(".")
    if name:
        return name
    # A script, or a folder or zip with a `__main__`.
    stem = os.path.splitext(os.path.basename(sys.argv[0] if sys.argv else ""))[0]
    return "python" if stem in {"", "-c", "-"} else stem


_pending_calls: Final[dict[int, object]] = {}


def _call_after_return(frame: FrameType, call: Callable[[], None]) -> None:
    """Call as soon as the C function that `frame` of the main thread is in returns.

    For `os.fork`: Python 3.12 and later count the threads after all hooks have run, and
    warn if there is more than one. Without ctypes, the next event starts the thread.
    """
    tries = itertools.count()

    def interrupt(_: object) -> int:
        with contextlib.suppress(Exception):  # C code could not handle it
            if sys._getframe(1) is frame or next(tries) > MAX_TRIES:  # noqa: SLF001
                del _pending_calls[id(callback)]
                call()
            else:  # it interrupted a fork hook, ours or another library's
                ctypes.pythonapi.Py_AddPendingCall(callback, None)
        return 0

    with contextlib.suppress(ImportError, OSError, MemoryError):
        import ctypes

        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(interrupt)
        _pending_calls[id(callback)] = callback  # kept alive until it is called
        # https://docs.python.org/3/c-api/init.html#c.Py_AddPendingCall
        ctypes.pythonapi.Py_AddPendingCall(callback, None)


process: Final = Process(settings_from_environment())

configure: Final = process.configure
flush: Final = process.flush
client_stats: Final = process.stats

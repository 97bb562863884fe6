"""This process's recorder and sender: made at first use, renewed after a fork.

Importing this module starts nothing and imports nothing beyond the standard library's
small parts; the thread, the socket and msgpack come with the first event.
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
    "process",
    "settings_from_environment",
    "tags_in",
]

EXIT_TIMEOUT: Final = 2.0
FORK_TIMEOUT: Final = 0.5
MAX_TRIES: Final = 10_000  # hooks of others may take their time
_OFF: Final = {"0", "false", "no", "off"}


class Settings(NamedTuple):
    """What a process can choose; every field has a default that works."""

    enabled: bool = True
    endpoint: str | None = None
    service: str = ""
    tags: Mapping[str, str] = MappingProxyType({})
    buffer_bytes: int = 32 * 1024 * 1024
    exit_timeout: float = EXIT_TIMEOUT
    connect: Callable[[], Transport] | None = None
    failures: str = "message"


FAILURES: Final = ("type", "message", "traceback")


def settings_from_environment() -> Settings:
    """Read the settings that the environment gives."""
    collect = os.environ.get("KAYGRAPH_COLLECT_METRICS", "true").strip().lower()
    tags, wrong = tags_in(os.environ.get("KAYWATCH_TAGS", ""))
    if wrong:
        import logging

        log = logging.getLogger("kaywatch")
        log.warning("KAYWATCH_TAGS: expected key=value,..., got %r; ignored", wrong)
    return Settings(
        enabled=collect not in _OFF,
        endpoint=os.environ.get("KAYWATCH_ENDPOINT") or None,
        service=os.environ.get("KAYWATCH_SERVICE", ""),
        tags=MappingProxyType(tags),
        failures=_failures(os.environ.get("KAYWATCH_FAILURES", "message")),
    )


def _failures(text: str) -> str:
    """Return what the environment says of failures; the least of it if that is odd."""
    if text in FAILURES:
        return text
    import logging

    log = logging.getLogger("kaywatch")
    log.warning("KAYWATCH_FAILURES: expected %s; taken for type", " or ".join(FAILURES))
    return "type"


def tags_in(text: str) -> tuple[dict[str, str], list[str]]:
    """Read tags such as `zone=b,tier=web`.

    Returns:
        The tags, the last of each key, and the parts that are none.
    """
    tags: dict[str, str] = {}
    wrong: list[str] = []
    for part in filter(None, map(str.strip, text.split(","))):
        key, equals, value = (word.strip() for word in part.partition("="))
        if key and equals:
            tags[key] = value
        else:
            wrong.append(part)
    return tags, wrong


class Process:
    """Ties the recorder that the application calls to the thread that sends."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.recorder = Recorder(on_pressure=self.on_pressure)
        self.sender: Sender | None = None
        self._starting = threading.Lock()
        self._forking = False
        self._hooked = False
        self._reached = False  # an agent was there before the fork

    def configure(self, settings: Settings) -> None:
        """Use other settings; what was recorded so far is sent by the old ones.

        Raises:
            ConfigurationError: before anything has changed.
        """
        if settings.endpoint is not None:
            from kaywatch._send.connecting import check_usable

            check_usable(settings.endpoint)
        if settings.failures not in FAILURES:
            allowed = ", ".join(map(repr, FAILURES))
            raise ConfigurationError(
                f"failures={settings.failures!r}: expected one of {allowed}"
            )
        if settings.buffer_bytes < 1_000_000:
            raise ConfigurationError(
                f"buffer_bytes={settings.buffer_bytes}: at least 1_000_000 are needed"
            )
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

    def flush(self, timeout: float) -> bool:
        """Wait until the agent has committed all that was recorded."""
        sender = self.sender
        return sender.flush(timeout) if sender is not None else True

    def stop(self, timeout: float) -> bool:
        """Flush and end the thread; the next event starts another."""
        sender, self.sender = self.sender, None
        return sender.stop(timeout) if sender is not None else True

    def stats(self) -> dict[str, Any]:
        """Return what this process recorded, delivered and lost."""
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
                "dropped": dict(batches.buffer.lost),
                "error": connection.error,
            }
        return stats

    # -- inside ----------------------------------------------------------------------

    def _start(self) -> None:
        # Not blocking: whoever comes second, be it a finalizer that interrupted this
        # very thread, leaves the start to the first.
        if not self._starting.acquire(blocking=False):
            return
        try:
            if self.sender is None and not sys.is_finalizing():
                self.sender = self._make_sender()
            if self.sender is not None and self.sender.paused:
                self.sender.start()
        except RuntimeError:
            # No thread can be started, as at the interpreter's exit: what is recorded
            # waits for `flush` or `stop`, which need none.
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
        self._hook()
        return Sender(AgentConnection(batches, connect, history), self.recorder)

    def _hook(self) -> None:
        if not self._hooked:
            self._hooked = True
            os.register_at_fork(
                before=self._before_fork,
                after_in_parent=self._after_fork_in_parent,
                after_in_child=self._after_fork,
            )
            atexit.register(self._at_exit)
        # A child of multiprocessing leaves by os._exit, after its own finalizers.
        util = sys.modules.get("multiprocessing.util")
        spawned = sys.modules.get("multiprocessing.process")
        if util and spawned and spawned.parent_process() is not None:
            util.Finalize(None, self._at_exit, exitpriority=0)

    def _before_fork(self) -> None:
        # One fork at a time, and no start meanwhile. It may be a signal handler that
        # forks in the middle of a start, so this doesn't wait for ever.
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
            _after_call_of(sys._getframe(1), self.on_pressure)  # noqa: SLF001
        else:
            self.on_pressure()

    def _after_fork(self) -> None:
        """In the child: what is pending, buffered and connected is the parent's."""
        if self.sender is not None:
            self._reached = self.sender.connection.history.reached
            self.sender.connection.abandon()
        self.sender = None
        self._starting = threading.Lock()
        self._forking = False
        self.recorder.forget()

    def _at_exit(self) -> None:
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


process: Final = Process(settings_from_environment())

_interrupts: Final[dict[int, object]] = {}


def _after_call_of(frame: FrameType, call: Callable[[], None]) -> None:
    """Do it as soon as the C function returns that `frame`, of the main thread, is in.

    For `os.fork`: Python 3.12 and later count the threads after all hooks have run, and
    warn if there is more than one. Where this can't be had, the next event calls.
    """
    tries = itertools.count()

    def interrupt(_: object) -> int:
        with contextlib.suppress(Exception):  # C has nobody to tell
            if sys._getframe(1) is frame or next(tries) > MAX_TRIES:  # noqa: SLF001
                del _interrupts[id(callback)]
                call()
            else:  # it interrupted a hook, ours or another's
                ctypes.pythonapi.Py_AddPendingCall(callback, None)
        return 0

    with contextlib.suppress(ImportError, OSError, MemoryError):  # not to be had here
        import ctypes

        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(interrupt)
        _interrupts[id(callback)] = callback  # alive until it has been called
        # https://docs.python.org/3/c-api/init.html#c.Py_AddPendingCall
        ctypes.pythonapi.Py_AddPendingCall(callback, None)


def configure(
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
    """Change this process's settings; what isn't given stays as it is.

    Nothing needs to be configured: the environment and the defaults suffice.

    Args:
        endpoint: where the agent listens, `unix:///run/kaywatch/ingest.sock`, or
            through a broker, `mqtts://user@host:8883/kaywatch`; `KAYWATCH_ENDPOINT`
            by default, else the first agent's socket found.
        service: the name to report under; `KAYWATCH_SERVICE` by default, else the
            program's.
        tags: a few words about this process, such as `{"zone": "b"}`; by default
            those of `KAYWATCH_TAGS`, as in `zone=b,tier=web`.
        enabled: False makes every call a no-op, as `KAYGRAPH_COLLECT_METRICS=false`.
        buffer_bytes: bound of the buffer that outlasts an absent agent, in bytes.
        exit_timeout: how long the exit may wait for the last acknowledgement, in
            seconds.
        prices: what models cost, by name, or the path of a TOML file with a table for
            each; they come before those of the file that `KAYWATCH_PRICES` names and
            of the built-in list. See `kaywatch.Price`.
        failures: what is told of an exception: its `type` alone, its `message`, too, or
            also its `traceback` (files, lines and functions, without source or values);
            by default what `KAYWATCH_FAILURES` says, else `message`.

    Raises:
        ConfigurationError: naming what can't be used.
    """
    if prices is not None:
        from kaywatch.prices import checked, use

        listed = checked(prices)
    given: dict[str, Any] = {
        "endpoint": endpoint,
        "service": service,
        "tags": tags,
        "enabled": enabled,
        "buffer_bytes": buffer_bytes,
        "exit_timeout": exit_timeout,
        "failures": failures,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    process.configure(process.settings._replace(**changes))
    if prices is not None:
        use(listed)


def flush(timeout: float = 2.0) -> bool:
    """Wait until the agent has committed all that this process recorded.

    Args:
        timeout: seconds to wait at most.

    Returns:
        Whether it has. False at once when there is no agent.
    """
    return process.flush(timeout)


def client_stats() -> dict[str, Any]:
    """Return what this process recorded, delivered and lost.

    Keys: `client` (hex id), `connected`, and in events `recorded`, `acknowledged`,
    `buffered`, `dropped` (by reason); `buffer_bytes`, `folded` (series beyond the
    cap), `loops_left_out` (nodes that runs came back to, beyond the cap) and `error`
    (the last one, or empty).
    """
    return process.stats()

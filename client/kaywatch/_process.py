"""This process's recorder and sender: made at first use, renewed after a fork.

Importing this module starts nothing and imports nothing beyond the standard library's
small parts; the thread, the socket and msgpack come with the first event.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kaywatch.errors import ConfigurationError
from kaywatch.recorder import Recorder

if TYPE_CHECKING:
    from kaywatch._sender import Sender
    from kaywatch._transport import Transport

__all__ = [
    "Process",
    "Settings",
    "client_stats",
    "configure",
    "flush",
    "process",
    "settings_from_environment",
]

EXIT_TIMEOUT: Final = 2.0
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


def settings_from_environment() -> Settings:
    """Read the settings that the environment gives."""
    collect = os.environ.get("KAYGRAPH_COLLECT_METRICS", "true").strip().lower()
    return Settings(
        enabled=collect not in _OFF,
        endpoint=os.environ.get("KAYWATCH_ENDPOINT") or None,
        service=os.environ.get("KAYWATCH_SERVICE", ""),
    )


class Process:
    """Ties the recorder that the application calls to the thread that sends."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.recorder = Recorder(on_pressure=self.on_pressure)
        self.sender: Sender | None = None
        self._starting = threading.Lock()
        self._hooked = False

    def configure(self, settings: Settings) -> None:
        """Use other settings; what was recorded so far is sent by the old ones.

        Raises:
            ConfigurationError: before anything has changed.
        """
        if settings.endpoint is not None:
            from kaywatch._transport import check_endpoint

            check_endpoint(settings.endpoint)
        if settings.buffer_bytes < 1_000_000:
            raise ConfigurationError(
                f"buffer_bytes={settings.buffer_bytes}: at least 1_000_000 are needed"
            )
        if settings != self.settings:
            self.stop(settings.exit_timeout)
            self.settings = settings

    def on_pressure(self) -> None:
        """Start the sender, or wake it. Called from the hot path's slow side."""
        sender = self.sender
        if sender is None:
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
        sender = self.sender
        if sender is None:
            return {
                "client": "",
                "connected": False,
                "recorded": 0,
                "acknowledged": 0,
                "buffered": 0,
                "buffer_bytes": 0,
                "dropped": {},
                "folded": self.recorder.folded,
                "error": "",
            }
        session = sender.session
        return {
            "client": session.identity.client.hex(),
            "connected": session.connected,
            "recorded": session.recorded,
            "acknowledged": session.buffer.acked_events,
            "buffered": session.buffer.events,
            "buffer_bytes": session.buffer.bytes,
            "dropped": dict(session.buffer.lost),
            "folded": self.recorder.folded,
            "error": session.error,
        }

    # -- inside ----------------------------------------------------------------------

    def _start(self) -> None:
        # Not blocking: whoever comes second, be it a finalizer that interrupted this
        # very thread, leaves the start to the first.
        if not self._starting.acquire(blocking=False):
            return
        try:
            if self.sender is None and not sys.is_finalizing():
                self.sender = self._make_sender()
                self.sender.start()
        except RuntimeError:
            # No thread can be started any more: the interpreter is going down.
            self.sender = None
        finally:
            self._starting.release()

    def _make_sender(self) -> Sender:
        import socket

        from kaywatch._sender import Sender
        from kaywatch._session import Session, new_identity, unix_connector

        settings = self.settings
        identity = new_identity(
            settings.service or _program(), socket.gethostname(), settings.tags
        )
        connect = settings.connect or unix_connector(settings.endpoint)
        session = Session(identity, self.recorder, connect, settings.buffer_bytes)
        self._hook()
        return Sender(session, self.recorder)

    def _hook(self) -> None:
        if not self._hooked:
            self._hooked = True
            os.register_at_fork(after_in_child=self._after_fork)
            atexit.register(self._at_exit)
        # A child of multiprocessing leaves by os._exit, after its own finalizers.
        util = sys.modules.get("multiprocessing.util")
        spawned = sys.modules.get("multiprocessing.process")
        if util and spawned and spawned.parent_process() is not None:
            util.Finalize(None, self._at_exit, exitpriority=0)

    def _after_fork(self) -> None:
        """In the child: what is pending, buffered and connected is the parent's."""
        if self.sender is not None:
            self.sender.session.abandon()
        self.sender = None
        self._starting = threading.Lock()
        self.recorder.forget()

    def _at_exit(self) -> None:
        self.stop(self.settings.exit_timeout)


def _program() -> str:
    """Return the program's name: the script's, or the module's of `python -m`."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        name: str = spec.name
        return name.removesuffix(".__main__")
    stem = os.path.splitext(os.path.basename(sys.argv[0] if sys.argv else ""))[0]
    return stem or "python"


process: Final = Process(settings_from_environment())


def configure(
    *,
    endpoint: str | None = None,
    service: str | None = None,
    tags: Mapping[str, str] | None = None,
    enabled: bool | None = None,
    buffer_bytes: int | None = None,
    exit_timeout: float | None = None,
) -> None:
    """Change this process's settings; what isn't given stays as it is.

    Nothing needs to be configured: the environment and the defaults suffice.

    Args:
        endpoint: where the agent listens, `unix:///run/kaywatch/ingest.sock`;
            `KAYWATCH_ENDPOINT` by default, else the first agent's socket found.
        service: the name to report under; `KAYWATCH_SERVICE` by default, else the
            program's.
        tags: a few words about this process, such as `{"zone": "b"}`.
        enabled: False makes every call a no-op, as `KAYGRAPH_COLLECT_METRICS=false`.
        buffer_bytes: bound of the buffer that outlasts an absent agent, in bytes.
        exit_timeout: how long the exit may wait for the last acknowledgement, in
            seconds.

    Raises:
        ConfigurationError: naming what can't be used.
    """
    given: dict[str, Any] = {
        "endpoint": endpoint,
        "service": service,
        "tags": tags,
        "enabled": enabled,
        "buffer_bytes": buffer_bytes,
        "exit_timeout": exit_timeout,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    process.configure(process.settings._replace(**changes))


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
    cap) and `error` (the last one, or empty).
    """
    return process.stats()

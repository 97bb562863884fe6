"""What all checks begin with: the configuration, and what the agent says of itself."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from kaywatch._send.transport import candidates
from kaywatch.errors import KaywatchError
from kaywatch.query import fetch
from kaywatch_agent.cli.service.installing import Manager
from kaywatch_agent.config import Config, find, load
from kaywatch_agent.errors import ConfigError, StartError

__all__ = [
    "SERVICE",
    "SOCKET",
    "Asked",
    "Ground",
    "Listener",
    "connected",
    "survey",
    "under_systemd",
]

SERVICE: Final = "kaywatch.service"
SOCKET: Final = "kaywatch.socket"

CONNECT_SECONDS: Final = 3.0

_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid


@dataclass(frozen=True)
class Asked:
    """What the command line says; empty for nothing."""

    config: str = ""
    socket: str = ""
    store: str = ""
    url: str = ""


@dataclass(frozen=True)
class Listener:
    """Who listens on a socket, by the kernel's word.

    Attributes:
        pid: of the process that listened last; 1 for systemd, which holds the socket
            for an agent that has not begun.
        uid: its user.
    """

    pid: int
    uid: int


@dataclass(frozen=True)
class Ground:
    """What is known before anything is looked at closely.

    Attributes:
        path: the configuration's file; None if there is none.
        config: what it says; the defaults where it can't be used.
        wrong: why it can't be used.
        socket: the path that clients push to.
        store: the file that keeps everything; None for memory.
        url: where the agent should answer.
        health: its `/health`; None if it doesn't answer.
        silence: why it doesn't.
        asked_at: between question and answer, Unix seconds.
    """

    path: Path | None
    config: Config
    wrong: ConfigError | None
    socket: str
    store: Path | None
    url: str
    health: Mapping[str, Any] | None = None
    silence: KaywatchError | None = None
    asked_at: float = field(default_factory=time.time)

    def get(self, path: str) -> Any:
        """Return what the agent says at a path; None if it says nothing."""
        if self.health is None:
            return None
        try:
            return fetch(path, url=self.url)
        except KaywatchError:
            return None

    @cached_property
    def clients(self) -> list[dict[str, Any]] | None:
        """Those whom the agent knows; None if it doesn't say."""
        found = self.get("/api/v1/clients")
        return None if found is None else list(found["clients"])

    @cached_property
    def waiting(self) -> bool:
        """Whether systemd holds the socket, and would start the agent at a connect."""
        return self.health is None and any(map(_waits, (Manager(), Manager(user=True))))

    @cached_property
    def listener(self) -> Listener | None:
        """Who listens on the socket; None if it can't be connected to."""
        if self.waiting:
            return None
        try:
            with connected(self.socket) as link:
                raw = link.getsockopt(
                    socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
                )
        except OSError:
            return None
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        return Listener(pid, uid)

    @property
    def process(self) -> Listener | None:
        """The agent's process; None if that is not known."""
        found = self.listener
        return found if found is not None and found.pid > 1 else None


def survey(asked: Asked) -> Ground:
    """Look around, as `kaywatch serve` and clients here would."""
    path, config, wrong = _configured(asked.config)
    url = asked.url or _url(config)
    before = time.time()
    health: Mapping[str, Any] | None = None
    silence = None
    try:
        health = fetch("/health", url=url)
    except KaywatchError as error:
        silence = error
    return Ground(
        path=path,
        config=config,
        wrong=wrong,
        socket=asked.socket or _socket(config),
        store=Path(asked.store) if asked.store else config.store.file,
        url=url,
        health=health,
        silence=silence,
        asked_at=(before + time.time()) / 2,
    )


def under_systemd() -> bool:
    """Whether systemd started this machine; see sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


def connected(path: str) -> socket.socket:
    """Return a connection to the agent's socket, on which nothing is sent.

    Raises:
        OSError: it can't be connected to.
    """
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.settimeout(CONNECT_SECONDS)
    try:
        link.connect(path)
    except BaseException:
        link.close()
        raise
    return link


# -- inside --------------------------------------------------------------------------


def _waits(manager: Manager) -> bool:
    if not under_systemd():
        return False
    try:
        socket_, service = (
            manager.properties(unit, "ActiveState").get("ActiveState")
            for unit in (SOCKET, SERVICE)
        )
    except StartError:
        return False
    return socket_ == "active" and service != "active"


def _configured(given: str) -> tuple[Path | None, Config, ConfigError | None]:
    path = find(given or None)
    try:
        return path, load(path), None
    except ConfigError as error:
        return path, Config(), error


def _url(config: Config) -> str:
    """Return where clients look, or else where the configuration has HTTP served."""
    given = os.environ.get("KAYWATCH_URL")
    if given:
        return given
    if config.http.unix_path:
        return f"unix:{config.http.unix_path}"
    host, port = config.http.address
    if host in ("", "0.0.0.0", "::"):  # noqa: S104
        host = "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if config.http.tls else 'http'}://{host}:{port}"


def _socket(config: Config) -> str:
    """Return where clients look, or else what the configuration says."""
    endpoint = os.environ.get("KAYWATCH_ENDPOINT", "")
    if endpoint.startswith("unix:"):
        return urlsplit(endpoint).path
    if config.ingest.socket:
        return config.ingest.socket
    there = [path for path in candidates(None) if os.path.exists(path)]
    return there[0] if there else config.ingest.path

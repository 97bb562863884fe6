"""Gathers the facts that checks share: the configuration and the agent's answers."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from kaywatch._send.transport import candidates
from kaywatch.errors import KaywatchError
from kaywatch.query import fetch
from kaywatch_agent.cli.service.installer import Manager
from kaywatch_agent.config import Config, find, load
from kaywatch_agent.errors import ConfigError, StartError

__all__ = [
    "SERVICE",
    "SOCKET",
    "CheckContext",
    "Options",
    "SocketOwner",
    "gather",
    "group_name",
    "user_name",
]

SERVICE: Final = "kaywatch.service"
SOCKET: Final = "kaywatch.socket"

CONNECT_SECONDS: Final = 3.0

_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid


@dataclass(frozen=True)
class Options:
    """The options of the command line; empty if not given."""

    config: str = ""
    socket: str = ""
    store: str = ""
    url: str = ""


class SocketOwner(NamedTuple):
    """The process that called listen(2) on a socket, according to the kernel."""

    pid: int  # 1 for systemd; 0 for a process of another pid namespace
    uid: int


@dataclass(frozen=True)
class CheckContext:
    """The facts that checks start from.

    Attributes:
        path: the configuration file; None without one.
        config: its content; the defaults if it is invalid.
        config_error: why it is invalid.
        socket: the path that clients push to.
        store: the agent's database; None if it keeps everything in memory.
        url: the agent's HTTP address.
        health: the answer of `/health`; None if the agent did not answer.
        health_error: why it did not.
        health_time: Unix time halfway between request and answer.
        is_foreign: whether the configuration of the agent is not known, because only
            its URL is; then `path` is None, and `config` has the defaults.
    """

    path: Path | None
    config: Config
    config_error: ConfigError | None
    socket: str
    store: Path | None
    url: str
    health: Mapping[str, Any] | None
    health_error: KaywatchError | None
    health_time: float
    is_foreign: bool = False

    def get(self, path: str) -> Any:
        """Return the agent's JSON at a path; None if it does not answer the request."""
        try:
            return None if self.health is None else fetch(path, url=self.url)
        except KaywatchError:
            return None

    @cached_property
    def clients(self) -> list[dict[str, Any]] | None:
        """The clients that the agent knows; None if it does not answer."""
        answer = self.get("/api/v1/clients")
        return None if answer is None else list(answer["clients"])

    @property
    def connected(self) -> list[dict[str, Any]]:
        """The clients that are connected now."""
        return [c for c in self.clients or () if c["state"] == "connected"]

    @cached_property
    def manager(self) -> Manager | None:
        """The manager of the service: the system's, or else the user's."""
        if not is_systemd_booted():
            return None
        for manager in (Manager(), Manager(user=True)):
            if _read_property(manager, SERVICE, "LoadState") == "loaded":
                return manager
        return None

    @cached_property
    def socket_activated(self) -> bool:
        """Whether systemd listens, and a connection would start the agent."""
        if self.health is not None:
            return False
        return any(
            _read_property(manager, SOCKET, "ActiveState") == "active"
            and _read_property(manager, SERVICE, "ActiveState") != "active"
            for manager in (Manager(), Manager(user=True))
        )

    @cached_property
    def listener(self) -> SocketOwner | OSError:
        """The owner of the socket, or the error of connecting to it."""
        if self.socket_activated:
            return SocketOwner(1, 0)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(CONNECT_SECONDS)
                connection.connect(self.socket)
                credentials = connection.getsockopt(
                    socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
                )
        except OSError as error:
            return error
        pid, uid, _ = _CREDENTIALS.unpack(credentials)
        return SocketOwner(pid, uid)

    @property
    def systemd_listens(self) -> bool:
        """Whether the socket is systemd's; in a container, process 1 is the agent."""
        owner = self.listener
        is_first = isinstance(owner, SocketOwner) and owner.pid == 1
        return is_first and (self.socket_activated or is_systemd_booted())

    @property
    def process(self) -> SocketOwner | None:
        """The agent's process; None if it is not known."""
        owner = self.listener
        if not isinstance(owner, SocketOwner) or not owner.pid or self.systemd_listens:
            return None
        return owner


def is_systemd_booted() -> bool:
    """Return whether process 1 is systemd, see sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


def gather(options: Options) -> CheckContext:
    """Read the configuration, and request the agent's health."""
    path, config, config_error = find(options.config or None), Config(), None
    try:
        config = load(path)
    except ConfigError as error:
        config_error = error
    url = options.url or _find_url(config)
    # The default file, socket and store may be those of another agent.
    own_url = options.url.rstrip("/") in ("", _configured_url(config))
    is_foreign = not options.config and not own_url
    if is_foreign:
        path, config, config_error = None, Config(), None
    default_socket = "" if is_foreign else _find_socket(config)
    default_store = None if is_foreign else config.store.file
    before = time.time()
    health: Mapping[str, Any] | None = None
    health_error = None
    try:
        health = fetch("/health", url=url)
    except KaywatchError as error:
        health_error = error
    context = CheckContext(
        path=path,
        config=config,
        config_error=config_error,
        socket=options.socket or _socket_of(options, health) or default_socket,
        store=Path(options.store) if options.store else default_store,
        url=url,
        health=health,
        health_error=health_error,
        health_time=(before + time.time()) / 2,
        is_foreign=is_foreign,
    )
    # The file of the agent that answers, which its command line may have set.
    if health is not None and not options.store and context.process is not None:
        store = _open_store(context.process.pid)
        return context if store is None else replace(context, store=store)
    return context


def _open_store(pid: int) -> Path | None:
    """Return the store that a process has open; None if it is not known."""
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            file = os.readlink(f"/proc/{pid}/fd/{number}")
            if file.endswith("-wal"):  # of SQLite, beside the file itself
                return Path(file.removesuffix("-wal"))
    except OSError:
        pass  # of another user, or it has just ended
    return None


def _socket_of(options: Options, health: Mapping[str, Any] | None) -> str:
    """Return the socket of the agent at `--url`; empty if it is not known."""
    # The default path may be the socket of another agent.
    if not options.url or health is None:
        return ""
    try:
        return str(fetch("/api/v1/clients", url=options.url)["socket"])
    except KaywatchError:
        return ""


def user_name(uid: int) -> str:
    """Return the name of a user, or the number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Return the name of a group, or the number if it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


# -- inside --------------------------------------------------------------------------


def _read_property(manager: Manager, unit: str, name: str) -> str:
    try:
        return manager.properties(unit, name).get(name, "")
    except StartError:
        return ""  # no systemd, or this user has no session


def _find_url(config: Config) -> str:
    """Return `KAYWATCH_URL`, or the URL of the address in the configuration."""
    return os.environ.get("KAYWATCH_URL") or _configured_url(config)


def _configured_url(config: Config) -> str:
    if config.http.unix_path:
        return f"unix:{config.http.unix_path}"
    host, port = config.http.address
    if host in ("", "0.0.0.0", "::"):  # noqa: S104
        host = "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if config.http.tls else 'http'}://{host}:{port}"


def _find_socket(config: Config) -> str:
    """Return `KAYWATCH_ENDPOINT`, the configuration's path, or the default."""
    endpoint = os.environ.get("KAYWATCH_ENDPOINT", "")
    if endpoint.startswith("unix:"):
        return urlsplit(endpoint).path
    if config.ingest.socket:
        return config.ingest.socket
    existing = filter(os.path.exists, candidates(None))
    return next(existing, config.ingest.path)

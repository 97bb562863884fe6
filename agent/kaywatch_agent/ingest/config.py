"""Configuration of ingest (`[ingest]`)."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from typing import Final

from kaywatch._send.transport import user_sockets
from kaywatch_agent.ingest.access import Access
from kaywatch_agent.ingest.brokers import BrokerConfig
from kaywatch_agent.ingest.quotas import Quotas
from kaywatch_agent.runtime.sockets import check_mode, group_number
from kaywatch_agent.settings.reader import Size
from kaywatch_agent.units import parse_size

__all__ = ["IngestConfig"]

# A connection needs its socket and the pidfd of its process. The reserved descriptors
# are for HTTP, the store and short-lived files.
DESCRIPTORS_PER_CONNECTION: Final = 2
RESERVED_DESCRIPTORS: Final = 512


@dataclass(frozen=True)
class IngestConfig:
    """The socket that clients push to, and the brokers to read from.

    Attributes:
        socket: the path of the socket; by default `/run/kaywatch/ingest.sock` for a
            service and root, and `$XDG_RUNTIME_DIR/kaywatch/ingest.sock` for other
            users, or `~/.local/state/kaywatch/ingest.sock` without a runtime folder.
            Clients use the same defaults.
        mode: the permissions of the socket, in octal digits. Pushing requires write
            permission.
        group: the group of the socket, by name or number; by default the agent's.
        allow_uids: users that may push, by name or number.
        allow_gids: groups whose members may push, by name or number. With both lists
            empty, access depends on the socket's permissions alone. Root and the
            agent's own user may always push.
        connections_per_process: the maximum number of connections of one process.
        connections_per_user: the maximum number of connections of all processes of one
            user.
        rate_per_process: how many bytes per second one process may send; "0" for no
            limit.
        mqtt: the brokers; none by default.
    """

    socket: str = ""
    mode: str = "0660"
    group: str = ""
    allow_uids: tuple[str, ...] = ()
    allow_gids: tuple[str, ...] = ()
    connections_per_process: int = 2_000
    connections_per_user: int = 8_000
    rate_per_process: Size = "128MB"
    mqtt: tuple[BrokerConfig, ...] = ()

    def __post_init__(self) -> None:
        check_mode(self.mode)
        for key in ("connections_per_process", "connections_per_user"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} = {getattr(self, key)}: expected at least 1")
        # Unknown names are reported now rather than at the first connection.
        Access.named(self.allow_uids, self.allow_gids)
        if self.group:
            group_number("group", self.group)
        labels = [broker.label for broker in self.mqtt]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"mqtt: {label} is configured twice; remove one table")

    @property
    def access(self) -> Access:
        """The users and groups that may push."""
        return Access.named(self.allow_uids, self.allow_gids)

    @property
    def quotas(self) -> Quotas:
        """The limits of one process, of one user and of all together."""
        return Quotas(
            self.connections_per_process,
            self.connections_per_user,
            _max_connections(),
            float(parse_size(self.rate_per_process)),
        )

    @property
    def path(self) -> str:
        """The path of the socket, by default that of `default_path`."""
        return self.socket or default_path()


def default_path() -> str:
    """Return the path where clients expect the agent, for a service or this user."""
    service = os.environ.get("RUNTIME_DIRECTORY")  # systemd.exec(5)
    if service:
        return os.path.join(service.split(":")[0], "ingest.sock")
    if os.geteuid() == 0:
        return "/run/kaywatch/ingest.sock"
    runtime, state = user_sockets()
    has_runtime = os.path.isdir(os.path.dirname(os.path.dirname(runtime)))
    return runtime if has_runtime or "XDG_RUNTIME_DIR" in os.environ else state


def _max_connections() -> int:
    """Return how many connections the limit on open files allows."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return Quotas.connections
    return max(16, (limit - RESERVED_DESCRIPTORS) // DESCRIPTORS_PER_CONNECTION)

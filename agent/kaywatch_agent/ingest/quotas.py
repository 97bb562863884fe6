"""Limit the connections, bytes per second and memory of each process and user.

The limits of a process contain the effect of a faulty program. The limits of a user
cannot be evaded by starting more processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kaywatch_agent.ingest.access import Refusal

__all__ = ["Account", "Quotas", "QuotaUsage"]

# Bytes of incomplete frames: eight of the largest frames for a process, and as much as
# 64 such processes for a user.
MAX_PROCESS_BYTES: Final = 32 * 1024 * 1024
MAX_USER_BYTES: Final = 64 * MAX_PROCESS_BYTES


@dataclass(frozen=True)
class Quotas:
    """The limits of processes and users.

    Attributes:
        process_connections: the maximum number of connections of one process.
        user_connections: the maximum number of connections of one user.
        connections: the maximum number of all connections; derived from the limit on
            open files.
        rate: bytes per second of one process; 0 for no limit.
    """

    process_connections: int = 2_000
    user_connections: int = 8_000
    connections: int = 100_000
    rate: float = 0.0


class Account:
    """The usage of one process or one user."""

    __slots__ = ("buffered", "connections", "tokens", "updated")

    def __init__(self) -> None:
        self.connections = 0
        self.buffered = 0  # bytes of incomplete frames
        self.tokens = 0.0  # bytes that may be read now; negative after a burst
        self.updated = 0.0  # time of the last change of the tokens

    def spend(self, size: int, rate: float, now: float) -> float:
        """Count bytes; return how many seconds to pause reading.

        This is a token bucket with a burst of one second.
        """
        if not rate:
            return 0.0
        self.tokens = min(rate, self.tokens + rate * (now - self.updated)) - size
        self.updated = now
        return max(0.0, -self.tokens / rate)


class QuotaUsage:
    """The usage of all connected processes and users."""

    def __init__(self, quotas: Quotas) -> None:
        self.quotas = quotas
        self.connections = 0
        self._processes: dict[int, Account] = {}
        self._users: dict[int, Account] = {}

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another connection."""
        return self.connections >= self.quotas.connections

    def enter(self, pid: int, uid: int) -> Refusal | None:
        """Count a new connection; return the reason if it exceeds a limit."""
        quotas = self.quotas
        process = self._processes.get(pid)
        user = self._users.get(uid)
        if self.is_full:
            return Refusal.DESCRIPTORS
        if process and process.connections >= quotas.process_connections:
            return Refusal.PROCESS_CONNECTIONS
        if user and user.connections >= quotas.user_connections:
            return Refusal.USER_CONNECTIONS
        self.connections += 1
        for account in self._accounts(pid, uid):
            account.connections += 1
        return None

    def leave(self, pid: int, uid: int) -> None:
        """Count the end of a connection."""
        self.connections -= 1
        for account in self._accounts(pid, uid):
            account.connections -= 1
        for accounts, number in ((self._processes, pid), (self._users, uid)):
            if not accounts[number].connections:
                del accounts[number]

    def add_buffered(self, pid: int, uid: int, size: int) -> Refusal | None:
        """Change the number of buffered bytes; return the reason if it is too high."""
        process, user = self._accounts(pid, uid)
        process.buffered += size
        user.buffered += size
        over = process.buffered > MAX_PROCESS_BYTES or user.buffered > MAX_USER_BYTES
        return Refusal.MEMORY if over and size > 0 else None

    def spend(self, pid: int, uid: int, size: int, now: float) -> float:
        """Count bytes that were read; return how many seconds to pause reading."""
        return self._accounts(pid, uid)[0].spend(size, self.quotas.rate, now)

    def _accounts(self, pid: int, uid: int) -> tuple[Account, Account]:
        return (
            self._processes.setdefault(pid, Account()),
            self._users.setdefault(uid, Account()),
        )

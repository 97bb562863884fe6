"""What one process, and one user, may take of the agent: connections, bytes, memory.

A process is known by its pid, so that one that runs wild stops itself; a user by its
number, so that nobody gets round that by starting more of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kaywatch_agent.ingest.access import Refusal

__all__ = ["Account", "Quotas", "Shares"]

# Frames that are not complete, and bytes that wait for their turn: eight of the largest
# frames there are for a process, and for a user what 64 such processes hold.
PROCESS_HELD: Final = 32 * 1024 * 1024
USER_HELD: Final = 64 * PROCESS_HELD


@dataclass(frozen=True)
class Quotas:
    """How much is whose.

    Attributes:
        process_connections: connections of one process.
        user_connections: connections of all processes of one user.
        connections: connections in all; what the limit on open files leaves room for.
        rate: bytes a second of one process; 0 for any.
    """

    process_connections: int = 2_000
    user_connections: int = 8_000
    connections: int = 100_000
    rate: float = 0.0


class Account:
    """What one process or one user has taken."""

    __slots__ = ("at", "connections", "held", "tokens")

    def __init__(self) -> None:
        self.connections = 0
        self.held = 0  # bytes
        self.tokens = 0.0  # bytes that may be read now; less than none after a burst
        self.at = 0.0  # when the tokens were counted

    def spend(self, size: int, rate: float, now: float) -> float:
        """Take bytes off; return how long there shall be no more, in seconds.

        A second's worth may come at once (a token bucket).
        """
        if not rate:
            return 0.0
        self.tokens = min(rate, self.tokens + rate * (now - self.at)) - size
        self.at = now
        return max(0.0, -self.tokens / rate)


class Shares:
    """The accounts of all who are connected."""

    def __init__(self, quotas: Quotas) -> None:
        self.quotas = quotas
        self.connections = 0
        self._processes: dict[int, Account] = {}
        self._users: dict[int, Account] = {}

    def enter(self, pid: int, uid: int) -> Refusal | None:
        """Count a connection in, or say why there can't be another."""
        quotas = self.quotas
        process = self._processes.get(pid)
        user = self._users.get(uid)
        if self.connections >= quotas.connections:
            return Refusal.DESCRIPTORS
        if process and process.connections >= quotas.process_connections:
            return Refusal.PROCESS_CONNECTIONS
        if user and user.connections >= quotas.user_connections:
            return Refusal.USER_CONNECTIONS
        self.connections += 1
        for account in self._of(pid, uid):
            account.connections += 1
        return None

    def leave(self, pid: int, uid: int) -> None:
        """Count a connection out."""
        self.connections -= 1
        for account in self._of(pid, uid):
            account.connections -= 1
        for accounts, number in ((self._processes, pid), (self._users, uid)):
            if not accounts[number].connections:
                del accounts[number]

    def hold(self, pid: int, uid: int, size: int) -> Refusal | None:
        """Count bytes that are kept, or with less than 0 are no more."""
        process, user = self._of(pid, uid)
        process.held += size
        user.held += size
        over = process.held > PROCESS_HELD or user.held > USER_HELD
        return Refusal.MEMORY if over and size > 0 else None

    def spend(self, pid: int, uid: int, size: int, now: float) -> float:
        """Count bytes that were read; return how long to read no more, in seconds."""
        return self._of(pid, uid)[0].spend(size, self.quotas.rate, now)

    def _of(self, pid: int, uid: int) -> tuple[Account, Account]:
        return (
            self._processes.setdefault(pid, Account()),
            self._users.setdefault(uid, Account()),
        )

"""Makes the agent's state durable: one commit at a time, all parts in one transaction.

A commit contains everything that changed before it began. What changes meanwhile, and
the content of a failed commit, is part of the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final, Protocol

import structlog

from kaywatch_agent.aggregate.change import WriteBatch
from kaywatch_agent.errors import StoreError
from kaywatch_agent.store.writer import StoreDamaged, StoreWriter

__all__ = ["Committer", "Durable"]

# How long `wait_durable` waits for a commit.
WAIT_SECONDS: Final = 5.0

log = structlog.get_logger("kaywatch.agent")


class Durable(Protocol):
    """A part of the agent whose state survives a restart."""

    def changes(self, full: bool) -> Any:
        """Return the changes since the last call; with `full`, the whole state.

        A call of `committed` or `refused` follows, with the same changes.
        """

    def committed(self, change: Any) -> None:
        """Handle that a change is durable."""

    def refused(self, change: Any) -> None:
        """Add a change to the next one, because it is not durable."""


class Committer:
    """Commits the changes of all parts.

    Attributes:
        writer: the store; without one, a change is durable as soon as it is made.
    """

    def __init__(self, parts: Sequence[Durable]) -> None:
        """Prepare commits.

        Args:
            parts: in the order in which their changes are collected.
        """
        self.writer: StoreWriter | None = None
        self._parts = parts
        self._fault = ""  # a bug, in the last commit
        self._full = False  # the next commit must contain everything
        self._requested = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def problem(self) -> str:
        """The current problem of the store; empty for none."""
        return self._fault or (self.writer.problem if self.writer is not None else "")

    def request(self) -> None:
        """Ask for a commit soon."""
        self._requested.set()

    async def requested(self) -> None:
        """Wait until a commit is due."""
        await self._requested.wait()
        self._requested.clear()

    async def wait_durable(self) -> str:
        """Wait until everything changed so far is durable.

        Returns:
            Why it is not durable; empty if it is.
        """
        if self.writer is None:
            return ""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self.request()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS):
                await future
                return ""
        return self.problem or f"no commit in {WAIT_SECONDS:.0f} s"

    async def commit(self) -> bool:
        """Commit all changes; return whether they are durable. Never raises."""
        waiting, self._waiting = self._waiting, []
        full, self._full = self._full, False
        changes: list[tuple[Durable, Any]] = []
        durable = await self._try(full, changes)
        for part, change in changes:
            (part.committed if durable else part.refused)(change)
        waiting = [future for future in waiting if not future.done()]
        if durable:
            for future in waiting:
                future.set_result(None)
        else:
            self._full = self._full or full
            self._waiting[:0] = waiting
        return durable

    async def _try(self, full: bool, changes: list[tuple[Durable, Any]]) -> bool:
        """Collect changes into `changes` and write them; return whether that worked."""
        fault, self._fault = self._fault, ""
        try:
            for part in self._parts:
                changes.append((part, part.changes(full)))  # noqa: PERF401, one may fail
            if self.writer is not None:
                await self.writer.commit(WriteBatch.of(made for _, made in changes))
        except StoreDamaged:
            self._full = True  # earlier commits are lost with the file
        except StoreError:
            pass  # the writer reports it
        except Exception as error:
            self._fault = f"{type(error).__name__}: {error}"
            if self._fault != fault:
                log.exception("commit failed; retrying")
        else:
            return True
        return False

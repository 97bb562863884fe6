"""Makes the agent's state durable: one commit at a time, all parts in one transaction.

What changed before a commit began is in it. What changes meanwhile, and what a commit
that failed held, is in the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final, Protocol

import structlog

from kaywatch_agent.aggregate.change import WriteBatch
from kaywatch_agent.errors import StoreError
from kaywatch_agent.store.writer import Damaged, Writer

__all__ = ["Committer", "Durable"]

# How long `wait_durable` waits for the commit of what was changed.
WAIT_SECONDS: Final = 5.0

log = structlog.get_logger("kaywatch.agent")


class Durable(Protocol):
    """A part of the agent whose state survives a restart."""

    def changes(self, full: bool) -> Any:
        """Return what changed since the last call; with `full`, all that is known.

        The commit that it is for is followed by `committed` or `refused`.
        """

    def committed(self, change: Any) -> None:
        """Learn that a change is durable."""

    def refused(self, change: Any) -> None:
        """Learn that a change is not durable: it belongs into the next one."""


class Committer:
    """Commits the changes of all parts.

    Attributes:
        writer: the store; without one, a change is durable as soon as it is made.
    """

    def __init__(self, parts: Sequence[Durable]) -> None:
        """Prepare it.

        Args:
            parts: in the order in which they are asked for changes.
        """
        self.writer: Writer | None = None
        self._parts = parts
        self._full = False  # the next commit must hold all that is known
        self._requested = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def problem(self) -> str:
        """What is wrong with the store at the moment; empty for nothing."""
        return self.writer.problem if self.writer is not None else ""

    def request(self) -> None:
        """Ask for a commit soon."""
        self._requested.set()

    async def requested(self) -> None:
        """Wait until a commit is due."""
        await self._requested.wait()
        self._requested.clear()

    async def wait_durable(self) -> str:
        """Wait until all that was changed is durable.

        Returns:
            Why it is not, empty if it is.
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
        """Commit what has changed; return whether it is durable."""
        waiting, self._waiting = self._waiting, []
        full, self._full = self._full, False
        changes = [part.changes(full) for part in self._parts]
        if await self._write(changes):
            for part, change in zip(self._parts, changes, strict=True):
                part.committed(change)
            for future in waiting:
                if not future.done():
                    future.set_result(None)
            return True
        for part, change in zip(self._parts, changes, strict=True):
            part.refused(change)
        self._full = self._full or full
        self._waiting = [
            future for future in waiting if not future.done()
        ] + self._waiting
        return False

    async def _write(self, changes: Sequence[Any]) -> bool:
        if self.writer is None:
            return True
        try:
            await self.writer.commit(WriteBatch.of(changes))
        except Damaged:
            self._full = True  # what was committed before is not there any more
        except StoreError:
            pass  # the writer reports it
        except Exception:
            log.exception("a commit failed, and is tried again")
        else:
            return True
        return False

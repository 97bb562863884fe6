"""The agent as its own client: whether what is pushed to the socket is committed.

Strategy: connect to the path that clients use, send a flush and wait for its ack. It
goes the way of every message, and the ack comes after a commit, so it shows that bytes
are taken in, decoded, made durable and acknowledged. A flush without a client makes no
client, and no series.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

import structlog

from kaywatch import wire
from kaywatch_agent.ingest.peers import credentials

__all__ = ["Probe"]

INTERVAL: Final = 10.0
RETRY: Final = 2.0  # while something is wrong

# Clients wait so long for their greeting.
DEADLINE: Final = 5.0

log = structlog.get_logger("kaywatch.agent")


class Probe:
    """One path, pushed to at an interval."""

    def __init__(self, path: str, tell: Callable[[str], None]) -> None:
        """Push nothing yet.

        Args:
            path: where the agent listens.
            tell: takes what is wrong after each look; empty for nothing.
        """
        self._path = path
        self._tell = tell
        self._problem = ""

    async def run(self) -> None:
        """Look at every interval, until cancelled."""
        while True:
            problem = await self.look()
            if problem and problem != self._problem:
                log.error("clients can't push to this agent", problem=problem)
            elif self._problem and not problem:
                log.info("clients can push to this agent again")
            self._problem = problem
            self._tell(problem)
            await asyncio.sleep(RETRY if problem else INTERVAL)

    async def look(self) -> str:
        """Push once; return what is wrong, empty for nothing."""
        try:
            async with asyncio.timeout(DEADLINE):
                return await self._push()
        except TimeoutError:
            return f"{self._path}: nothing was acknowledged within {DEADLINE:g} s"
        except FileNotFoundError:
            return f"{self._path} is gone: no client finds this agent until a restart"
        except (OSError, EOFError, ValueError) as error:
            return f"{self._path}: {type(error).__name__}: {error}"

    async def _push(self) -> str:
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            # Of a listening socket, it is who called listen(2): unix(7).
            pid, _, _ = credentials(writer.get_extra_info("socket"))
            if pid != os.getpid():
                return f"{self._path}: process {pid} listens there in place of this one"
            writer.write(wire.frame(wire.flush()))
            while True:
                size = int.from_bytes(await reader.readexactly(4), "big")
                reply = wire.decode(await reader.readexactly(min(size, wire.MAX_FRAME)))
                if reply.get("type") == "ack":
                    return ""
                if reply.get("type") == "error":
                    return f"{self._path}: {reply.get('text')}"
        finally:
            writer.close()

"""Check regularly that messages pushed to the socket are committed.

Strategy: connect to the path that clients use, send a flush and wait for its ack. The
flush is processed like any message, and the ack follows a commit. So an ack shows that
messages are read, decoded, committed and acknowledged. A flush without a client id
creates no client and no series.
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
RETRY: Final = 2.0  # after a failure

# The same time that clients wait for the answer to their hello.
DEADLINE: Final = 5.0

log = structlog.get_logger("kaywatch.agent")


class Probe:
    """Pushes to one path at an interval."""

    def __init__(self, path: str, report: Callable[[str], None]) -> None:
        """Prepare the probe; `run` starts it.

        Args:
            path: where the agent listens.
            report: called with the problem after each check; empty if there is none.
        """
        self._path = path
        self._report = report
        self._problem = ""

    async def run(self) -> None:
        """Check at every interval, until cancelled."""
        while True:
            problem = await self.check()
            if problem and problem != self._problem:
                log.error("clients cannot push to this agent", problem=problem)
            elif self._problem and not problem:
                log.info("clients can push to this agent again")
            self._problem = problem
            self._report(problem)
            await asyncio.sleep(RETRY if problem else INTERVAL)

    async def check(self) -> str:
        """Push once; return the problem, or an empty string."""
        try:
            async with asyncio.timeout(DEADLINE):
                return await self._push()
        except TimeoutError:
            return f"{self._path}: nothing was acknowledged within {DEADLINE:g} s"
        except FileNotFoundError:
            return f"{self._path} was deleted: restart the agent to create it again"
        except (OSError, EOFError, ValueError) as error:
            return f"{self._path}: {type(error).__name__}: {error}"

    async def _push(self) -> str:
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            # The peer is the process that called listen(2): see unix(7).
            pid, _, _ = credentials(writer.get_extra_info("socket"))
            if pid != os.getpid():
                return f"{self._path}: process {pid} listens there instead of this one"
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

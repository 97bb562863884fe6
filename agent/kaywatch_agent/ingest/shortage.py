"""Reports that the agent lacks file descriptors for further connections."""

from __future__ import annotations

import math
import resource
from typing import Final

import structlog

__all__ = ["DescriptorShortage"]

# Seconds without a refused connection. Clients that are refused try again sooner.
OVER_AFTER: Final = 3.0

log = structlog.get_logger("kaywatch.agent")


class DescriptorShortage:
    """Whether connections are refused, logged when it begins and when it ends.

    Attributes:
        problem: what is wrong, and the fix; empty for nothing.
    """

    def __init__(self) -> None:
        self.problem = ""
        self._noted = -math.inf

    def note(self, now: float) -> None:
        """Note a connection that could not be accepted.

        Args:
            now: monotonic seconds.
        """
        self._noted = now
        if not self.problem:
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            self.problem = (
                f"no file descriptor is left for another client (the limit is {limit}):"
                " raise LimitNOFILE of the service, or ulimit -n"
            )
            log.warning("cannot accept connections", problem=self.problem)

    def update(self, now: float) -> None:
        """Note the time, after which the shortage may be over.

        Args:
            now: monotonic seconds.
        """
        if self.problem and now - self._noted >= OVER_AFTER:
            self.problem = ""
            log.info("accepting connections again")

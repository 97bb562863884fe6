"""Sample the memory and CPU usage of connected local processes, some at each tick."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection
from typing import Final

from kaywatch_agent.aggregate.clients import Clients
from kaywatch_agent.pipeline.session import Session

__all__ = ["ProcessSampler"]

SAMPLE_SECONDS: Final = 10.0

# The samples of one tick. A sample takes about 50 us, so a thousand processes at once
# would take 50 ms. With more than a thousand, each is sampled less often.
MIN_SAMPLES: Final = 20
MAX_SAMPLES: Final = 100


class ProcessSampler:
    """Samples each process every ten seconds, as evenly as possible."""

    def __init__(self) -> None:
        self._sampled_at: dict[str, float] = {}  # by client, Unix seconds

    def sample(
        self,
        sessions: Collection[tuple[str, Session]],
        clients: Clients,
        now: float,
    ) -> None:
        """Sample the processes that have waited the longest.

        Args:
            sessions: the connected clients, with their sessions.
            clients: all clients.
            now: Unix seconds.
        """
        sampled_at = self._sampled_at
        due = [
            (sampled_at.get(name, -math.inf), name, session)
            for name, session in sessions
            # Behind a broker, a client sends its own usage.
            if session.ordered
            and not 0.0 <= now - sampled_at.get(name, -math.inf) < SAMPLE_SECONDS
        ]
        most = min(
            MAX_SAMPLES, max(MIN_SAMPLES, math.ceil(len(sessions) / SAMPLE_SECONDS))
        )
        for _, name, session in heapq.nsmallest(most, due, key=lambda one: one[0]):
            sampled_at[name] = now
            client = clients.get(name)
            sample = session.peer.sample() if client is not None else None
            if client is not None and sample is not None:
                client.add_sample(sample, now)

    def forget(self, client: str) -> None:
        """Discard the state of a client that was removed."""
        self._sampled_at.pop(client, None)

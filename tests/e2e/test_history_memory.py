"""An agent whose hour does not fit into its memory reads it from the store."""

from __future__ import annotations

import socket
import time
from typing import Any

import numpy as np
from tests.agent.protocol.samples import TABLE, batch, executions
from tests.agents import Agent, new_agent, until
from tests.e2e.test_peers import metrics

from kaywatch import wire

FIGURES = (
    *("total_executions", "avg_execution_time", "min_execution_time"),
    *("max_execution_time", "p50_execution_time", "p95_execution_time"),
)
PER_BATCH = 500


def push(agent: Agent, seq: int, now: float) -> None:
    """Send executions of the last 50 minutes, and wait until they are counted."""
    random = np.random.default_rng(seq)
    columns = executions(
        PER_BATCH,
        end=(now - 60 - 2_940 * random.random(PER_BATCH)).tolist(),
        # Multiples of 1/64 add up exactly.
        seconds=(np.ceil(random.lognormal(0, 1, PER_BATCH) * 64) / 64).tolist(),
    )
    message = batch(seq=seq, executions=columns, table=wire.pack(TABLE), sent=now)
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(agent.socket)
        link.sendall(wire.frame(message))
        until(lambda: sum_of(agent) == seq * PER_BATCH, "the batch is counted")


def figures(agent: Agent) -> list[Any]:
    """Return the figures of both nodes in the last hour."""
    nodes = [agent.node(name, window="1h") for name in ("pay", "ship")]
    return [node[figure] for node in nodes for figure in FIGURES]


def test_an_hour_is_exact_whatever_fits_into_memory() -> None:
    with new_agent() as agent, new_agent() as other:
        config = agent.folder / "kaywatch.toml"
        config.write_text('[limits]\nhistory = "500kB"\n')
        agent.start("--config", str(config))
        other.start()
        now = time.time()
        for seq in (1, 2, 3):
            for each in (agent, other):
                push(each, seq, now)
            wait_stored(agent)
            # The next batch brings buckets back into memory.
            assert figures(agent) == figures(other)

        assert figures(agent) == figures(other)

        agent.stop()
        agent.start("--config", str(config))
        assert figures(agent) == figures(other)


def sum_of(agent: Agent) -> int:
    return sum(agent.executions().values())


def wait_stored(agent: Agent) -> None:
    """Wait until the history takes no more memory than it may."""

    def is_small() -> bool:
        (size,) = metrics(agent, "kaywatch_history_bytes").values()
        (stored,) = metrics(agent, "kaywatch_history_stored_buckets").values()
        return size <= 500_000 and stored > 100

    until(is_small, "most buckets are in the store only")

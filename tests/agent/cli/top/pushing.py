"""Pushes rows to a running agent, as another language would."""

from __future__ import annotations

import socket
import sys
from typing import Any

from tests.agents import Agent, until

from kaywatch import wire

COMMAND = [sys.executable, "-m", "kaywatch_agent"]

# A real application: one execution under way until a line comes.
HANGING = """
import sys, kaywatch
with kaywatch.execution("batch", "before"):
    pass
with kaywatch.execution("batch", "hanging"):
    kaywatch.flush()
    print("ready")
    sys.stdin.readline()
"""

# Another: failures with their messages, and a call of a model.
REAL = """
import contextlib, kaywatch
class CardDeclined(Exception): pass
for number in range(4):
    with contextlib.suppress(CardDeclined), kaywatch.execution("checkout", "pay"):
        raise CardDeclined(f"no money\\nleft on \\x1b[31mcard {number}")
with kaywatch.execution("checkout", "draft"):
    kaywatch.record_llm(model="large", input_tokens=9, output_tokens=1, cost_usd=0.25)
"""


def push(agent: Agent, *rows: dict[str, Any], service: str = "shop") -> None:
    """Send events on a connection of its own."""
    batch = {"type": "batch", "v": wire.VERSION, "service": service}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(agent.socket)
        connection.sendall(wire.frame(wire.pack({**batch, "events": list(rows)})))


def row(node: str, seconds: float = 0.01, **more: Any) -> dict[str, Any]:
    return {"graph": "checkout", "node": node, "seconds": seconds, **more}


def push_shop(agent: Agent) -> None:
    """Let it see healthy nodes, a sick one, a model's cost, and another service."""
    push(agent, *(row("load", 0.02) for _ in range(40)))
    push(agent, *(row("pay", 0.3) for _ in range(16)))
    push(agent, *(row("draft", 1.5, attempts=2) for _ in range(29)))
    push(agent, {"graph": "nightly", "node": "sweep", "seconds": 4.0}, service="jobs")
    agent.run(REAL, KAYWATCH_SERVICE="shop")
    expected = {"load": 40, "pay": 20, "draft": 30, "sweep": 1}
    until(lambda: agent.executions() == expected, "all has arrived")

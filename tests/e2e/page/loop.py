"""An application whose last run goes round and round, and then waits to be released.

Five runs end as they should, and one by an exception.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from pocketflow import Flow, Node

import kaywatch

kaywatch.instrument()


class Ask(Node):  # type: ignore[misc]
    """Asks as often as its run requires, and then waits for a line if required."""

    def prep(self, shared: dict[str, Any]) -> dict[str, Any]:
        return shared

    def exec(self, shared: dict[str, Any]) -> None:
        shared["questions"] -= 1
        if shared["questions"] < 0:
            raise LookupError("no question is left")
        if shared["questions"] == 0 and shared["waits"]:
            sys.stdin.readline()

    def post(self, shared: dict[str, Any], prepared: object, result: object) -> str:
        return "again" if shared["questions"] else "answered"


class Plan(Node):  # type: ignore[misc]
    """Does nothing."""


class Answer(Node):  # type: ignore[misc]
    """Does nothing."""


plan, ask = Plan(), Ask()
plan >> ask
ask - "again" >> ask
ask - "answered" >> Answer()
flow = kaywatch.name(Flow(start=plan), "Interview")

for _ in range(5):
    flow.run({"questions": 2, "waits": False})
with contextlib.suppress(LookupError):
    flow.run({"questions": 0, "waits": False})
flow.run({"questions": 140, "waits": True})

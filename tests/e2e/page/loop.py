"""An application whose last run goes round and round, and then waits to be released.

Five runs end as they should, one by an exception at once, and one after two rounds.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from pocketflow import Flow, Node

import kaywatch

kaywatch.instrument()


class Ask(Node):  # type: ignore[misc]
    """Asks as often as its run requires, and then waits for a line or fails."""

    def prep(self, shared: dict[str, Any]) -> dict[str, Any]:
        return shared

    def exec(self, shared: dict[str, Any]) -> None:
        shared["questions"] -= 1
        if shared["questions"] < 0 or (shared["questions"] == 0 and shared["fails"]):
            raise LookupError("no question is left")
        if shared["questions"] == 0 and shared["waits"]:
            sys.stdin.readline()

    def post(self, shared: dict[str, Any], prepared: object, result: object) -> str:
        return "again" if shared["questions"] else "answered"


class Plan(Node):  # type: ignore[misc]
    """Calls two models, one of which has no price."""

    def exec(self, prepared: object) -> None:
        kaywatch.record_llm(model="mine", input_tokens=300, cost_usd=0.42)
        kaywatch.record_llm(model="unheard-of", input_tokens=1200)


class Answer(Node):  # type: ignore[misc]
    """Does nothing."""


plan, ask = Plan(), Ask()
plan >> ask
ask - "again" >> ask
ask - "answered" >> Answer()
flow = kaywatch.name(Flow(start=plan), "Interview")


def interview(questions: int, *, waits: bool = False, fails: bool = False) -> None:
    flow.run({"questions": questions, "waits": waits, "fails": fails})


for _ in range(5):
    interview(2)
with contextlib.suppress(LookupError):
    interview(0)
with contextlib.suppress(LookupError):
    interview(3, fails=True)
interview(140, waits=True)

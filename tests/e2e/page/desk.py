"""A support desk in PocketFlow, whose graph has everything that a drawing can show.

A loop, retries, a fallback, a dead end, a node that is never reached, a graph inside a
node, and a name that is markup. `python desk.py RUNS` runs it RUNS times.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from typing import Any

from pocketflow import Flow, Node

import kaywatch

HOSTILE = "<img src=x onerror=alert(1)>"


class Step(Node):  # type: ignore[misc]
    """Returns the next action that its run has for it."""

    def prep(self, shared: dict[str, Any]) -> dict[str, Any]:
        return shared

    def post(self, shared: dict[str, Any], prepared: object, result: object) -> str:
        actions = shared["actions"].get(self.name)
        return actions.pop(0) if actions else "default"


class Flaky(Step):
    """Fails as often as its run says."""

    def exec(self, shared: dict[str, Any]) -> None:
        if self.cur_retry < shared["failures"]:
            raise ConnectionError("no answer")


class Guarded(Step):
    """Fails each time, and answers by its fallback."""

    def exec(self, shared: dict[str, Any]) -> None:
        raise TimeoutError("the reviewer is asleep")

    def exec_fallback(self, shared: object, error: Exception) -> None:
        return None


def step(name: str, kind: type[Step] = Step, **options: int) -> Step:
    node = kaywatch.name(kind(**options), name)
    node.name = name
    return node


def build() -> Flow:
    triage, send, escalate = step("Triage"), step("Send"), step("Escalate")
    draft, review = step("Draft", Flaky, max_retries=3), step("Review", Guarded)
    embed = step("Embed")
    embed >> step("Rank")
    retrieve = kaywatch.name(Flow(start=embed), "Retrieve")
    triage - "question" >> retrieve
    triage - "angry" >> escalate
    triage - "spam" >> step("Spam")
    retrieve >> draft >> review
    review - "revise" >> draft
    review - "approve" >> send
    escalate - "written" >> step(HOSTILE)
    return kaywatch.name(Flow(start=triage), "SupportDesk")


RUNS: list[dict[str, list[str]]] = [
    {"Triage": ["question"], "Review": ["revise", "revise", "approve"]},
    {"Triage": ["question"], "Review": ["approve"]},
    {"Triage": ["angry"], "Escalate": ["written"]},
    {"Triage": ["angry"], "Escalate": ["phone"]},
]


def main(runs: int) -> None:
    warnings.simplefilter("ignore")  # PocketFlow warns of the dead end.
    kaywatch.instrument()
    desk = build()
    for number in range(runs):
        actions = {key: list(value) for key, value in RUNS[number % 4].items()}
        failures = 4 if number % 12 == 9 else number % 2
        with contextlib.suppress(ConnectionError):
            desk.run({"actions": actions, "failures": failures})


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""Faults: each changes what the nodes of a graph do from some time on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.docs.company.steps import Behaviours

__all__ = ["FAULTS"]

Fault = Callable[[Behaviours], None]


def _change(node: str, **values: Any) -> Fault:
    """Return a fault that changes attributes of one node."""

    def apply(behaviours: Behaviours) -> None:
        for name, value in values.items():
            setattr(behaviours[node], name, value)

    return apply


FAULTS: dict[str, Fault] = {
    "failing": _change("Pay", errors={"timeout": 0.42}, seconds=1.4),
    "low-traffic": _change("Parse", errors={"database": 0.85}),
    "slow": _change("Generate", seconds=6.5),
    "memory": _change("Parse", megabytes=260),
    "died": _change("Embed", is_deadly=True),
    "silent": lambda _: None,
    "dead-end": _change(
        "Triage",
        actions={"question": 0.58, "refund": 0.17, "spam": 0.1, "complaint": 0.15},
    ),
    "never-reached": lambda _: None,
    "runaway": _change("CheckAnswer", actions={"off topic": 1.0}),
    "stuck": _change("Reserve", is_stuck=True),
    "masked": _change("WebSearch", errors={"search": 0.4}),
    "drift": _change("Review", actions={"approve": 0.45, "revise": 0.55}),
    "waste": _change("Draft", errors={"json": 0.17}),
}

"""Nodes with a behaviour: their duration, cost, result and errors."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pocketflow import Flow, Node
from tests.docs.company import clock

import kaywatch


@dataclass
class Behaviour:
    """What a node does; a fault changes it.

    Attributes:
        seconds: the median of its duration.
        model: the model that it calls; empty for none.
        tokens: of the prompt, and of the answer.
        actions: the probability of each action.
        errors: the probability of each exception, by its text.
        retries: calls of `exec` at most.
        has_fallback: whether `exec_fallback` answers after the last failure.
        custom: a custom metric, and its median.
        megabytes: how much memory it keeps.
        is_stuck: whether it does not end any more, once the clock has caught up.
        is_deadly: whether it ends its process, likewise.
    """

    seconds: float
    model: str = ""
    tokens: tuple[int, int] = (0, 0)
    actions: dict[str, float] = field(default_factory=lambda: {"default": 1.0})
    errors: dict[str, float] = field(default_factory=dict)
    retries: int = 1
    has_fallback: bool = False
    custom: tuple[str, float] | None = None
    megabytes: int = 0
    is_stuck: bool = False
    is_deadly: bool = False


class ModelOverloaded(Exception):
    """The provider has no capacity."""


class RateLimited(Exception):
    """Too many requests."""


_ERRORS: dict[str, Callable[[], Exception]] = {
    "timeout": lambda: TimeoutError("the payment provider did not answer in 10 s"),
    "search": lambda: ConnectionError("search.example: connection reset by peer"),
    "overloaded": lambda: ModelOverloaded("529: overloaded, try again later"),
    "limited": lambda: RateLimited("429: quota of 60 requests per minute"),
    "stock": lambda: LookupError("no such article"),
    "json": lambda: ValueError("the answer is not valid JSON"),
    "database": lambda: OSError("could not connect to db-2: no route to host"),
}


class Step(Node):  # type: ignore[misc]
    """Acts as its behaviour defines."""

    def __init__(self, name: str, behaviour: Behaviour) -> None:
        super().__init__(max_retries=behaviour.retries)
        self.behaviour = behaviour
        kaywatch.name(self, name)

    def exec(self, _: object) -> None:
        behaviour = self.behaviour
        if clock.behind() == 0:
            _go_wrong(behaviour)
        seconds = behaviour.seconds * random.lognormvariate(0, 0.3)
        clock.sleep(seconds)
        kinds, shares = [*behaviour.errors], [*behaviour.errors.values()]
        kind = random.choices(["", *kinds], [max(0.0, 1 - sum(shares)), *shares])[0]
        error = _ERRORS[kind]() if kind else None
        if behaviour.model:
            self._record_call(seconds, error)
        if behaviour.custom:
            name, median = behaviour.custom
            kaywatch.observe(name, round(median * random.lognormvariate(0, 0.4)))
        if error is not None:
            raise error

    def exec_fallback(self, _: object, error: Exception) -> None:
        if not self.behaviour.has_fallback:
            raise error

    def post(self, shared: Any, prepared: object, result: object) -> str:
        actions = self.behaviour.actions
        return random.choices([*actions], [*actions.values()])[0]

    def _record_call(self, seconds: float, error: Exception | None) -> None:
        prompt, answer = self.behaviour.tokens
        # An answer that is not JSON, or arrives too late, costs as much as any other.
        is_charged = error is None or isinstance(error, (ValueError, TimeoutError))
        kaywatch.record_llm(
            model=self.behaviour.model,
            input_tokens=int(prompt * random.uniform(0.7, 1.3)) if is_charged else 0,
            output_tokens=int(answer * random.uniform(0.6, 1.4)) if is_charged else 0,
            seconds=seconds,
            first_token_seconds=seconds * 0.2 if is_charged else None,
            error=None if is_charged else error,
        )


_memory: list[bytes] = []


def _go_wrong(behaviour: Behaviour) -> None:
    if behaviour.is_stuck:
        clock.sleep(3600)
    if behaviour.is_deadly:
        # So that the agent knows the nodes in flight.
        clock.sleep(3)
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour.megabytes and not _memory:
        _memory.append(b"x" * (behaviour.megabytes << 20))


Behaviours = dict[str, Behaviour]
Wiring = list[tuple[str, str, str]]


def build(graph: str, behaviours: Behaviours, wiring: Wiring) -> Flow:
    """Return a graph: its first node is the first behaviour."""
    steps = {name: Step(name, behaviour) for name, behaviour in behaviours.items()}
    for source, action, target in wiring:
        if action == "default":
            steps[source] >> steps[target]
        else:
            steps[source] - action >> steps[target]
    return kaywatch.name(Flow(start=next(iter(steps.values()))), graph)

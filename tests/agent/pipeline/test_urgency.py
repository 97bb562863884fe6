"""Which batches rules look at before the next tick."""

from __future__ import annotations

import pytest
from tests.agent.protocol.fakes import Agent, FakeLink
from tests.agent.protocol.samples import (
    FAILURE,
    ROW,
    batch,
    executions,
    hello,
    points,
    rows,
)

from kaywatch import wire
from kaywatch_agent.rules.load import load

POINT = {"metric": "depth", "kind": "gauge", "value": 7.0}


def requests_of(agent: Agent, *messages: bytes) -> int:
    """Send messages together; return how often an evaluation was requested."""
    conversation = agent.open(FakeLink())
    conversation.receive(wire.frame(hello()))
    before = agent.evaluations_requested
    conversation.receive(b"".join(map(wire.frame, messages)))
    return agent.evaluations_requested - before


@pytest.mark.parametrize(
    ("message", "requests"),
    [
        (batch(executions=executions(3)), 0),
        (batch(executions=executions(3), failures=[FAILURE]), 1),
        (batch(executions=None, points=points(2)), 1),
        (rows(ROW), 0),
        (rows({**ROW, "outcome": "error"}), 1),
        (rows({**ROW, "error": "Timeout"}), 1),
        (rows(POINT), 1),
        (rows({**POINT, "metric": "width"}), 0),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value),
)
def test_failures_and_watched_values_request_an_evaluation(
    message: bytes, requests: int
) -> None:
    # The metric `tokens` is that of the points.
    agent = Agent(watched=lambda: {b"tokens", b"depth"})
    assert requests_of(agent, message) == requests


def test_values_that_no_rule_looks_at_request_none() -> None:
    agent = Agent(watched=lambda: {b"depth"})
    assert requests_of(agent, batch(executions=None, points=points(2))) == 0


def test_many_failures_of_one_read_request_one_evaluation() -> None:
    agent = Agent()
    messages = [
        batch(seq=seq, executions=executions(3), failures=[FAILURE])
        for seq in range(1, 6)
    ]
    assert requests_of(agent, *messages) == 1


def test_a_repeated_batch_requests_none() -> None:
    agent = Agent()
    failing = batch(seq=1, executions=executions(3), failures=[FAILURE])
    conversation = agent.open(FakeLink())
    conversation.receive(wire.frame(hello()))
    conversation.receive(wire.frame(failing))
    conversation.receive(wire.frame(failing))
    assert agent.evaluations_requested == 1


def test_the_watched_values_are_those_that_rules_look_at() -> None:
    common = {"window": "1m", "op": ">", "value": 1}
    settings = load(
        {
            "rule": [
                {"name": "a", "metric": "custom.queue depth.last", **common},
                {"name": "b", "when": "custom.größe.avg > 5 and executions > 1"},
                {"name": "c", "metric": "latency_p95", **common},
            ]
        }
    )
    assert settings.custom_metrics == {b"queue depth", "größe".encode()}

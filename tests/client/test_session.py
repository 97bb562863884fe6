"""The conversation with an agent: what is sent again, and what never is."""

from __future__ import annotations

from typing import Any

import pytest

from kaywatch import wire
from kaywatch._session import GREETING_TIMEOUT, STALL_TIMEOUT, Identity, Session
from kaywatch.recorder import Recorder

IDENTITY = Identity(b"i" * 16, "service", "host", 42, 1.0, "sdk", {"zone": "b"})


class ScriptedAgent:
    """An agent on the other side of `connect`, which the test makes answer."""

    def __init__(self) -> None:
        self.absent = False
        self.greets = True
        self.committed = 0
        self.connections: list[ScriptedTransport] = []

    def connect(self) -> ScriptedTransport:
        if self.absent:
            raise ConnectionRefusedError("nobody is there")
        self.connections.append(ScriptedTransport(self))
        return self.connections[-1]

    @property
    def last(self) -> ScriptedTransport:
        return self.connections[-1]


class ScriptedTransport:
    def __init__(self, agent: ScriptedAgent) -> None:
        self.agent = agent
        self.sent: list[dict[str, Any]] = []
        self.replies: list[bytes] = []
        self.backlog = 0
        self.broken = False
        self.closed = False

    def send(self, message: bytes) -> None:
        decoded = wire.decode(message)
        self.sent.append(decoded)
        if decoded["type"] == "hello" and self.agent.greets:
            self.replies.append(wire.ack(self.agent.committed, IDENTITY.client))

    def pump(self, timeout: float) -> list[bytes]:
        if self.broken:
            raise ConnectionResetError("broken")
        replies, self.replies = self.replies, []
        return replies

    def close(self) -> None:
        self.closed = True

    def batches(self) -> list[int]:
        return [m["seq"] for m in self.sent if m["type"] == "batch"]

    def ack(self, seq: int) -> None:
        self.agent.committed = seq
        self.replies.append(wire.ack(seq, IDENTITY.client))


@pytest.fixture
def agent() -> ScriptedAgent:
    return ScriptedAgent()


@pytest.fixture
def recorder() -> Recorder:
    recorder = Recorder()
    recorder.open_gate()
    return recorder


@pytest.fixture
def session(agent: ScriptedAgent, recorder: Recorder) -> Session:
    return Session(IDENTITY, recorder, agent.connect)


def record(recorder: Recorder, times: int = 1) -> None:
    for _ in range(times):
        recorder.series("g", "n").record(0.1)


def test_a_hello_comes_first_and_batches_wait_for_its_answer(
    session: Session, recorder: Recorder, agent: ScriptedAgent
) -> None:
    agent.greets = False
    record(recorder)
    session.step(1.0)
    (hello,) = agent.last.sent
    assert hello["type"] == "hello"
    assert hello["tags"] == {"zone": "b"}

    agent.last.replies.append(wire.ack(0, IDENTITY.client))
    session.step(2.0)
    assert agent.last.batches() == [1]
    assert session.connected


def test_a_batch_is_kept_until_it_is_acknowledged(
    session: Session, recorder: Recorder, agent: ScriptedAgent
) -> None:
    record(recorder, 3)
    session.step(1.0)
    assert not session.settled
    assert session.buffer.events == 3

    agent.last.ack(1)
    session.step(2.0)
    assert session.settled
    assert session.buffer.acked_events == 3


def test_after_a_reconnect_only_what_is_not_committed_is_sent_again(
    session: Session, recorder: Recorder, agent: ScriptedAgent
) -> None:
    for second in range(4):
        record(recorder)
        session.step(float(second))
    assert agent.last.batches() == [1, 2, 3, 4]
    agent.committed = 2  # committed, and the acks were lost with the connection
    agent.last.broken = True
    session.step(5.0)
    assert agent.last.closed

    session.step(10.0)
    assert agent.last.batches() == [3, 4]
    assert session.buffer.acked_events == 2


def test_an_absent_agent_is_looked_for_with_a_growing_delay(
    session: Session, recorder: Recorder, agent: ScriptedAgent
) -> None:
    agent.absent = True
    record(recorder)
    tries = 0

    def connect() -> ScriptedTransport:
        nonlocal tries
        tries += 1
        return agent.connect()

    session._connect = connect
    for tenth in range(200):
        session.step(tenth / 10)
    assert 10 <= tries <= 25
    assert "nobody is there" in session.error
    agent.absent = False
    session.step(30.0)
    session.step(31.0)
    assert agent.last.batches() == [1]
    assert session.error == ""


def test_someone_who_waits_does_not_wait_for_the_delay(
    session: Session, recorder: Recorder, agent: ScriptedAgent
) -> None:
    agent.absent = True
    record(recorder)
    for tenth in range(100):
        session.step(tenth / 10)
    agent.absent = False

    session.step(10.0, urgent=True)
    assert session.connected


def test_a_flush_asks_once_for_an_early_ack(
    session: Session, recorder: Recorder, agent: ScriptedAgent
) -> None:
    record(recorder)
    for second in range(3):
        session.step(float(second), urgent=True)

    kinds = [message["type"] for message in agent.last.sent]
    assert kinds == ["hello", "batch", "flush"]


def test_an_agent_that_does_not_greet_is_left(
    session: Session, recorder: Recorder, agent: ScriptedAgent
) -> None:
    agent.greets = False
    record(recorder)
    session.step(0.0)
    session.step(GREETING_TIMEOUT + 1)

    assert agent.last.closed
    assert "greeting" in session.error


def test_an_agent_that_reads_nothing_is_left(
    session: Session, recorder: Recorder, agent: ScriptedAgent
) -> None:
    record(recorder)
    session.step(0.0)
    agent.last.backlog = 1000
    session.step(1.0)
    session.step(2.0 + STALL_TIMEOUT)

    assert agent.last.closed
    assert session.buffer.events == 1


def test_a_batch_that_is_refused_for_good_is_dropped_and_reported(
    session: Session,
    recorder: Recorder,
    agent: ScriptedAgent,
    caplog: pytest.LogCaptureFixture,
) -> None:
    record(recorder, 7)
    session.step(0.0)
    for _ in range(3):
        agent.last.replies.append(
            wire.error(wire.ErrorCode.BAD_MESSAGE, "no good", seq=1)
        )
    session.step(1.0)
    record(recorder)
    session.step(2.0)

    assert session.buffer.lost == {"rejected": 7}
    assert agent.last.sent[-1]["drops"] == {"rejected": 7}
    assert caplog.text.count("no good") == 1


def test_an_agent_of_another_version_gets_nothing_and_costs_nothing(
    session: Session, recorder: Recorder, agent: ScriptedAgent
) -> None:
    agent.greets = False
    record(recorder)
    session.step(0.0)
    agent.last.replies.append(
        wire.error(wire.ErrorCode.UNSUPPORTED_VERSION, "version 1: I speak 2")
    )
    session.step(1.0)
    for second in range(2, 6):
        session.step(float(second))

    assert len(agent.connections) == 1
    assert session.buffer.events == 1
    assert "I speak 2" in session.error


def test_slow_down_is_heard(session: Session, agent: ScriptedAgent) -> None:
    session.step(0.0)
    agent.last.replies.append(wire.slow(5))
    session.step(1.0)

    assert session.interval == 5


def test_topologies_are_sent_again_to_a_new_connection(
    session: Session, recorder: Recorder, agent: ScriptedAgent
) -> None:
    from kaywatch.recorder import Topology

    recorder.wired(Topology("g", "a", ("a",), ()))
    record(recorder)
    session.step(0.0)
    agent.last.ack(1)
    record(recorder)
    session.step(1.0)
    agent.last.broken = True
    session.step(2.0)
    record(recorder)
    session.step(9.0)
    session.step(10.0)

    told = [
        [("topologies" in m) for m in c.sent if m["type"] == "batch"]
        for c in agent.connections
    ]
    assert told[0] == [True, False]
    assert told[1].count(True) == 1


def test_a_goodbye_carries_the_last_drops(
    session: Session, recorder: Recorder, agent: ScriptedAgent
) -> None:
    record(recorder)
    session.step(0.0)
    agent.last.ack(1)
    session.step(1.0)
    session.buffer.count_drop("pending_full", 3)
    session.close()

    goodbye = agent.last.sent[-1]
    assert (goodbye["type"], goodbye["seq"]) == ("bye", 1)
    assert goodbye["drops"] == {"pending_full": 3}
    assert agent.last.closed


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x01", b"\x81\xa4type\xa3ack"])
def test_an_answer_that_is_none_ends_the_connection_only(
    session: Session, recorder: Recorder, agent: ScriptedAgent, garbage: bytes
) -> None:
    record(recorder)
    session.step(0.0)
    agent.last.replies.append(garbage)
    session.step(1.0)

    assert agent.last.closed
    assert session.buffer.events == 1

"""The protocol with an agent: which batches are sent again, and which never are."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from kaywatch import wire
from kaywatch._send.batches import Batches
from kaywatch._send.connection import AgentConnection
from kaywatch._send.identity import ClientIdentity
from kaywatch._send.session import (
    EAGER,
    GREETING_TIMEOUT,
    PATIENCE_MIN,
    STALL_TIMEOUT,
    USAGE_INTERVAL,
    WINDOW_BATCHES,
)
from kaywatch._send.transport import AgentStatus, Refused, RetryAtOnce
from kaywatch.recorder import Recorder

IDENTITY = ClientIdentity(b"i" * 16, "service", "host", 42, 1.0, "sdk", {"zone": "b"})


class ScriptedAgent:
    """An agent whose answers the test controls."""

    def __init__(self) -> None:
        self.absent = False
        self.greets = True
        self.commits = False  # when it is asked to
        self.behind_broker = False
        self.largest = wire.MAX_FRAME
        self.committed = 0
        self.connections: list[ScriptedTransport] = []

    def connect(self) -> ScriptedTransport:
        if self.absent:
            raise ConnectionRefusedError("connection refused")
        self.connections.append(ScriptedTransport(self))
        return self.connections[-1]

    @property
    def last(self) -> ScriptedTransport:
        return self.connections[-1]


class ScriptedTransport:
    def __init__(self, agent: ScriptedAgent) -> None:
        self.agent = agent
        self.lossy = agent.behind_broker
        self.largest = agent.largest
        self.sent: list[dict[str, Any]] = []
        self.replies: list[bytes | AgentStatus] = []
        self.backlog = 0
        self.broken = False
        self.closed = False

    def send(self, message: bytes) -> None:
        decoded = wire.decode(message)
        self.sent.append(decoded)
        if (
            decoded["type"] == "flush"
            and self.agent.commits
            and "client" not in decoded
        ):
            self.replies.append(wire.ack(0, b""))
        if decoded["type"] == "hello" and self.agent.greets:
            number = decoded["greeting"] if self.lossy else 0
            committed = self.agent.committed
            self.replies.append(wire.ack(committed, IDENTITY.client, number))

    def receive(self, timeout: float) -> list[bytes | AgentStatus]:
        if self.broken:
            raise ConnectionResetError("broken")
        replies, self.replies = self.replies, []
        return replies

    def close(self) -> None:
        self.closed = True

    def hellos(self) -> list[tuple[int, int]]:
        """Return `greeting` and `first` of each hello."""
        return [(m["greeting"], m["first"]) for m in self.sent if m["type"] == "hello"]

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
    recorder.open()
    return recorder


@pytest.fixture
def session(agent: ScriptedAgent, recorder: Recorder) -> AgentConnection:
    return AgentConnection(Batches(IDENTITY, recorder), agent.connect)


def record(recorder: Recorder, times: int = 1) -> None:
    for _ in range(times):
        recorder.series("g", "n").record(0.1)


def executions(message: dict[str, Any]) -> int:
    return len(message.get("executions", {}).get("outcome", b""))


def test_a_hello_comes_first_and_batches_wait_for_its_answer(
    session: AgentConnection, recorder: Recorder, agent: ScriptedAgent
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
    session: AgentConnection, recorder: Recorder, agent: ScriptedAgent
) -> None:
    record(recorder, 3)
    session.step(1.0)
    assert not session.batches.is_drained()
    assert session.batches.buffer.events == 3

    agent.last.ack(1)
    session.step(2.0)
    assert session.batches.is_drained()
    assert session.batches.buffer.acked_events == 3


def test_reconnect_resends_only_uncommitted_batches(
    session: AgentConnection, recorder: Recorder, agent: ScriptedAgent
) -> None:
    for second in range(4):
        record(recorder)
        session.step(float(second))
    assert agent.last.batches() == [1, 2, 3, 4]
    agent.committed = 2  # the acks were lost with the connection
    agent.last.broken = True
    session.step(5.0)
    assert agent.last.closed

    session.step(10.0)
    assert agent.last.batches() == [3, 4]
    assert session.batches.buffer.acked_events == 2


def test_absent_agent_is_retried_with_growing_delay(
    session: AgentConnection, recorder: Recorder, agent: ScriptedAgent
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
    assert "connection refused" in session.error
    agent.absent = False
    session.step(30.0)
    session.step(31.0)
    assert agent.last.batches() == [1]
    assert session.error == ""


def test_the_random_numbers_of_the_application_stay_the_same(
    session: AgentConnection, agent: ScriptedAgent
) -> None:
    agent.absent = True
    random.seed(7)
    expected = random.Random(7).random()
    for second in range(5):
        session.step(float(second))

    assert random.random() == expected


def test_urgent_step_connects_without_delay(
    session: AgentConnection, recorder: Recorder, agent: ScriptedAgent
) -> None:
    agent.absent = True
    record(recorder)
    for tenth in range(100):
        session.step(tenth / 10)
    agent.absent = False

    session.step(10.0, urgent=True)
    assert session.connected


def test_flush_requests_an_early_ack_once(
    session: AgentConnection, recorder: Recorder, agent: ScriptedAgent
) -> None:
    record(recorder)
    for second in range(3):
        session.step(float(second), urgent=True)

    kinds = [message["type"] for message in agent.last.sent]
    assert kinds == ["hello", "batch", "flush"]


def test_agent_that_does_not_answer_hello_is_disconnected(
    session: AgentConnection, recorder: Recorder, agent: ScriptedAgent
) -> None:
    agent.greets = False
    record(recorder)
    session.step(0.0)
    session.step(GREETING_TIMEOUT + 1)

    assert agent.last.closed
    assert "`hello`" in session.error


def test_agent_that_does_not_read_is_disconnected(
    session: AgentConnection, recorder: Recorder, agent: ScriptedAgent
) -> None:
    record(recorder)
    session.step(0.0)
    agent.last.backlog = 1000
    session.step(1.0)
    session.step(2.0 + STALL_TIMEOUT)

    assert agent.last.closed
    assert session.batches.buffer.events == 1


def test_rejected_batch_is_dropped_and_reported(
    session: AgentConnection,
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

    assert session.batches.buffer.dropped == {"rejected": 7}
    assert agent.last.sent[-1]["drops"] == {"rejected": 7}
    assert caplog.text.count("no good") == 1


def test_agent_of_another_version_gets_no_batches_and_loses_none(
    session: AgentConnection, recorder: Recorder, agent: ScriptedAgent
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
    assert session.batches.buffer.events == 1
    assert "I speak 2" in session.error


def test_slow_message_sets_the_interval(
    session: AgentConnection, agent: ScriptedAgent
) -> None:
    session.step(0.0)
    agent.last.replies.append(wire.slow(5))
    session.step(1.0)

    assert session.interval == 5


def test_topologies_are_resent_on_a_new_connection(
    session: AgentConnection, recorder: Recorder, agent: ScriptedAgent
) -> None:
    from kaywatch.recorder import Topology

    recorder.add_topology(Topology("g", "a", ("a",), ()))
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

    resent = [
        [("topologies" in m) for m in c.sent if m["type"] == "batch"]
        for c in agent.connections
    ]
    assert resent[0] == [True, False]
    assert resent[1].count(True) == 1


def test_a_goodbye_reports_what_was_never_sent() -> None:
    recorder = Recorder()
    batches = Batches(IDENTITY, recorder)
    recorder.series("g", "n").record(0.1)
    batches.pack(wire.MAX_FRAME)

    goodbye = wire.decode(batches.goodbye())

    assert goodbye["drops"] == {"unsent": 1}
    assert batches.buffer.events == 0


def test_a_goodbye_carries_the_last_drops(
    session: AgentConnection, recorder: Recorder, agent: ScriptedAgent
) -> None:
    record(recorder)
    session.step(0.0)
    agent.last.ack(1)
    session.step(1.0)
    session.batches.buffer.count_drop("pending_full", 3)
    session.close()

    goodbye = agent.last.sent[-1]
    assert (goodbye["type"], goodbye["seq"]) == ("bye", 1)
    assert goodbye["drops"] == {"pending_full": 3}
    assert agent.last.closed


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x01", b"\x81\xa4type\xa3ack"])
def test_invalid_reply_ends_only_the_connection(
    session: AgentConnection, recorder: Recorder, agent: ScriptedAgent, garbage: bytes
) -> None:
    record(recorder)
    session.step(0.0)
    agent.last.replies.append(garbage)
    session.step(1.0)

    assert agent.last.closed
    assert session.batches.buffer.events == 1


# -- behind a broker -------------------------------------------------------------------


@pytest.fixture
def broker(agent: ScriptedAgent) -> ScriptedAgent:
    agent.behind_broker = True
    return agent


def test_missing_batches_are_resent_after_a_hello(
    session: AgentConnection, recorder: Recorder, broker: ScriptedAgent
) -> None:
    for second in range(3):
        record(recorder)
        session.step(float(second))
    sent = broker.last.batches()
    broker.last.replies.append(wire.resend(1, IDENTITY.client))
    broker.committed = 1
    session.step(3.0)
    session.step(3.0)

    assert broker.last.hellos() == [(1, 1), (2, 1)]
    assert broker.last.batches() == [*sent, *sent[1:]]


def test_earlier_acks_do_not_answer_a_hello(
    session: AgentConnection, recorder: Recorder, broker: ScriptedAgent
) -> None:
    record(recorder)
    session.step(0.0)
    broker.greets = False
    broker.last.replies.append(wire.resend(0, IDENTITY.client))
    session.step(1.0)
    before = broker.last.batches()

    broker.last.ack(1)
    record(recorder)
    session.step(2.0)
    assert session.batches.buffer.acked_events == 1
    assert broker.last.batches() == before

    broker.last.replies.append(wire.ack(1, IDENTITY.client, greeting=2))
    session.step(3.0)
    assert broker.last.batches()[-1] == session.batches.seq


def test_hellos_without_acks_back_off(
    session: AgentConnection, recorder: Recorder, broker: ScriptedAgent
) -> None:
    record(recorder)
    session.step(0.0)
    broker.greets = False
    times = []
    for second in range(1, 200):
        before = len(broker.last.hellos())
        session.step(float(second))
        if len(broker.last.hellos()) > before:
            times.append(second)

    gaps = [after - one for one, after in itertools.pairwise(times)]
    assert times[0] == PATIENCE_MIN + 1
    assert gaps == [11, 21, 41, 61]
    assert not session.connected


def test_agent_that_acknowledges_no_batch_gets_few_hellos(
    session: AgentConnection, recorder: Recorder, broker: ScriptedAgent
) -> None:
    record(recorder)
    for second in range(200):
        session.step(float(second))

    assert len(broker.last.hellos()) <= 6
    assert session.connected


def test_quiet_client_sends_one_hello(
    session: AgentConnection, recorder: Recorder, broker: ScriptedAgent
) -> None:
    record(recorder)
    for second in range(100):
        session.step(float(second))
        if session.batches.buffer.first_seq:
            broker.last.ack(session.batches.seq)

    assert len(broker.last.hellos()) == 1


def test_unacknowledged_batches_are_limited(
    session: AgentConnection, recorder: Recorder, broker: ScriptedAgent
) -> None:
    for second in range(WINDOW_BATCHES * 2):
        record(recorder)
        session.step(second / 1000)
    assert broker.last.batches() == list(range(1, WINDOW_BATCHES + 1))
    assert session.is_busy(1.0)  # an ack is worth polling for

    broker.last.ack(10)
    session.step(1.0)
    assert broker.last.batches()[-1] == WINDOW_BATCHES + 10


def test_nothing_is_sent_while_the_agent_is_offline(
    session: AgentConnection, recorder: Recorder, broker: ScriptedAgent
) -> None:
    record(recorder)
    session.step(0.0)
    sent = len(broker.last.sent)
    broker.last.replies.append(AgentStatus.AWAY)
    for second in range(1, 100):
        record(recorder)
        session.step(float(second), urgent=True)
    assert len(broker.last.sent) == sent
    assert not session.connected and not session.is_busy(100.0)

    broker.last.replies.append(AgentStatus.ARRIVED)
    broker.committed = 1
    session.step(100.0)
    session.step(100.0)
    assert broker.last.hellos()[-1] == (2, 1)
    assert session.connected
    assert broker.last.batches() == list(range(1, WINDOW_BATCHES + 2))


@pytest.mark.parametrize(
    ("status", "expected"),
    [(None, False), (AgentStatus.HERE, True), (AgentStatus.AWAY, False)],
)
def test_a_flush_waits_for_the_first_answer_of_an_agent_that_is_there(
    session: AgentConnection,
    broker: ScriptedAgent,
    status: AgentStatus | None,
    expected: bool,
) -> None:
    broker.greets = False
    session.step(0.0)
    broker.last.backlog = 1  # the broker has not accepted the connection yet
    late = 100 * EAGER
    assert session.expects_answer(late)
    session.step(late)
    broker.last.backlog = 0
    session.step(late)
    # Its hello has just left.
    assert session.expects_answer(late + EAGER / 2)

    if status is not None:
        broker.last.replies.append(status)
        session.step(late)
    assert session.expects_answer(late + 2 * EAGER) == expected


def test_resource_usage_is_sent_over_a_broker(
    session: AgentConnection, recorder: Recorder, broker: ScriptedAgent
) -> None:
    for second in range(int(USAGE_INTERVAL) * 3):
        session.step(second + 100.0)
        broker.last.ack(session.batches.seq)
    resent = [m["process"] for m in broker.last.sent if "process" in m]

    assert len(resent) == 3
    assert resent[0]["rss"] > 1_000_000
    assert 0 < resent[0]["cpu"] <= resent[-1]["cpu"]


def test_batch_too_large_for_the_broker_is_split(
    session: AgentConnection, recorder: Recorder, broker: ScriptedAgent
) -> None:
    broker.greets = False
    record(recorder, 2_000)
    session.step(0.0)  # the broker's limit is not known yet
    broker.last.largest = 10_000
    broker.last.replies.append(wire.ack(0, IDENTITY.client, greeting=1))
    record(recorder, 2_000)
    session.step(1.0)
    session.step(2.0)

    sizes = [len(wire.pack(m)) for m in broker.last.sent if m["type"] == "batch"]
    assert max(sizes) <= 10_000
    assert broker.last.batches() == list(range(1, len(sizes) + 1))
    assert sum(map(executions, broker.last.sent)) == 4_000
    assert session.batches.buffer.dropped == {}
    assert session.batches.buffer.events == 4_000


@pytest.mark.parametrize("commits", [True, False], ids=["answered", "unanswered"])
def test_a_batch_that_was_sent_is_split_once_the_agent_cannot_have_it(
    session: AgentConnection, recorder: Recorder, broker: ScriptedAgent, commits: bool
) -> None:
    broker.commits = commits
    record(recorder, 2_000)
    session.step(0.0)
    assert broker.last.batches() == [1]
    session.abandon()  # the broker closed the connection after batch 1
    broker.largest = 10_000
    session.step(10.0)
    session.step(10.1)
    if not commits:
        session.step(11.0)
        assert broker.last.batches() == []  # a commit may be under way
        session.step(20.0)
        session.step(20.1)

    kinds = [message["type"] for message in broker.last.sent]
    assert kinds[:3] == ["hello", "flush", "hello"]
    assert len(broker.last.batches()) > 1
    assert sum(map(executions, broker.last.sent)) == 2_000


def test_a_batch_that_is_committed_meanwhile_is_not_split(
    session: AgentConnection, recorder: Recorder, broker: ScriptedAgent
) -> None:
    record(recorder, 2_000)
    session.step(0.0)
    session.abandon()
    broker.largest = 10_000
    session.step(10.0)
    assert broker.last.sent[-1]["type"] == "flush"
    broker.committed = 1  # as the answer to the second hello says
    broker.last.replies.append(wire.ack(0, b""))
    session.step(10.1)
    session.step(10.2)

    assert sum(map(executions, broker.last.sent)) == 0
    assert session.batches.buffer.acked_events == 2_000


def test_a_batch_that_the_agent_has_is_not_split(
    session: AgentConnection, recorder: Recorder, broker: ScriptedAgent
) -> None:
    record(recorder, 2_000)
    session.step(0.0)
    session.abandon()
    broker.largest = 10_000
    session.step(10.0)
    session.step(11.0)
    broker.last.ack(1)
    session.step(12.0)

    assert sum(map(executions, broker.last.sent)) == 0
    assert session.batches.buffer.acked_events == 2_000


def test_other_mqtt_version_is_tried_at_once(
    recorder: Recorder, broker: ScriptedAgent
) -> None:
    def connect() -> ScriptedTransport:
        if not broker.connections:
            broker.connect()
            raise RetryAtOnce("it speaks another version")
        return broker.connect()

    session = AgentConnection(Batches(IDENTITY, recorder), connect)
    record(recorder)
    session.step(0.0)
    assert session.is_busy(0.0)
    session.step(0.0)
    assert session.connected


def test_refused_connection_is_logged_once(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[float] = []

    def connect() -> ScriptedTransport:
        tried.append(now)
        raise Refused("wrong password")

    session = AgentConnection(Batches(IDENTITY, recorder), connect)
    for second in range(60):
        now = float(second)
        session.step(now)

    assert [r.getMessage() for r in caplog.records] == [
        "kaywatch cannot send: wrong password"
    ]
    assert 6 <= len(tried) <= 12

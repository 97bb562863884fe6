"""Sessions over a broker that loses, repeats and reorders messages."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.agent.protocol.fakes import NOW, Agent, Conversation, FakeTopic
from tests.agent.protocol.samples import CLIENT, ROW, batch, executions, hello, rows

from kaywatch import wire
from kaywatch._send.batches import Batches
from kaywatch._send.connection import AgentConnection
from kaywatch._send.identity import ClientIdentity
from kaywatch.recorder import Recorder
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.series import ClientState

OTHER = b"another process!"


class Talk:
    """An agent, and one client's topics."""

    def __init__(self, client: bytes = CLIENT) -> None:
        self.agent = Agent()
        self.id = client
        self.open()

    def open(self) -> None:
        self.topic = FakeTopic()
        self.conversation: Conversation = self.agent.converse(
            self.topic, self.id.hex(), "broker", named=True
        )
        self.topic.conversation = self.conversation

    def exchange(self, *messages: bytes) -> list[dict[str, Any]]:
        for message in messages:
            self.conversation.take(message)
        return self.topic.replies()

    def batch(self, seq: int | None, **changed: Any) -> bytes:
        changed.setdefault("executions", executions(3))
        return batch(client=self.id, seq=seq, **changed)

    def tick(self) -> list[dict[str, Any]]:
        self.agent.now += 1
        self.agent.tick()
        return self.topic.replies()

    @property
    def client(self) -> Client:
        client = self.agent.pipeline.clients.get(self.id.hex())
        assert client is not None
        return client


@pytest.fixture
def talk() -> Talk:
    return Talk()


def ack(seq: int, **more: int) -> dict[str, Any]:
    return {"type": "ack", "client": CLIENT, "seq": seq, **more}


def resend(after: int) -> dict[str, Any]:
    return {"type": "resend", "client": CLIENT, "after": after}


def test_an_answer_names_its_greeting_and_other_acks_name_none(talk: Talk) -> None:
    assert talk.exchange(hello(greeting=1, first=1)) == [ack(0, greeting=1)]
    talk.exchange(talk.batch(1))
    assert talk.tick() == [ack(1)]
    assert talk.exchange(hello(greeting=2, first=2)) == [ack(1, greeting=2)]


def test_a_batch_beyond_the_next_is_asked_for_and_not_taken(talk: Talk) -> None:
    talk.exchange(hello(greeting=1, first=1), talk.batch(1))
    assert talk.exchange(talk.batch(3)) == [resend(1)]
    assert talk.exchange(talk.batch(2), talk.batch(3), talk.batch(3)) == []
    assert talk.tick() == [ack(3)]

    assert talk.agent.count_stored() == 9
    assert talk.client.missing_batches == 0
    assert talk.agent.counted("untimely_batches_total") == 1
    assert talk.agent.counted("duplicate_batches_total") == 1


def test_an_agent_with_many_gaps_asks_once_a_second(talk: Talk) -> None:
    talk.exchange(hello(greeting=1, first=1))
    assert talk.exchange(*(talk.batch(seq) for seq in range(2, 50))) == [resend(0)]
    talk.tick()
    assert talk.exchange(talk.batch(50)) == [resend(0)]
    assert talk.agent.counted("resends_requested_total") == 2


def test_an_unknown_client_is_asked_where_it_begins(talk: Talk) -> None:
    assert talk.exchange(talk.batch(7)) == [resend(0)]
    assert talk.agent.pipeline.clients.get(CLIENT.hex()) is None
    assert talk.exchange(hello(greeting=3, first=7)) == [ack(0, greeting=3)]
    talk.exchange(talk.batch(7))
    assert talk.tick() == [ack(7)]


def test_batches_dropped_by_a_client_are_not_waited_for(talk: Talk) -> None:
    talk.exchange(hello(greeting=1, first=1), talk.batch(1))
    talk.tick()
    # The ack has the committed number, so the client knows whether 2 to 4 are.
    assert talk.exchange(hello(greeting=2, first=5)) == [ack(1, greeting=2)]
    talk.exchange(talk.batch(5, drops={"buffer_full": 9}))
    assert talk.tick() == [ack(5)]
    assert talk.client.missing_batches == 3


def test_old_news_are_no_signs_of_life(talk: Talk) -> None:
    talk.exchange(hello(greeting=1, first=1), talk.batch(1), wire.bye(CLIENT, 1))
    assert talk.client.state is ClientState.ENDED
    assert talk.topic.closed
    talk.tick()
    talk.open()

    talk.exchange(talk.batch(1), hello(greeting=1, first=1), wire.bye(CLIENT, 1))
    assert talk.client.state is ClientState.ENDED


def test_a_repeated_bye_counts_its_drops_once(talk: Talk) -> None:
    talk.exchange(hello(greeting=1, first=1))
    goodbye = wire.bye(CLIENT, 0, {"buffer_full": 5})
    talk.exchange(goodbye)
    talk.open()
    talk.exchange(goodbye)
    assert talk.client.dropped == {"buffer_full": 5}


def test_a_topic_is_one_clients_alone(talk: Talk) -> None:
    other = batch(client=OTHER, executions=executions(3))
    for message in (other, hello(client=OTHER), wire.bye(OTHER, 1), wire.flush(OTHER)):
        (reply,) = talk.exchange(message)
        assert (reply["type"], reply["code"]) == ("error", "forbidden")
    talk.tick()
    assert talk.agent.count_stored() == 0
    assert not len(talk.agent.pipeline.clients)


def test_capture_over_a_broker_is_rejected(talk: Talk) -> None:
    (reply,) = talk.exchange(wire.capture())
    assert reply["code"] == "forbidden"


def test_rows_need_no_number_and_no_client(talk: Talk) -> None:
    assert talk.exchange(rows(ROW)) == []
    talk.tick()
    assert talk.agent.count_stored() == 1


def test_a_process_behind_a_broker_is_not_searched_on_this_host(talk: Talk) -> None:
    """Host and pid of a hello over a broker are not verified."""
    talk.exchange(hello(greeting=1, first=1, host="here", pid=1))
    assert talk.client.via == "broker"
    stored = Client.from_json(talk.client.to_json())

    pids: list[int] = []
    after = Agent()
    after.pipeline.restore([stored], lambda pid, _: pids.append(pid), host="here")
    (client,) = after.pipeline.clients
    assert (client.via, client.state) == ("broker", ClientState.DISCONNECTED)
    assert not pids


def test_a_client_reports_its_own_memory_and_cpu(talk: Talk) -> None:
    for seq, cpu in ((1, 2.0), (2, 7.0)):
        usage = {"rss": 50_000_000, "cpu": cpu}
        talk.exchange(talk.batch(seq, sent=NOW + 10 * seq, process=usage))
    talk.tick()
    assert talk.client.sample is not None
    assert talk.client.sample.rss_bytes == 50_000_000
    assert talk.client.cpu_percent == 50.0


@pytest.mark.parametrize("process", [{"cpu": -1.0}, {"cpu": "x"}, 3, {"rss": 5}])
def test_an_invalid_process_report_loses_no_event(talk: Talk, process: Any) -> None:
    talk.exchange(talk.batch(1, process=process))
    reply, acked = talk.tick()
    assert reply["code"] == "bad_section"
    assert acked == ack(1)
    assert talk.agent.count_stored() == 3


# -- client and agent, with a bad broker between them ----------------------------------


class BadBroker:
    """Holds messages in transit; the test delivers or loses them."""

    lossy = True
    largest = wire.MAX_FRAME
    backlog = 0

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.up: list[bytes] = []

    def send(self, message: bytes) -> None:
        self.up.append(message)

    def receive(self, timeout: float) -> list[bytes]:
        result, self.talk.topic.messages = self.talk.topic.messages, []
        return result

    def close(self) -> None:
        self.up.clear()

    def deliver(self, at: int) -> None:
        """Take a message out of the middle: it overtakes others."""
        if self.up:
            self.talk.conversation.take(self.up.pop(at % len(self.up)))

    def next(self, _: int = 0) -> None:
        self.deliver(0)

    def repeat(self, at: int) -> None:
        if self.up:
            self.talk.conversation.take(self.up[at % len(self.up)])

    def lose(self, at: int) -> None:
        if self.up:
            self.up.pop(at % len(self.up))

    def lose_replies(self, _: int) -> None:
        self.talk.topic.messages.clear()


DEEDS = ("record", "step", "tick", "deliver", "next", "repeat", "lose", "lose_replies")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 30)), max_size=120),
    st.booleans(),
)
def test_events_are_counted_once_whatever_the_broker_does(
    deeds: list[tuple[str, int]], small: bool
) -> None:
    talk = Talk(client=b"i" * 16)
    broker = BadBroker(talk)
    recorder = Recorder()
    recorder.open()
    identity = ClientIdentity(talk.id, "service", "host", 42, 1.0, "sdk", {})
    size = 1_200 if small else 1_000_000  # bytes of the buffer
    batches = Batches(identity, recorder, size)
    connection = AgentConnection(batches, lambda: broker)
    now = 0.0

    def record(times: int) -> None:
        for _ in range(times + 1):
            recorder.series("g", "n").record(0.1)

    def step(tenths: int) -> None:
        nonlocal now
        now += tenths / 10
        connection.step(now)

    def tick(_: int = 0) -> None:
        talk.agent.now += 1
        talk.agent.tick()

    own = {"record": record, "step": step, "tick": tick}
    for deed, at in deeds:
        own.get(deed, getattr(broker, deed, None))(at)
    # Now the broker works; the client may wait for up to a minute before it asks.
    for _ in range(100):
        step(30)
        while broker.up:
            broker.next()
        tick()
        connection.step(now)
        if batches.is_drained():
            break

    assert batches.is_drained()
    dropped = sum(batches.buffer.dropped.values())
    assert talk.agent.count_stored() == batches.recorded - dropped
    assert batches.buffer.acked_events == talk.agent.count_stored()
    if not small:
        assert dropped == 0

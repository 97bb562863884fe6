"""Bytes in, replies out: counting, acknowledgement, and dead processes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.protocol.fakes import (
    NOW,
    Agent,
    Conversation,
    FakeLink,
    FakePeer,
    FakeTopic,
)
from tests.agent.protocol.samples import (
    CLIENT,
    FAILURE,
    FLIGHT,
    ROW,
    batch,
    calm,
    executions,
    hello,
    points,
    rows,
)

from kaywatch import wire
from kaywatch.wire import ErrorCode
from kaywatch_agent.aggregate.change import WriteBatch
from kaywatch_agent.aggregate.completeness import Completeness, EventLayout
from kaywatch_agent.ingest.intake import MAX_BACKLOG
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.series import ClientState, Kind

OTHER_CLIENT = b"another process!"


class Talk:
    """One client's connection to an agent."""

    def __init__(
        self, agent: Agent, client: bytes = CLIENT, peer: FakePeer | None = None
    ) -> None:
        self.agent = agent
        self.id = client
        self.link = FakeLink(peer)
        self.conversation: Conversation = agent.open(self.link)

    def exchange(self, *messages: bytes) -> list[dict[str, Any]]:
        """Send messages; return the replies."""
        self.conversation.receive(b"".join(map(wire.frame, messages)))
        return self.link.replies()

    def greet(self) -> list[dict[str, Any]]:
        replies = self.exchange(hello(client=self.id))
        if self.agent.pipeline.commit_due:
            self.agent.commit()
        return replies + self.link.replies()

    def batch(self, seq: int | None, size: int = 3, **changed: Any) -> bytes:
        changed.setdefault("executions", executions(size))
        return batch(client=self.id, seq=seq, **changed)

    def tick(self) -> list[dict[str, Any]]:
        self.agent.tick()
        return self.link.replies()

    def close(self) -> None:
        self.conversation.close()

    @property
    def client(self) -> Client:
        client = self.agent.pipeline.clients.get(self.id.hex())
        assert client is not None
        return client


def ack(seq: int, client: bytes = CLIENT) -> dict[str, Any]:
    return {"type": "ack", "client": client, "seq": seq}


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def talk(agent: Agent) -> Talk:
    return Talk(agent)


# -- sequence numbers and acks ---------------------------------------------------------


def test_a_hello_is_answered_at_once_with_the_committed_sequence(talk: Talk) -> None:
    assert talk.greet() == [ack(0)]
    talk.exchange(talk.batch(1), talk.batch(2))
    talk.tick()
    assert talk.greet() == [ack(2)]


def test_a_hello_commits_batches_its_client_might_report_as_lost(talk: Talk) -> None:
    talk.greet()
    talk.exchange(talk.batch(1), talk.batch(2))
    assert talk.greet() == [ack(2)]
    assert talk.agent.count_stored() == 6
    assert talk.tick() == []


def test_a_batch_is_acknowledged_by_the_commit_not_before(talk: Talk) -> None:
    talk.greet()
    assert talk.exchange(talk.batch(1)) == []
    assert talk.agent.count_stored() == 0
    assert talk.tick() == [ack(1)]
    assert talk.agent.count_stored() == 3


def test_one_ack_stands_for_many_batches_and_is_not_repeated(talk: Talk) -> None:
    talk.greet()
    talk.exchange(*(talk.batch(seq) for seq in (1, 2, 3)))
    assert talk.tick() == [ack(3)]
    assert talk.tick() == []


def test_a_batch_sent_twice_is_counted_once(agent: Agent, talk: Talk) -> None:
    talk.greet()
    replies = talk.exchange(talk.batch(1), talk.batch(1))
    talk.tick()
    replies += talk.exchange(talk.batch(1))
    assert [reply.get("code") for reply in replies] == ["repeated_batch"] * 2
    assert agent.count_stored() == talk.client.events == 3
    assert talk.client.duplicates == agent.counted("duplicate_batches_total") == 2


def test_after_a_reconnect_known_batches_are_acknowledged_and_not_counted_again(
    agent: Agent, talk: Talk
) -> None:
    talk.greet()
    talk.exchange(talk.batch(1), talk.batch(2))
    talk.tick()
    talk.exchange(talk.batch(3))
    talk.close()
    again = Talk(agent)
    assert again.greet() == [ack(3)]
    # A client that sends it nevertheless gets an error, and is not recounted.
    (error,) = again.exchange(again.batch(3), again.batch(4))
    assert error["code"] == "repeated_batch"
    assert again.tick() == [ack(4)]
    assert agent.count_stored() == again.client.events == 12
    assert again.client.duplicates == 1


def test_a_resent_batch_is_acknowledged_again_on_a_new_connection(
    agent: Agent, talk: Talk
) -> None:
    talk.greet()
    talk.exchange(talk.batch(1))
    talk.tick()
    again = Talk(agent)
    # Without a hello, as a client in a hurry might.
    # So it cannot know which batches to send again, or uses numbers twice.
    replies = again.exchange(again.batch(1), again.batch(1))
    assert ack(1) in replies
    errors = [reply.get("code") for reply in replies if reply != ack(1)]
    assert errors == ["repeated_batch"] * 2


def test_a_second_connection_cannot_lose_events_silently(
    agent: Agent, talk: Talk
) -> None:
    """Two connections of one client that number their batches independently."""
    second = Talk(agent)
    for each in (talk, second):
        each.greet()
    # What arrives on the older one is not accepted, so it is not acknowledged either.
    (error,) = talk.exchange(talk.batch(2), talk.batch(3))[:1]
    assert error["code"] == "superseded"
    assert "seq" not in error  # the client keeps the batch
    assert talk.link.closed
    assert second.exchange(second.batch(1)) == []
    assert second.tick() == [ack(1)]
    assert agent.count_stored() == 3
    # The other part of the client reconnects, and learns that it has no batch 1.
    third = Talk(agent)
    assert third.greet() == [ack(1)]
    (error,) = third.exchange(third.batch(1))
    assert error["code"] == "repeated_batch"
    assert "was not counted" in error["text"]
    assert third.exchange(third.batch(2)) == []
    assert third.tick() == [ack(2)]
    assert agent.count_stored() == 6


def test_what_is_left_of_an_old_connection_is_not_counted_twice(
    agent: Agent, talk: Talk
) -> None:
    talk.greet()
    again = Talk(agent)
    assert again.greet() == [ack(0)]
    # The agent reads this only now; the client sends it again, as nobody has it.
    talk.exchange(talk.batch(1), talk.batch(2), wire.bye(talk.id, 2))
    talk.close()
    assert again.exchange(again.batch(1), again.batch(2)) == []
    assert again.tick() == [ack(2)]
    assert agent.count_stored() == again.client.events == 6
    assert again.client.state is ClientState.CONNECTED
    assert again.client.missing_batches == 0


def test_a_batch_sent_again_before_the_answer_to_hello_is_no_mistake(
    agent: Agent, talk: Talk
) -> None:
    talk.greet()
    talk.exchange(talk.batch(1))
    talk.close()
    again = Talk(agent)
    # The answer waits for the commit of batch 1.
    assert again.exchange(hello(client=again.id), again.batch(1), again.batch(2)) == []
    again.tick()
    assert agent.counted("rejected_total", "repeated_batch") == 0
    assert agent.count_stored() == 6


def test_the_old_connection_may_end_after_the_new_one_has_begun(
    agent: Agent, talk: Talk
) -> None:
    talk.greet()
    again = Talk(agent)
    again.greet()
    talk.close()
    again.exchange(again.batch(1))
    assert again.tick() == [ack(1)]
    assert again.client.state is ClientState.CONNECTED


def test_holes_are_legal_and_counted(agent: Agent, talk: Talk) -> None:
    talk.greet()
    talk.exchange(talk.batch(1), talk.batch(5, drops={"buffer_full": 9}), talk.batch(6))
    assert talk.tick() == [ack(6)]
    assert talk.client.missing_batches == agent.counted("missing_batches_total") == 3
    assert talk.client.dropped == {"buffer_full": 9}
    assert agent.counted("client_dropped_total", "buffer_full") == 9
    # Too late to fill one: that number is taken for a duplicate.
    (error,) = talk.exchange(talk.batch(3))
    assert error["code"] == "repeated_batch"
    assert talk.client.duplicates == 1


def test_a_client_older_than_the_agent_has_no_holes(talk: Talk) -> None:
    talk.greet()
    talk.exchange(talk.batch(57))
    assert talk.tick() == [ack(57)]
    assert talk.client.missing_batches == 0


def test_a_number_that_skips_too_many_is_rejected(agent: Agent) -> None:
    talk = Talk(agent)
    talk.greet()
    talk.exchange(talk.batch(1))

    (reply,) = talk.exchange(talk.batch(2**47))
    assert (reply["type"], reply["code"], reply["seq"]) == (
        "error",
        "bad_message",
        2**47,
    )
    assert "hello whose `first` is the next number" in reply["text"]

    talk.exchange(talk.batch(2))
    talk.tick()
    assert talk.client.committed_seq == 2
    assert talk.client.missing_batches == 0
    assert talk.client.duplicates == 0


def test_a_hello_may_announce_a_large_gap(agent: Agent) -> None:
    talk = Talk(agent)
    talk.greet()
    talk.exchange(talk.batch(1))
    talk.exchange(hello(client=talk.id, first=5_000_000), talk.batch(5_000_000))
    talk.tick()

    assert talk.client.committed_seq == 5_000_000


def test_the_drops_of_a_duplicate_are_not_counted_again(talk: Talk) -> None:
    talk.exchange(talk.batch(1, drops={"buffer_full": 2}))
    talk.exchange(talk.batch(1, drops={"buffer_full": 2}))
    assert talk.client.dropped == {"buffer_full": 2}


def test_an_unknown_reason_for_a_drop_is_other(agent: Agent, talk: Talk) -> None:
    talk.exchange(talk.batch(1, drops={"new": 2, "newer": 3}))
    talk.tick()
    assert talk.client.dropped == {"other": 5}
    (reason,) = (
        k.metric for k in agent.pipeline.aggregator.registry.keys if k.kind is Kind.LOSS
    )
    assert reason == "other"


def test_two_clients_on_one_connection_are_separate(talk: Talk) -> None:
    talk.greet()
    talk.exchange(hello(client=OTHER_CLIENT))
    talk.exchange(talk.batch(1), batch(client=OTHER_CLIENT, seq=7))
    assert talk.tick() == [ack(1), ack(7, OTHER_CLIENT)]


def test_rows_without_a_number_are_counted_and_need_no_reading(
    agent: Agent, talk: Talk
) -> None:
    talk.link.backlog = 10 * MAX_BACKLOG
    talk.exchange(rows(ROW, ROW, service="cron"))
    talk.tick()
    assert agent.count_stored() == agent.counted("events_total") == 2
    (client,) = agent.pipeline.clients
    assert (client.service, client.events, client.pid) == ("cron", 2, 4711)


# -- commits that fail -----------------------------------------------------------------


def count_executions(changes: Iterable[WriteBatch]) -> int:
    return sum(
        int(s.executions.sum()) for c in changes for s in c.aggregate.buckets.values()
    )


def fail_commits(talk: Talk) -> None:
    talk.agent.broken = True
    talk.agent.commit()
    talk.agent.broken = False


def test_nothing_is_acknowledged_by_a_commit_that_fails(talk: Talk) -> None:
    talk.greet()
    talk.exchange(talk.batch(1))
    fail_commits(talk)
    assert talk.link.replies() == []


def test_a_greeting_is_answered_also_while_commits_fail(talk: Talk) -> None:
    talk.greet()
    talk.exchange(talk.batch(1))
    talk.agent.broken = True
    assert talk.greet() == [ack(0)]
    talk.agent.broken = False
    assert talk.tick() == [ack(1)]


def test_nothing_is_lost_by_a_commit_that_fails(agent: Agent, talk: Talk) -> None:
    talk.greet()
    talk.exchange(talk.batch(1, 3))
    fail_commits(talk)
    fail_commits(talk)
    talk.exchange(talk.batch(2, 4), talk.batch(1, 3))
    assert talk.tick() == [ack(2)]
    assert agent.count_stored() == count_executions(agent.committed) == 7
    view = agent.pipeline.aggregator.view(agent.now)
    assert int(view.totals.executions.sum()) == 7


def test_a_batch_received_during_a_commit_is_in_the_next_commit(
    agent: Agent, talk: Talk
) -> None:
    talk.greet()
    agent.slow = True
    talk.exchange(talk.batch(1, 3))
    assert talk.tick() == []
    first = agent.under_way
    assert first is not None
    talk.exchange(talk.batch(2, 4))
    assert talk.tick() == []
    assert agent.under_way is first  # one at a time
    agent.end()
    assert talk.link.replies() == [ack(1)]
    assert agent.count_stored() == 3
    agent.slow = False
    assert talk.tick() == [ack(2)]
    assert agent.count_stored() == 7


def test_a_greeting_during_a_commit_waits_for_all_that_was_taken(
    agent: Agent, talk: Talk
) -> None:
    talk.greet()
    agent.slow = True
    talk.exchange(talk.batch(1))
    talk.tick()
    talk.exchange(talk.batch(2))
    assert talk.greet() == []
    first = agent.under_way
    assert first is not None
    agent.end()
    assert talk.link.replies() == []
    assert agent.hurried
    agent.slow = False
    agent.commit()
    assert talk.link.replies() == [ack(2)]


def test_a_store_that_is_new_gets_everything(agent: Agent, talk: Talk) -> None:
    talk.greet()
    talk.exchange(talk.batch(1, 3, failures=[FAILURE]))
    talk.tick()
    agent.slow = True
    talk.exchange(talk.batch(2, 4))
    talk.tick()
    assert agent.under_way is not None
    agent.end(broken=True)
    agent.full = True
    agent.slow = False
    agent.committed.clear()
    assert talk.tick() == [ack(2)]
    (change,) = agent.committed
    assert (
        count_executions([change]) == int(change.aggregate.totals.executions.sum()) == 7
    )
    assert len(change.aggregate.failures) == 1
    assert list(change.clients.stored) == [CLIENT.hex()]
    stored = Client.from_json(change.clients.stored[CLIENT.hex()])
    assert stored == Client.from_json(talk.client.to_json())


# -- pace ------------------------------------------------------------------------------


def test_a_client_that_sends_each_event_alone_is_asked_to_send_less_often(
    agent: Agent, talk: Talk
) -> None:
    talk.greet()
    agent.now += 1
    talk.exchange(*(talk.batch(seq, 1) for seq in range(1, 101)))
    assert talk.tick() == [{"type": "slow", "seconds": 1.0}, ack(100)]
    agent.now += 1
    talk.exchange(*(talk.batch(seq, 1) for seq in range(101, 201)))
    assert talk.tick() == [ack(200)]  # reminded every ten seconds at most
    assert agent.counted("slow_messages_total") == 1
    assert agent.count_stored() == 200


def test_a_client_whose_batches_are_full_may_send_many(
    agent: Agent, talk: Talk
) -> None:
    talk.greet()
    agent.now += 1
    talk.exchange(*(talk.batch(seq, 600) for seq in range(1, 101)))
    assert talk.tick() == [ack(100)]


def test_many_clients_get_a_longer_flush_interval_until_the_load_falls(
    agent: Agent,
) -> None:
    talks = [
        Talk(agent, n.to_bytes(16, "big"), FakePeer(pid=n + 1)) for n in range(3_000)
    ]
    for talk in talks:
        talk.greet()
    agent.now += 1
    assert talks[0].tick() == [{"type": "slow", "seconds": 3.0}]
    late = Talk(agent, b"one that is late")
    assert {"type": "slow", "seconds": 3.0} in late.greet()
    for talk in talks[1:]:
        talk.close()
    agent.now += 1
    assert talks[0].tick() == [{"type": "slow", "seconds": 1.0}]


def test_a_process_has_so_many_clients_whatever_its_connections(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaywatch_agent.pipeline.sessions.MAX_PROCESS_CLIENTS", 3)
    monkeypatch.setattr("kaywatch_agent.pipeline.sessions.MAX_USER_CLIENTS", 5)

    def welcome(n: int, pid: int) -> Talk | None:
        talk = Talk(agent, n.to_bytes(16, "big"), FakePeer(pid, uid=1000))
        (reply,) = talk.greet()
        if reply["type"] == "ack":
            return talk
        assert reply["code"] == "over_quota"
        assert agent.pipeline.clients.get(talk.id.hex()) is None
        return None

    welcomed = [welcome(n, pid=7) for n in range(4)]
    assert [bool(one) for one in welcomed] == [True, True, True, False]
    assert [bool(welcome(10 + n, pid=8)) for n in range(3)] == [True, True, False]
    assert welcomed[0] is not None
    welcomed[0].close()
    assert welcome(3, pid=7)


def test_the_clients_of_all_brokers_are_limited_as_those_of_a_user(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaywatch_agent.pipeline.sessions.MAX_USER_CLIENTS", 3)
    replies = []
    for n in range(4):
        topic, name = FakeTopic(), n.to_bytes(16, "big")
        broker = f"broker {n % 2}"
        talk = agent.converse(topic, name.hex(), broker, named=True)
        topic.conversation = talk
        talk.take(hello(client=name, greeting=1, first=1))
        replies += topic.replies()
    assert [reply["type"] for reply in replies] == ["ack"] * 3 + ["error"]
    assert replies[-1]["code"] == "over_quota"
    assert "all brokers" in replies[-1]["text"]


# -- bad messages between good ones ----------------------------------------------------


def error(code: ErrorCode, seq: int | None = None) -> dict[str, Any]:
    result = {"type": "error", "code": str(code)}
    return result if seq is None else {**result, "seq": seq}


def without_text(replies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for reply in replies:
        if reply["type"] == "error":
            assert reply.pop("text")
    return replies


def test_each_bad_message_is_answered_and_the_good_ones_are_counted(
    agent: Agent, talk: Talk
) -> None:
    talk.greet()
    replies = talk.exchange(
        talk.batch(1),
        b"\xc1",
        talk.batch(2, table=b"\xc1"),
        b"",
        wire.pack([]),
        talk.batch(3, service=5),
        talk.batch(4),
        wire.pack({"type": "news"}),
        talk.batch(5, executions={**executions(5), "end": b"odd"}),
        talk.batch(6, executions=executions(2, series=[9, 0])),
        talk.batch(7, executions=executions(2, seconds=[math.nan, 1.0])),
        talk.batch(8, executions=None, table=None, events=[ROW, {}, ROW]),
        talk.batch(9, failures=[5]),
        talk.batch(10, v=2),
        talk.batch(0),
        talk.batch(11),
    )
    # An unusable message is answered at once, rows at the end of the read, columns at
    # the tick.
    assert without_text(replies) == [
        error(ErrorCode.BAD_MSGPACK),
        error(ErrorCode.BAD_MSGPACK),
        error(ErrorCode.BAD_MESSAGE),
        error(ErrorCode.BAD_MESSAGE, 3),
        error(ErrorCode.UNKNOWN_TYPE),
        error(ErrorCode.UNSUPPORTED_VERSION),
        error(ErrorCode.BAD_MESSAGE),
        error(ErrorCode.BAD_ROW),
    ]
    assert without_text(talk.tick()) == [
        error(ErrorCode.BAD_TABLE),
        error(ErrorCode.BAD_COLUMNS),
        error(ErrorCode.BAD_INDEX),
        error(ErrorCode.BAD_VALUE),
        error(ErrorCode.BAD_SECTION),
        ack(11),
    ]
    assert not talk.link.closed
    # Batches 1, 4, 9 and 11 in full, and the sound parts of 6, 7 and 8.
    assert agent.count_stored() == agent.counted("events_total") == 4 * 3 + 1 + 1 + 2
    rejected = {
        code: agent.counted("rejected_total", str(code))
        for code in ErrorCode
        if agent.counted("rejected_total", str(code))
    }
    assert rejected == {
        ErrorCode.BAD_MSGPACK: 2,
        ErrorCode.BAD_TABLE: 3,
        ErrorCode.BAD_MESSAGE: 3,
        ErrorCode.UNKNOWN_TYPE: 1,
        ErrorCode.BAD_COLUMNS: 5,
        ErrorCode.BAD_INDEX: 1,
        ErrorCode.BAD_VALUE: 1,
        ErrorCode.BAD_ROW: 1,
        ErrorCode.BAD_SECTION: 1,
        ErrorCode.UNSUPPORTED_VERSION: 1,
    }


def test_an_oversized_frame_is_reported_and_the_next_one_is_counted(talk: Talk) -> None:
    talk.greet()
    replies = talk.exchange(bytes(wire.MAX_FRAME + 1), talk.batch(1))
    assert without_text(replies) == [error(ErrorCode.FRAME_TOO_LARGE)]
    assert talk.tick() == [ack(1)]
    assert not talk.link.closed


def test_an_invalid_frame_is_reported_and_the_connection_closed(
    agent: Agent, talk: Talk
) -> None:
    talk.conversation.receive(b"GET /metrics HTTP/1.1\r\n")
    assert without_text(talk.link.replies()) == [error(ErrorCode.FRAME_TOO_LARGE)]
    assert talk.link.closed
    # What the kernel has already delivered must not be answered any more.
    talk.conversation.receive(b"Host: localhost\r\n\r\n" + wire.frame(hello()))
    talk.close()
    assert agent.counted("rejected_total", "frame_too_large") == 1
    assert len(agent.pipeline.clients) == 0


def test_an_error_describes_the_first_problem_of_a_batch_once(talk: Talk) -> None:
    talk.exchange(
        talk.batch(1, executions=executions(3, series=[9] * 3, seconds=[-1.0] * 3))
    )
    reply, _ = talk.tick()
    assert reply["code"] == ErrorCode.BAD_INDEX
    assert reply["text"] == "executions.series: an index outside a table of 2"
    assert len(reply["text"]) <= 500


def test_an_error_is_short_however_long_the_message(talk: Talk) -> None:
    (reply,) = talk.exchange(wire.pack({"type": "x" * 1_000_000}))
    assert len(reply["text"]) <= 500


def test_a_client_that_does_not_read_is_sent_nothing_more(
    agent: Agent, talk: Talk
) -> None:
    talk.greet()
    talk.link.backlog = MAX_BACKLOG + 1
    assert talk.exchange(b"\xc1", talk.batch(1)) == []
    assert talk.tick() == []
    assert agent.counted("replies_withheld_total") == 2
    assert agent.counted("rejected_total", "bad_msgpack") == 1
    # It reads again, and gets the number of missed messages.
    talk.link.backlog = 0
    assert talk.tick() == [ack(1)]


messages = st.sampled_from(["sound", "again", "hole", "rows", *ErrorCode])


@calm
@given(st.lists(messages, max_size=25), st.integers(1, 4))
def test_events_received_are_accepted_or_rejected_or_duplicates(
    kinds: list[str], connections: int
) -> None:
    agent = Agent()
    talks = [Talk(agent, bytes([n]) * 16) for n in range(connections)]
    last: Counter[int] = Counter()
    received = duplicates = 0
    bad: dict[str, dict[str, Any]] = {
        "bad_table": {"table": b"\xc1"},
        "bad_columns": {"executions": {**executions(4), "end": b""}},
        "bad_index": {"executions": executions(4, series=[0, 9, 9, 1])},
        "bad_value": {"executions": executions(4, outcome=[0, 0, 0, 9])},
        "bad_row": {"executions": None, "table": None, "events": [ROW, {}, ROW, 5]},
    }
    for turn, kind in enumerate(kinds):
        number = turn % connections
        talk = talks[number]
        if kind == "again":
            duplicates += 4 if last[number] else 0
            if last[number]:
                received += 4
                talk.exchange(talk.batch(last[number], 4))
            continue
        if kind == "rows":
            received += 4
            talk.exchange(rows(ROW, 5, ROW, ROW))
            continue
        if kind not in ("sound", "hole", *bad):
            talk.exchange(b"\xc1")
            continue
        last[number] += 2 if kind == "hole" else 1
        received += 4
        talk.exchange(talk.batch(last[number], **{"size": 4, **bad.get(kind, {})}))
    agent.tick()
    accepted = agent.counted("events_total")
    rejected = sum(agent.counted("rejected_total", code) for code in bad)
    assert received == accepted + rejected + duplicates
    assert agent.count_stored() == accepted
    assert sum(client.events for client in agent.pipeline.clients) == accepted


def test_a_fault_of_ours_costs_one_batch_and_counts_no_other_twice(
    agent: Agent, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = agent.pipeline.aggregator.accept

    def broken(joined: Any, owners: Any, now: float) -> Any:
        if 5 in joined.executions:
            raise RuntimeError("a fault")
        return accept(joined, owners, now)

    monkeypatch.setattr(agent.pipeline.aggregator, "accept", broken)
    talk.greet()
    other = {"strings": ["g", "n"], "series": [[0, 1]]}
    talk.exchange(
        talk.batch(1, 2),
        talk.batch(2, 5),
        talk.batch(3, 3),
        talk.batch(
            4,
            executions=executions(1, series=[0], action=[0], error=[0]),
            table=wire.pack(other),
        ),
    )
    assert without_text(talk.tick()) == [error(ErrorCode.BAD_MESSAGE), ack(4)]
    assert agent.count_stored() == talk.client.events == 2 + 3 + 1
    assert agent.counted("rejected_total", "bad_message") == 1


# -- flush and bye ---------------------------------------------------------------------


def test_a_flush_asks_for_a_commit_and_acknowledges_nothing_itself(talk: Talk) -> None:
    talk.greet()
    assert talk.exchange(talk.batch(1), wire.flush(CLIENT)) == []
    assert talk.agent.hurried == 1
    talk.agent.commit()
    assert talk.link.replies() == [ack(1)]


def test_a_batch_is_of_the_service_that_its_client_had_then(
    agent: Agent, talk: Talk
) -> None:
    talk.greet()
    talk.exchange(talk.batch(1, 2, service="shop"), talk.batch(2, 3, service="cron"))
    talk.tick()
    view = agent.pipeline.aggregator.view(agent.now)
    counts = Counter[str]()
    for row, count in zip(
        view.totals.rows.tolist(), view.totals.executions.tolist(), strict=True
    ):
        counts[view.registry.keys[row].service] += count
    assert counts == {"shop": 2, "cron": 3}


def test_a_bye_clears_the_nodes_in_flight(
    talk: Talk,
) -> None:
    talk.greet()
    talk.exchange(talk.batch(1, in_flight=[FLIGHT]), wire.bye(CLIENT, 1, {}))
    talk.tick()
    assert talk.client.state is ClientState.ENDED
    assert talk.client.in_flight == ()


def test_a_bye_ends_a_client_counts_its_last_drops_and_hurries(
    agent: Agent, talk: Talk
) -> None:
    talk.greet()
    talk.exchange(
        talk.batch(1, in_flight=[FLIGHT]), wire.bye(CLIENT, 1, {"unpackable": 2})
    )
    assert talk.client.state is ClientState.ENDED
    assert talk.client.in_flight == ()
    assert talk.client.dropped == {"unpackable": 2}
    assert agent.hurried == 1
    assert talk.tick() == [ack(1)]


def test_the_end_of_a_stream_after_a_bye_is_no_death(agent: Agent, talk: Talk) -> None:
    talk.greet()
    talk.exchange(wire.bye(CLIENT, 0))
    talk.link.peer.dead = True
    talk.close()
    agent.tick()
    assert talk.client.state is ClientState.ENDED
    assert talk.link.peer.closed == 1


def test_a_bye_from_an_unknown_client_is_ignored(talk: Talk) -> None:
    assert talk.exchange(wire.bye(OTHER_CLIENT, 3, {"buffer_full": 1})) == []
    assert len(talk.agent.pipeline.clients) == 0


def test_a_client_that_goes_on_after_its_bye_is_back(talk: Talk) -> None:
    talk.greet()
    talk.exchange(wire.bye(CLIENT, 0), talk.batch(1))
    assert talk.client.state is ClientState.CONNECTED


# -- presence --------------------------------------------------------------------------


def test_the_kernels_word_for_the_pid_counts_more_than_the_clients(
    agent: Agent, talk: Talk
) -> None:
    talk.exchange(hello(pid=1))
    assert talk.client.pid == 4711
    unknown = Talk(agent, OTHER_CLIENT, FakePeer(pid=0))
    unknown.exchange(hello(client=OTHER_CLIENT, pid=12))
    assert unknown.client.pid == 12


def test_a_lost_connection_of_a_living_process_is_a_disconnect(
    agent: Agent, talk: Talk
) -> None:
    talk.greet()
    talk.exchange(talk.batch(1, in_flight=[FLIGHT]))
    talk.close()
    for _ in range(5):
        agent.now += 1
        agent.tick()
    assert talk.client.state is ClientState.DISCONNECTED
    assert talk.client.since == NOW
    assert talk.link.peer.closed == 0


def test_a_flush_without_a_client_is_answered_after_a_commit(agent: Agent) -> None:
    talk = Talk(agent)
    agent.slow = True
    assert talk.exchange(wire.flush()) == []
    assert agent.hurried == 1
    agent.commit()
    # One that comes during a commit is for the next one.
    late = Talk(agent)
    assert late.exchange(wire.flush()) == []
    assert talk.link.replies() == []
    assert agent.under_way is not None
    agent.end()
    assert talk.link.replies() == [ack(0, b"")]
    assert late.link.replies() == []
    agent.commit()
    agent.end()
    assert late.link.replies() == [ack(0, b"")]
    assert talk.link.replies() == []
    assert not list(agent.pipeline.clients)


def test_a_flush_without_a_client_is_not_answered_by_a_failed_commit(
    agent: Agent,
) -> None:
    talk = Talk(agent)
    agent.broken = True
    talk.exchange(wire.flush())
    assert talk.tick() == []
    agent.broken = False
    assert talk.tick() == [ack(0, b"")]


def test_a_disconnect_after_a_flush_without_a_client_drops_the_waiter(
    agent: Agent,
) -> None:
    talk = Talk(agent)
    talk.exchange(wire.flush())
    talk.close()
    talk.link.close()
    talk.tick()
    sessions = agent.pipeline.sessions
    assert not sessions._flushes | sessions._durable_flushes


def test_a_process_that_goes_without_a_bye_died_with_nodes_in_flight(
    agent: Agent, talk: Talk
) -> None:
    talk.greet()
    talk.exchange(talk.batch(1, in_flight=[FLIGHT, FLIGHT]))
    talk.close()
    agent.tick()
    assert talk.client.state is ClientState.DISCONNECTED
    talk.link.peer.dead = True
    agent.now += 1
    agent.tick()
    assert talk.client.state is ClientState.DIED
    assert talk.client.since == NOW + 1
    assert 0 < talk.client.unknown_seconds <= 0.001  # since its last batch
    assert len(talk.client.in_flight) == 2
    assert talk.link.peer.closed == 1


@pytest.mark.parametrize(
    ("idle", "noticed_after", "via", "unknown"),
    [
        (0.4, 1.0, "", 0.4),
        (3600.0, 1.0, "", 1.0),  # it would have sent what it recorded
        (0.4, 60.0, "", 60.4),  # it ran without a connection
        (4.0, 1.0, "mqtt://broker", 5.0),
    ],
)
def test_what_a_dead_process_may_have_recorded_is_bounded(
    agent: Agent,
    talk: Talk,
    idle: float,
    noticed_after: float,
    via: str,
    unknown: float,
) -> None:
    talk.greet()
    talk.exchange(talk.batch(1))
    talk.client.via = via
    agent.now += idle
    talk.close()
    agent.now += noticed_after
    talk.link.peer.dead = True
    agent.tick()
    agent.tick()

    client = talk.client
    assert client.unknown_seconds == pytest.approx(unknown)
    assert client.completeness is not None
    assert client.completeness < 1
    view = agent.pipeline.aggregator.view(agent.now)
    keys = agent.pipeline.aggregator.registry.keys
    completeness = Completeness(EventLayout(keys, ()))
    completeness.add(view.totals)
    counts = completeness.of([client.service])
    assert (counts.deaths, counts.unknown_seconds) == (1, pytest.approx(unknown))
    assert counts.ratio is not None
    assert counts.ratio < 1


def test_a_client_that_comes_back_is_connected_and_its_old_peer_is_let_go(
    agent: Agent, talk: Talk
) -> None:
    talk.greet()
    talk.close()
    again = Talk(agent)
    again.greet()
    talk.link.peer.dead = True
    agent.tick()
    assert again.client.state is ClientState.CONNECTED
    assert talk.link.peer.closed == 1
    assert again.link.peer.closed == 0


def test_several_clients_behind_one_connection_die_together(
    agent: Agent, talk: Talk
) -> None:
    talk.greet()
    talk.exchange(hello(client=OTHER_CLIENT))
    talk.close()
    talk.link.peer.dead = True
    agent.tick()
    states = [client.state for client in agent.pipeline.clients]
    assert states == [ClientState.DIED, ClientState.DIED]
    assert talk.link.peer.closed == 1


def test_a_client_that_flaps_between_two_ticks_leaks_no_descriptor(
    agent: Agent,
) -> None:
    talks = [Talk(agent) for _ in range(3)]
    for talk in talks:
        talk.greet()
        talk.close()
    agent.tick()
    assert [talk.link.peer.closed for talk in talks] == [1, 1, 0]


def test_a_connection_that_sent_nothing_releases_its_peer(talk: Talk) -> None:
    talk.close()
    assert talk.link.peer.closed == 1


def test_a_shell_that_pushes_a_row_and_exits_has_not_died(
    agent: Agent, talk: Talk
) -> None:
    talk.exchange(rows(ROW))
    talk.close()
    talk.link.peer.dead = True
    agent.tick()
    (client,) = agent.pipeline.clients
    assert client.state is ClientState.ENDED


def test_processes_are_sampled_every_ten_seconds(agent: Agent, talk: Talk) -> None:
    talk.greet()
    agent.tick()
    assert talk.client.sample is not None
    assert talk.client.sampled_at == NOW
    agent.now += 9
    agent.tick()
    assert talk.client.sampled_at == NOW
    agent.now += 1
    agent.tick()
    assert talk.client.sampled_at == NOW + 10


def test_a_client_that_may_come_back_is_kept_for_a_week(
    agent: Agent, talk: Talk
) -> None:
    talk.greet()
    talk.exchange(talk.batch(1))
    talk.tick()
    talk.close()
    agent.now += 6 * 86_400
    agent.tick()
    again = Talk(agent)
    assert again.greet() == [ack(1)]
    again.exchange(again.batch(1))
    assert agent.count_stored() == 3


def test_a_client_that_left_over_an_hour_ago_is_forgotten(
    agent: Agent, talk: Talk
) -> None:
    talk.greet()
    talk.exchange(talk.batch(1, points=points()))
    talk.link.peer.dead = True
    talk.close()
    agent.tick()
    agent.now += 3_601
    agent.tick()
    assert len(agent.pipeline.clients) == 0
    assert talk.link.peer.closed == 1
    assert not agent.pipeline.aggregator.registry.quota.by_client


def test_the_clocks_difference_is_measured(talk: Talk) -> None:
    talk.exchange(talk.batch(1, sent=NOW - 2.5))
    assert talk.client.skew == 2.5


CLOCKS = pytest.mark.parametrize("ahead", [0.0, -1_200.0, 1_200.0, 1e9])


def with_ages(ahead: float, seq: int = 1, now: float = NOW) -> dict[str, Any]:
    """Return what a batch has whose client's clock is ahead by these seconds."""
    start = now + ahead
    flight = ["checkout", "pay", start - 5, "a1-8", 3, start - 9]
    blocks = ["", "load", 0, ""], ["", "save", start + 60, ""]
    return {"seq": seq, "sent": now + ahead, "in_flight": [flight, *blocks]}


@CLOCKS
def test_the_start_of_what_is_in_progress_is_by_the_agents_clock(
    talk: Talk, ahead: float
) -> None:
    talk.exchange(talk.batch(**with_ages(ahead)))
    talk.agent.now += 1
    talk.tick()
    pay, load, save = talk.client.in_flight
    assert pay.start == pytest.approx(NOW - 5, abs=1e-3)
    assert pay.run_start == pytest.approx(NOW - 9, abs=1e-3)
    assert load.start == 0  # still unknown
    assert save.start == NOW + 1  # not in the future


def test_a_clients_clock_that_is_set_moves_no_start(talk: Talk) -> None:
    """The client sends starts by the clock of `sent`, also after it was set."""
    for seq, ahead in enumerate([0.0, -1_200.0, 1_200.0, 0.0], 1):
        talk.exchange(talk.batch(**with_ages(ahead, seq)))
        talk.tick()
        assert talk.client.in_flight[0].start == pytest.approx(NOW - 5, abs=1e-3)
        assert talk.client.skew == -ahead


def test_without_sent_a_start_is_taken_as_it_is(talk: Talk) -> None:
    talk.exchange(talk.batch(**with_ages(-60.0) | {"sent": None}))
    talk.tick()
    assert talk.client.in_flight[0].start == NOW - 65


@CLOCKS
def test_a_failure_is_no_later_than_now_and_its_run_lasted_as_long(
    talk: Talk, ahead: float
) -> None:
    failure = FAILURE | {"time": NOW + ahead, "run_start": NOW + ahead - 7}
    talk.exchange(talk.batch(1, failures=[failure]))
    talk.tick()
    (kept,) = talk.agent.pipeline.aggregator.view(talk.agent.now).failures
    assert kept.time == min(NOW, NOW + ahead)
    assert kept.time - kept.run_start == pytest.approx(7)


def test_completeness_is_relative_to_the_events_a_client_recorded(
    talk: Talk,
) -> None:
    talk.exchange(talk.batch(1, recorded=3), talk.batch(3, recorded=12))
    talk.tick()
    assert talk.client.recorded == 12
    assert talk.client.completeness == 0.5

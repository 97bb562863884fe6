"""Captures get copies of received messages, and delay no client."""

from __future__ import annotations

import os
from typing import Any

import pytest
from tests.agent.protocol.fakes import NOW, Agent, Conversation, FakeLink, FakePeer
from tests.agent.protocol.samples import CLIENT, batch, executions, hello

from kaywatch import wire
from kaywatch._version import __version__
from kaywatch_agent.ingest.peers import LocalPeer
from kaywatch_agent.pipeline import mirror as observers
from kaywatch_agent.pipeline.mirror import MAX_CAPTURES


class Line:
    """One connection to an agent."""

    def __init__(self, agent: Agent, peer: FakePeer | None = None) -> None:
        self.link = FakeLink(peer)
        self.conversation: Conversation = agent.open(self.link)

    def exchange(self, *messages: bytes) -> list[dict[str, Any]]:
        self.conversation.receive(b"".join(map(wire.frame, messages)))
        return self.link.replies()

    def copies(self) -> list[bytes]:
        return [
            output["message"] for output in self.link.replies() if "message" in output
        ]


def batches(first: int, last: int) -> list[bytes]:
    return [batch(seq=n, executions=executions(2)) for n in range(first, last + 1)]


@pytest.fixture
def agent() -> Agent:
    return Agent()


def test_an_observer_gets_every_sound_message_as_it_came(agent: Agent) -> None:
    client, watcher = Line(agent), Line(agent)
    client.exchange(hello(), *batches(1, 1))
    began = {"type": "captured", "at": NOW, "agent": __version__}
    assert watcher.exchange(wire.capture()) == [began]

    sound = [*batches(2, 4), wire.flush(CLIENT), wire.bye(CLIENT, 4)]
    client.exchange(*sound, b"no msgpack", wire.pack({"type": "hello"}))

    result = watcher.link.replies()
    assert [output["message"] for output in result] == sound
    assert {output["connection"] for output in result} == {1}
    assert {output["at"] for output in result} == {NOW}
    assert agent.counted("captured_messages_total") == 5


def test_an_observer_is_notified_of_disconnects_and_that_capture_continues(
    agent: Agent,
) -> None:
    client, watcher = Line(agent), Line(agent)
    client.exchange(hello())
    watcher.exchange(wire.capture())
    client.conversation.close()
    assert watcher.link.replies() == [{"type": "captured", "at": NOW, "connection": 1}]
    agent.tick()
    assert watcher.link.replies() == [{"type": "captured", "at": NOW}]


def test_the_agent_s_own_probe_is_not_shown(agent: Agent) -> None:
    probe, watcher = Line(agent), Line(agent)
    watcher.exchange(wire.capture())
    probe.exchange(wire.flush())
    probe.conversation.close()
    assert watcher.link.replies() == []


def test_nothing_is_copied_after_the_observer_disconnects(agent: Agent) -> None:
    client, watcher = Line(agent), Line(agent)
    watcher.exchange(wire.capture())
    assert agent.counted("captures") == 1
    watcher.conversation.close()
    client.exchange(*batches(1, 2))
    assert watcher.link.replies() == []
    assert not agent.intake.mirror
    assert agent.counted("captures") == 0


def test_a_slow_observer_misses_copies_and_gets_their_number(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, watcher = Line(agent), Line(agent)
    watcher.exchange(wire.capture())
    output = batches(1, 10)
    monkeypatch.setattr(observers, "MAX_WAITING", 4 * len(output[0]) + 200)
    watcher.link.congested = True
    client.exchange(*output)
    agent.tick()

    # Nobody who sends is kept waiting for it.
    assert [reply["seq"] for reply in client.link.replies()] == [10]
    assert watcher.link.replies() == []
    watcher.link.congested = False
    watcher.conversation.resume()
    result = watcher.link.replies()
    assert [one["message"] for one in result if "message" in one] == output[:3]
    assert agent.counted("capture_missed_total") == 7
    agent.tick()
    assert watcher.link.replies() == [{"type": "captured", "at": NOW, "missed": 7}]
    client.exchange(*batches(11, 11))
    (copy,) = watcher.link.replies()
    assert copy["missed"] == 7


def test_queued_copies_are_sent_in_order_as_the_observer_reads(agent: Agent) -> None:
    client, watcher = Line(agent), Line(agent)
    watcher.exchange(wire.capture())
    watcher.link.congested = True
    client.exchange(*batches(1, 3))
    watcher.link.congested = False
    # Not before the copies that wait already.
    client.exchange(*batches(4, 4))
    assert watcher.copies() == []
    watcher.conversation.resume()
    assert watcher.copies() == batches(1, 4)


def test_another_user_may_not_capture(agent: Agent) -> None:
    stranger = FakePeer()
    stranger.trusted = False
    client, watcher = Line(agent), Line(agent, stranger)
    (reply,) = watcher.exchange(wire.capture())
    assert (reply["type"], reply["code"]) == ("error", "forbidden")
    client.exchange(*batches(1, 1))
    assert watcher.link.replies() == []


@pytest.mark.parametrize(
    ("uid", "trusted"),
    [(0, True), (os.geteuid(), True), (os.geteuid() + 1, False), (-1, False)],
)
def test_root_and_the_agents_own_user_are_trusted(uid: int, trusted: bool) -> None:
    assert LocalPeer(0, uid, 0).trusted is trusted


def test_four_captures_at_a_time(agent: Agent) -> None:
    lines = [Line(agent) for _ in range(MAX_CAPTURES + 1)]
    replies = [line.exchange(wire.capture())[0] for line in lines]
    assert [reply["type"] for reply in replies] == ["captured"] * 4 + ["error"]
    assert replies[-1]["code"] == "forbidden"
    lines[0].conversation.close()
    assert lines[-1].exchange(wire.capture())[0]["type"] == "captured"
    # A repeated request does not start a second capture.
    assert lines[-1].exchange(wire.capture()) == []

"""Samples of processes are spread over the ticks."""

from __future__ import annotations

from tests.agent.protocol.fakes import NOW, Agent, Conversation, FakeLink, FakePeer
from tests.agent.protocol.samples import hello

from kaywatch import wire
from kaywatch_agent.model.records import ProcessSample
from kaywatch_agent.pipeline.sampling import MAX_SAMPLES, MIN_SAMPLES, SAMPLE_SECONDS


class CountingPeer(FakePeer):
    """A process that counts its samples; some cannot be read."""

    def __init__(self, pid: int, *, readable: bool = True) -> None:
        super().__init__(pid)
        self.samples = 0
        self.readable = readable

    def sample(self) -> ProcessSample | None:
        self.samples += 1
        return super().sample() if self.readable else None


def connect(agent: Agent, peer: FakePeer) -> Conversation:
    conversation = agent.open(FakeLink(peer))
    client = peer.pid.to_bytes(16, "big")
    conversation.receive(wire.frame(hello(client=client)))
    return conversation


def count_by_tick(agent: Agent, peers: list[CountingPeer], ticks: int) -> list[int]:
    """Return how many samples each tick takes."""
    counts = []
    for _ in range(ticks):
        before = sum(peer.samples for peer in peers)
        agent.tick()
        counts.append(sum(peer.samples for peer in peers) - before)
        agent.now += 1
    return counts


def test_processes_that_connect_together_are_not_sampled_together() -> None:
    agent = Agent()
    peers = [CountingPeer(pid) for pid in range(1, 401)]
    for peer in peers:
        connect(agent, peer)
    assert count_by_tick(agent, peers, 30) == [40] * 30
    assert {peer.samples for peer in peers} == {3}


def test_few_processes_are_sampled_at_once() -> None:
    agent = Agent()
    peers = [CountingPeer(pid) for pid in range(1, MIN_SAMPLES + 1)]
    for peer in peers:
        connect(agent, peer)
    ticks = int(SAMPLE_SECONDS)
    assert count_by_tick(agent, peers, ticks + 1) == [
        MIN_SAMPLES, *[0] * (ticks - 1), MIN_SAMPLES
    ]  # fmt: skip


def test_thousands_of_processes_are_sampled_less_often() -> None:
    agent = Agent()
    peers = [CountingPeer(pid) for pid in range(1, 1_501)]
    for peer in peers:
        connect(agent, peer)
    assert count_by_tick(agent, peers, 30) == [MAX_SAMPLES] * 30
    assert {peer.samples for peer in peers} == {2}


def test_processes_that_cannot_be_read_delay_no_others() -> None:
    agent = Agent()
    peers = [CountingPeer(pid, readable=pid % 2 == 0) for pid in range(1, 201)]
    for peer in peers:
        connect(agent, peer)
    count_by_tick(agent, peers, int(SAMPLE_SECONDS))
    assert {peer.samples for peer in peers} == {1}
    samples = [client.sampled_at for client in agent.pipeline.clients]
    assert sum(at >= NOW for at in samples) == 100


def test_nothing_is_kept_of_a_client_that_was_removed() -> None:
    agent = Agent()
    peer = CountingPeer(1)
    conversation = connect(agent, peer)
    agent.tick()
    assert agent.pipeline._sampler._sampled_at
    conversation.close()
    peer.dead = True
    agent.tick()
    agent.now += 7_200
    agent.tick()
    assert not agent.pipeline._sampler._sampled_at

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.protocol.samples import calm

from kaywatch_agent.aggregate import clients as module
from kaywatch_agent.aggregate.clients import KEEP_SECONDS, ClientChanges, Clients
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.records import InFlight, ProcessSample
from kaywatch_agent.model.series import ClientState
from kaywatch_agent.protocol.messages import Hello

NOW = 1_700_000_000.0


def hello(client: str = "c", **changed: object) -> Hello:
    sound = Hello(client, "shop", "web1", 12, NOW - 60, "mine/1.0", (("a", "b"),))
    return sound._replace(**changed)  # type: ignore[arg-type]


def test_a_client_is_known_from_its_first_message_on() -> None:
    clients = Clients()
    met = clients.meet("c", NOW)
    assert (met.first_seen, met.since, met.service) == (NOW, NOW, "unknown")
    assert clients.meet("c", NOW + 5) is met
    assert (met.first_seen, met.last_seen) == (NOW, NOW + 5)
    assert clients.get("c") is met
    assert len(clients) == 1


def test_a_hello_identifies_its_client() -> None:
    clients = Clients()
    greeted = clients.greet(hello(), 0, NOW)
    assert (greeted.service, greeted.host, greeted.pid) == ("shop", "web1", 12)
    assert clients.greet(hello(service=""), 4711, NOW).service == "shop"
    assert greeted.pid == 4711


@pytest.mark.parametrize(
    "state", [ClientState.DISCONNECTED, ClientState.ENDED, ClientState.DIED]
)
def test_a_client_that_speaks_again_is_connected(state: ClientState) -> None:
    clients = Clients()
    clients.set_state(clients.meet("c", NOW), state, NOW + 1)
    assert clients.meet("c", NOW + 2).state is ClientState.CONNECTED
    assert clients.meet("c", NOW + 3).since == NOW + 2


def test_completeness_is_received_over_recorded() -> None:
    assert Client("c").completeness is None
    assert Client("c", events=3, recorded=12).completeness == 0.25
    assert Client("c", events=13, recorded=12).completeness == 1.0


def test_cpu_is_measured_between_two_samples() -> None:
    client = Client("c")
    client.add_sample(ProcessSample(rss_bytes=1_000, cpu_seconds=5.0), NOW)
    assert client.cpu_percent is None
    client.add_sample(ProcessSample(rss_bytes=3_000, cpu_seconds=6.5), NOW + 10)
    assert client.cpu_percent == pytest.approx(15.0)
    client.add_sample(ProcessSample(rss_bytes=2_000, cpu_seconds=0.0), NOW + 20)
    assert client.cpu_percent == 0.0
    client.add_sample(ProcessSample(rss_bytes=2_000, cpu_seconds=9.0), NOW + 20)
    assert client.cpu_percent == 0.0
    assert client.peak_rss_bytes == 3_000


def disconnect(clients: Clients, name: str, at: float) -> None:
    clients.set_state(clients.meet(name, at), ClientState.DIED, at)


def test_a_client_is_forgotten_an_hour_after_it_left() -> None:
    clients = Clients()
    disconnect(clients, "gone", NOW)
    clients.meet("here", NOW)
    assert clients.expire(NOW + KEEP_SECONDS) == []
    assert [c.id for c in clients.expire(NOW + KEEP_SECONDS + 1)] == ["gone"]
    assert [client.id for client in clients] == ["here"]


def test_over_the_limit_the_first_clients_to_leave_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "KEEP_CLIENTS", 5)
    clients = Clients()
    for number in range(8):
        disconnect(clients, f"c{number}", NOW + number)
    clients.meet("here", NOW)
    assert [c.id for c in clients.expire(NOW + 10)] == ["c0", "c1", "c2", "c3"]
    assert len(clients) == 5


def test_too_many_clients_are_brought_down_to_the_cap_also_when_some_left_long_ago(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "KEEP_CLIENTS", 3)
    clients = Clients()
    for number in range(4):
        disconnect(clients, f"old{number}", NOW)
    for number in range(5):
        disconnect(clients, f"new{number}", NOW + KEEP_SECONDS)
    gone = [client.id for client in clients.expire(NOW + KEEP_SECONDS + 1)]
    assert sorted(gone) == ["new0", "new1", "old0", "old1", "old2", "old3"]
    assert [client.id for client in clients] == ["new2", "new3", "new4"]


def test_connected_clients_are_never_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "KEEP_CLIENTS", 1)
    clients = Clients()
    for number in range(3):
        clients.meet(f"c{number}", NOW)
    assert clients.expire(NOW + 10 * KEEP_SECONDS) == []
    assert len(clients) == 3


def test_a_client_that_ended_has_nothing_in_flight() -> None:
    for state, count in ((ClientState.DIED, 1), (ClientState.ENDED, 0)):
        client = Client("c", in_flight=(InFlight("g", "n", NOW, "r"),))
        Clients().set_state(client, state, NOW)
        assert len(client.in_flight) == count


# -- commits ---------------------------------------------------------------------------


class StoredClients:
    """Clients, and a store whose commits take a while and may fail."""

    def __init__(self) -> None:
        self.clients = Clients()
        self.rows: dict[str, bytes] = {}
        self.change: ClientChanges | None = None

    def begin(self, *, full: bool = False) -> None:
        if self.change is None:
            self.change = self.clients.changes(full)

    def end(self, *, durable: bool) -> None:
        change, self.change = self.change, None
        if change is None:
            return
        if durable:
            for name in change.forgotten:  # as `Store` does
                self.rows.pop(name, None)
            self.rows.update(change.stored)
            self.clients.committed(change)
        else:
            self.clients.refused(change)

    def receive(self, name: str) -> None:
        client = self.clients.meet(name, NOW)
        client.received_seq += 1

    def forget(self, name: str) -> None:
        if self.clients.get(name) is not None:
            disconnect(self.clients, name, NOW - 2 * KEEP_SECONDS)
            self.clients.expire(NOW)


def test_a_client_that_returns_before_the_commit_is_kept() -> None:
    stored = StoredClients()
    stored.receive("c")
    stored.begin()
    stored.end(durable=True)
    stored.forget("c")
    stored.begin()
    stored.receive("c")
    stored.end(durable=False)
    stored.begin()
    stored.end(durable=True)
    assert list(stored.rows) == ["c"]


names = st.sampled_from("abc")
actions = st.one_of(
    st.tuples(st.sampled_from(["receive", "forget"]), names),
    st.tuples(st.just("begin"), st.booleans()),
    st.tuples(st.just("end"), st.booleans()),
)


@calm
@given(st.lists(actions, max_size=40))
def test_the_store_has_what_is_known_however_commits_end(
    steps: list[tuple[str, str | bool]],
) -> None:
    stored = StoredClients()
    for action, argument in steps:
        match action, argument:
            case "begin", bool(full):
                stored.begin(full=full)
            case "end", bool(durable):
                stored.end(durable=durable)
            case _, str(name):
                getattr(stored, action)(name)
        for client in stored.clients:
            assert client.committed_seq <= client.received_seq
    stored.end(durable=True)
    stored.begin()
    stored.end(durable=True)

    assert stored.rows.keys() == {client.id for client in stored.clients}
    for client in stored.clients:
        row = Client.from_json(stored.rows[client.id])
        assert row.received_seq == client.received_seq == client.committed_seq

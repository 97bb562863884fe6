"""How often clients are asked to send."""

from __future__ import annotations

from kaywatch_agent.pipeline.flow_control import (
    BATCHES_PER_SECOND,
    FAILING_SECONDS,
    MAX_EXTRA_BATCHES,
    MESSAGES_PER_TICK,
    FlowControl,
)

NOW = 1_700_000_000.0


def names(count: int) -> list[str]:
    return [f"client-{number}" for number in range(count)]


def settle(flow: FlowControl, now: float, clients: list[str]) -> dict[str, float]:
    """Let the flow control decide until nothing changes; return all that was sent."""
    sent: dict[str, float] = {}
    while messages := dict(flow.decide(now, clients)):
        assert len(messages) <= MESSAGES_PER_TICK
        sent |= messages
    return sent


def test_the_interval_grows_with_the_number_of_clients() -> None:
    flow = FlowControl(NOW)
    for count, seconds in ((1_000, 1.0), (2_500, 2.5), (5_000, 5.0), (50_000, 10.0)):
        clients = names(count)
        settle(flow, NOW, clients)
        assert {flow.interval(client) for client in clients} == {seconds}
        assert count / seconds <= BATCHES_PER_SECOND or seconds == 10.0


def test_a_few_more_clients_change_the_interval_of_nobody() -> None:
    flow = FlowControl(NOW)
    assert len(settle(flow, NOW, names(3_000))) == 3_000
    assert settle(flow, NOW, names(3_250)) == dict.fromkeys(names(3250)[3000:], 3.0)
    assert len(settle(flow, NOW, names(3_400))) == 3_400


def test_a_new_connection_is_told_the_interval_at_once() -> None:
    flow = FlowControl(NOW)
    settle(flow, NOW, names(4_000))
    assert flow.connect("late") == 4.0
    assert settle(flow, NOW, [*names(4_000), "late"]) == {}


def test_clients_with_failures_send_more_often_for_a_while() -> None:
    flow = FlowControl(NOW)
    clients = names(6_000)
    settle(flow, NOW, clients)
    flow.count_failure("client-7", NOW)
    assert settle(flow, NOW + 1, clients) == {"client-7": 1.5}
    assert flow.connect("client-7") == 1.5

    flow.count_failure("client-7", NOW + 20)
    assert settle(flow, NOW + 20 + FAILING_SECONDS - 1, clients) == {}
    assert settle(flow, NOW + 20 + FAILING_SECONDS, clients) == {"client-7": 6.0}


def test_failures_of_all_clients_cause_a_quarter_more_batches_at_most() -> None:
    flow = FlowControl(NOW)
    clients = names(6_000)
    settle(flow, NOW, clients)
    for client in clients:
        flow.count_failure(client, NOW)
    settle(flow, NOW, clients)
    batches = sum(1.0 / flow.interval(client) for client in clients)
    more = batches - BATCHES_PER_SECOND
    assert 0.9 * MAX_EXTRA_BATCHES <= more <= MAX_EXTRA_BATCHES + 0.001


def test_a_clock_that_is_set_back_ends_the_shorter_interval() -> None:
    flow = FlowControl(NOW)
    settle(flow, NOW, names(6_000))
    flow.count_failure("client-7", NOW)
    settle(flow, NOW, names(6_000))
    assert settle(flow, NOW - 3_600, names(6_000)) == {"client-7": 6.0}


def test_nothing_is_kept_of_a_client_that_was_removed() -> None:
    flow = FlowControl(NOW)
    settle(flow, NOW, names(6_000))
    flow.count_failure("client-7", NOW)
    settle(flow, NOW, names(6_000))
    for client in names(6_000):
        flow.forget(client)
    assert flow.interval("client-7") == 1.0
    assert not (flow._intervals or flow._failed or flow._reminded)

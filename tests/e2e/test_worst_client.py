"""The memory of an agent is bounded: the short form of `worst_client`."""

from __future__ import annotations

from tests.agents import Agent, until
from tests.e2e.test_peers import metrics
from tests.e2e.worst_client import BROKER_KINDS, KINDS, agent_with_broker, observe

OVERFLOW = "kaywatch_overflow_names_total"


def test_the_worst_client_of_each_kind_stays_within_the_bounds(agent: Agent) -> None:
    for kind in KINDS:
        assert observe(agent, kind, 60.0, most=8).problems == []
    dropped = metrics(agent, "kaywatch_details_dropped_total")
    assert {'kind="in_flight"', 'kind="loops"', 'kind="topologies"'} <= set(dropped)
    kinds = ("actions", "errors", "ends")
    full = {f'kind="{kind}",limit="process"' for kind in kinds}
    until(lambda: full <= set(metrics(agent, OVERFLOW)), "a quota of each is used up")


def test_the_worst_clients_of_a_broker_stay_within_the_bounds() -> None:
    with agent_with_broker() as (agent, access):
        for kind in BROKER_KINDS:
            assert observe(agent, kind, 60.0, most=50, at=access).problems == []
        until(lambda: len(agent.clients()) == 50, "all clients are known")

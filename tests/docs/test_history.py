"""The past of the company, which the pictures of some failures need."""

from __future__ import annotations

from pathlib import Path

from tests.agents import new_agent
from tests.docs.company.history import repeat_hour
from tests.docs.company.services import Service, record_hour


def test_an_hour_of_work_is_repeated_over_nine_days() -> None:
    with new_agent() as agent:
        agent.start()
        record_hour(agent, [Service("reviews", "ticket", past=900.0)])
        recorded = agent.executions()
        assert agent.stop() == 0
        repeat_hour(Path(agent.store))
        agent.start()

        def executions(window: str) -> int:
            count: int = agent.node("Triage", window=window)["total_executions"]
            return count

        # A minute in which the hour ends may already belong to it.
        assert executions("55m") == 0
        assert executions("24h") > recorded["Triage"]
        assert executions("7d") > 5 * executions("24h")
        assert agent.clients() == []
        week_ago = agent.get(
            "/api/v1/query",
            metric="executions",
            graph="ticket",
            node="Review",
            by="action",
            start="-7d",
            end="-6d",
            step="1h",
        )
        actions = {series["name"] for series in week_ago["series"]}
        assert actions >= {"approve", "revise"}

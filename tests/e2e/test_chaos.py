"""The short form of `make chaos`."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from tests.agents import Agent
from tests.e2e import chaos


def test_nothing_is_lost_or_counted_twice_by_an_agent_that_is_killed(
    agent: Agent, tmp_path: Path
) -> None:
    outcome = chaos.run(agent, tmp_path, kills=6, processes=3, pause=chaos.SHORT_PAUSE)

    assert outcome.differences == []
    assert outcome.events > 10_000
    assert outcome.processes > 3
    agent.stop()
    assert chaos.check_store(agent.store) == "ok"


@pytest.mark.parametrize("seconds", [3.0])
def test_nothing_is_lost_by_a_suspended_agent(
    agent: Agent, tmp_path: Path, seconds: float
) -> None:
    outcome = chaos.run(
        agent,
        tmp_path,
        kills=1,
        processes=2,
        pause=chaos.SHORT_PAUSE,
        trouble=chaos.freeze(seconds),
    )

    assert outcome.differences == []


def test_nothing_is_lost_while_the_disk_is_full(agent: Agent, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        try:
            disk = stack.enter_context(chaos.small_disk(tmp_path / "disk", 16))
        except OSError as error:
            pytest.skip(f"a small disk needs root: {error}")
        agent.stop()
        agent.store = str(disk / "kaywatch.db")
        agent.start()
        stack.callback(agent.close)
        outcome = chaos.run(
            agent,
            tmp_path,
            kills=1,
            processes=2,
            pause=chaos.SHORT_PAUSE,
            trouble=chaos.fill(disk, 3),
        )

        assert outcome.differences == []
        assert any("nothing is acknowledged" in line["event"] for line in agent.log)
        assert any("works again" in line["event"] for line in agent.log)

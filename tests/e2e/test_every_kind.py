"""The short form of `make long-run`."""

from __future__ import annotations

from pathlib import Path

from tests.agents import Agent
from tests.e2e import long_run


def test_an_application_behaves_the_same_under_kaywatch_run(
    agent: Agent, tmp_path: Path
) -> None:
    alone = long_run.behaviour(agent, tmp_path, 5, watched=False)

    assert len(alone) > 100
    assert long_run.behaviour(agent, tmp_path, 5, watched=True) == alone


def test_every_figure_of_the_application_is_the_agent_s(
    agent: Agent, tmp_path: Path
) -> None:
    ours = long_run.run_application(agent, tmp_path, 2, "--rounds", "10")

    assert len(ours) > 250
    assert long_run.differences(ours, long_run.read_agent_figures(agent)) == []

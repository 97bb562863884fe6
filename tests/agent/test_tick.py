"""A fault in one part of the tick stops neither the others nor the next tick."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.agents import DEADLINE

from kaywatch_agent.components import Components
from kaywatch_agent.config import Config, parse
from kaywatch_agent.store.writer import StoreWriter


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return parse(f'[store]\npath = "{tmp_path}/kaywatch.db"')


async def until(condition: Any) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.01)


async def test_commits_go_on_after_a_part_failed(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config.store.file is not None
    components = Components(config)
    writer = StoreWriter(config.store.file, config.store)
    components.restore(writer)
    changes = components.alerting.changes
    failures = iter([RuntimeError("a fault")])

    def broken(full: bool) -> Any:
        for failure in failures:
            raise failure
        return changes(full)

    monkeypatch.setattr(components.alerting, "changes", broken)
    commits = asyncio.create_task(components.ticker.run_commits())
    components.request_commit()
    await until(lambda: components.committer.problem)
    assert "a fault" in components.committer.problem
    components.ticker.tick()  # which requests the next one
    health = components.health.status(components.clock())
    assert "a fault" in health.stages["store"].problem
    await until(lambda: writer.metrics.commits.value)
    assert components.committer.problem == ""

    components.ticker.end_commits()
    await commits
    await components.ticker.stop_rules()
    writer.close()


async def test_a_failing_publisher_does_not_stop_the_tick(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    components = Components(config)
    published: list[int] = []

    def broken() -> None:
        raise RuntimeError("a fault")

    components.ticker.publish[:] = [broken, lambda: published.append(1)]
    components.ticker.tick()
    components.ticker.tick()
    assert published == [1, 1]
    assert not components.health.status(components.clock()).stages["tick"].problem
    await components.ticker.stop_rules()

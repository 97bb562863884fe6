"""A fault in one part of the tick stops neither the others nor the next tick."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from tests.agent.protocol.fakes import FakePeer
from tests.agent.protocol.samples import FAILURE, batch, executions, hello
from tests.agents import DEADLINE

from kaywatch import wire
from kaywatch_agent.components import Components
from kaywatch_agent.config import Config, parse
from kaywatch_agent.rules.loop import EvaluationTimer
from kaywatch_agent.rules.state import AlertState
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


RULE = """
[[rule]]
name = "fails"
metric = "error_rate"
op = ">"
value = 0.5
window = "1m"
for = "0"
min_executions = 1
"""


async def test_a_failure_is_evaluated_without_a_tick() -> None:
    components = Components(parse(f'store.path = ":memory:"\n{RULE}'))
    ticker = components.ticker
    evaluating = asyncio.create_task(ticker.run_early_evaluations())
    session = components.pipeline.sessions.open_stream(FakePeer())
    now = time.time()
    failing = batch(
        executions=executions(1, outcome=[1], error=[1], end=[now]),
        failures=[{**FAILURE, "time": now}],
    )
    components.intake.receive(
        session.receive(wire.frame(hello()) + wire.frame(failing)), session
    )
    await until(lambda: components.alerting.counts.get(AlertState.FIRING))

    (alert,) = components.alerting.engine.alerts
    assert (alert.rule, alert.labels["node"]) == ("fails", "pay")
    evaluating.cancel()
    await components.ticker.stop_rules()


HANGS = """
store.path = ":memory:"
[[rule]]
name = "hangs"
kind = "stuck"
max_age = "1m"
for = "0"
"""


class SettableClock:
    """The clock of a host, which may be set."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


async def evaluate_flights(components: Components) -> list[tuple[str, float]]:
    """Tick; return the alerts' nodes, and when what is in progress started."""
    components.ticker.tick()
    pipeline, now = components.pipeline, components.clock()
    await components.alerting.evaluate(pipeline.aggregator.view(now), pipeline.clients)
    alerts = [alert.labels["node"] for alert in components.alerting.engine.alerts]
    (client,) = pipeline.clients
    starts = [flight.start for flight in client.in_flight]
    return list(zip(alerts, starts, strict=False)) or [("", start) for start in starts]


@pytest.mark.parametrize("ahead", [0.0, -1_200.0, 1_200.0])
async def test_a_wrong_clock_makes_nothing_stuck(ahead: float) -> None:
    """Neither one of a client, nor that of the agent's host once it is set."""
    clock = SettableClock()
    components = Components(parse(HANGS), clock=clock)
    session = components.pipeline.sessions.open_stream(FakePeer())

    def send(age: float, seq: int) -> None:
        theirs = clock() + ahead
        flight = ["", "waits", theirs - age, ""]
        message = batch(seq=seq, sent=theirs, in_flight=[flight])
        components.intake.receive(
            session.receive(wire.frame(hello()) + wire.frame(message)), session
        )

    send(age=5.0, seq=1)
    ((alert, _),) = await evaluate_flights(components)
    assert not alert
    clock.ahead = 1_200.0
    ((alert, start),) = await evaluate_flights(components)
    assert not alert
    assert clock() - start < 60
    clock.ahead = 0.0
    ((alert, start),) = await evaluate_flights(components)
    assert not alert
    assert start < clock()
    send(age=65.0, seq=2)
    ((alert, _),) = await evaluate_flights(components)
    assert alert == "waits"
    await components.ticker.stop_rules()


async def test_an_early_evaluation_waits_for_the_pause_of_the_one_before() -> None:
    timer = EvaluationTimer()
    timer.begin()
    timer.request()
    with pytest.raises(TimeoutError):  # one is in progress
        await asyncio.wait_for(timer.wait_requested(), 0.05)
    timer.end(seconds=0.5, interval=1.0)
    with pytest.raises(TimeoutError):  # for ten seconds from its beginning
        await asyncio.wait_for(timer.wait_requested(), 0.05)
    assert not timer.is_due

    timer = EvaluationTimer()
    timer.request()
    await asyncio.wait_for(timer.wait_requested(), DEADLINE)
    timer.begin()
    timer.end(seconds=0.0, interval=1.0)
    timer.request()
    await asyncio.wait_for(timer.wait_requested(), DEADLINE)


async def test_a_longer_interval_is_not_shortened_by_requests() -> None:
    timer = EvaluationTimer()
    timer.begin()
    timer.end(seconds=0.0, interval=60.0)
    timer.request()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(timer.wait_requested(), 0.05)


async def test_an_evaluation_at_a_tick_answers_a_request() -> None:
    timer = EvaluationTimer()
    timer.request()
    timer.begin()
    timer.end(seconds=0.0, interval=1.0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(timer.wait_requested(), 0.05)

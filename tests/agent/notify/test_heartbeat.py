from __future__ import annotations

import asyncio

from tests.receivers import Receivers, Reply

from kaywatch_agent.notify.config import HeartbeatConfig, parse_heartbeat
from kaywatch_agent.notify.heartbeat import Heartbeat, HeartbeatMetrics
from kaywatch_agent.notify.http import HttpClient


async def test_it_pings_while_all_is_well_and_says_when_it_is_not(
    fakes: Receivers, http: HttpClient
) -> None:
    well = [True]
    metrics = HeartbeatMetrics()
    config = parse_heartbeat({"url": fakes.url + "/uuid?rid=1"})
    heartbeat = Heartbeat(config, http, lambda: well[0], metrics)
    await heartbeat.ping()
    well[0] = False
    await heartbeat.ping()
    fakes.answer("/uuid/fail", Reply(500))
    await heartbeat.ping()

    assert [r.path for r in fakes.requests] == ["/uuid", "/uuid/fail", "/uuid/fail"]
    assert heartbeat.error == "HTTP 500"
    for result in ("ok", "fail", "error"):
        assert metrics.pings.labels(result).value == 1


async def test_it_can_be_silent_when_all_is_not_well(
    fakes: Receivers, http: HttpClient
) -> None:
    config = parse_heartbeat({"url": fakes.url + "/uuid", "fail": False})
    await Heartbeat(config, http, lambda: False, HeartbeatMetrics()).ping()
    assert fakes.requests == []


async def test_it_pings_at_its_interval_and_not_without_a_url(
    fakes: Receivers, http: HttpClient
) -> None:
    await Heartbeat(HeartbeatConfig(), http, lambda: True, HeartbeatMetrics()).run()
    config = parse_heartbeat({"url": fakes.url + "/uuid", "interval": "1s"})
    task = asyncio.create_task(
        Heartbeat(config, http, lambda: True, HeartbeatMetrics()).run()
    )
    async with asyncio.timeout(5):
        while len(fakes.requests) < 2:
            await asyncio.sleep(0.05)
    task.cancel()

from __future__ import annotations

import asyncio

from tests.agents import DEADLINE
from tests.receivers import Receivers, Reply

from kaywatch_agent.notify.config import HeartbeatConfig, parse_heartbeat
from kaywatch_agent.notify.heartbeat import Heartbeat
from kaywatch_agent.notify.http import HttpClient
from kaywatch_agent.notify.metrics import HeartbeatMetrics


async def test_it_pings_the_url_while_healthy_and_fail_while_not(
    receivers: Receivers, http: HttpClient
) -> None:
    well = [True]
    metrics = HeartbeatMetrics()
    config = parse_heartbeat({"url": receivers.url + "/uuid?rid=1"})
    heartbeat = Heartbeat(config, http, lambda: well[0], metrics)
    await heartbeat.ping()
    well[0] = False
    await heartbeat.ping()
    receivers.answer("/uuid/fail", Reply(500))
    await heartbeat.ping()

    assert [r.path for r in receivers.requests] == ["/uuid", "/uuid/fail", "/uuid/fail"]
    assert heartbeat.error == "HTTP 500"
    for result in ("ok", "fail", "error"):
        assert metrics.pings.labels(result).value == 1


async def test_without_fail_it_does_not_ping_while_unhealthy(
    receivers: Receivers, http: HttpClient
) -> None:
    config = parse_heartbeat({"url": receivers.url + "/uuid", "fail": False})
    await Heartbeat(config, http, lambda: False, HeartbeatMetrics()).ping()
    assert receivers.requests == []


async def test_it_pings_at_its_interval_and_never_without_a_url(
    receivers: Receivers, http: HttpClient
) -> None:
    await Heartbeat(HeartbeatConfig(), http, lambda: True, HeartbeatMetrics()).run()
    config = parse_heartbeat({"url": receivers.url + "/uuid", "interval": "1s"})
    task = asyncio.create_task(
        Heartbeat(config, http, lambda: True, HeartbeatMetrics()).run()
    )
    async with asyncio.timeout(DEADLINE):
        while len(receivers.requests) < 2:
            await asyncio.sleep(0.05)
    task.cancel()

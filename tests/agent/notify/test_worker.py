"""Delivery, against receivers that answer over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from structlog.testing import capture_logs
from tests.agent.notify.alerts import NOON, Disk, alert, outbox, put, resolve_alert
from tests.receivers import HANG, RESET, Receivers, Reply, rate_limited

from kaywatch_agent.model.alerts import MessageStatus, Notification, NotificationKind
from kaywatch_agent.notify.config import parse, policies
from kaywatch_agent.notify.http import HttpClient
from kaywatch_agent.notify.outbox import Outbox
from kaywatch_agent.notify.receivers import build
from kaywatch_agent.notify.result import DeliveryResult, sent
from kaywatch_agent.notify.worker import Workers
from kaywatch_agent.rules.rule import Grouping

FIRING, RESOLVED = NotificationKind.FIRING, NotificationKind.RESOLVED
AT_ONCE = Grouping(group_wait=0.0, group_interval=0.0)


class Running:
    """An outbox, its workers and a disk, as in the agent."""

    def __init__(self, box: Outbox, workers: Workers, disk: Disk) -> None:
        self.box = box
        self.workers = workers
        self.disk = disk

    def put(self, receiver: str, kind: NotificationKind, *alerts: Any) -> None:
        for one in alerts:
            put(self.box, receiver, kind, one, time.time())
        self.commit()

    def commit(self) -> None:
        self.workers.wake(self.disk.commit(self.box))

    def count(self, status: MessageStatus) -> int:
        return len(self.box.messages(statuses=(status,)))


async def until(condition: Callable[[], Any], deadline: float = 10.0) -> Any:
    async with asyncio.timeout(deadline):
        while not condition():
            await asyncio.sleep(0.005)
    return condition()


@asynccontextmanager
async def run_worker(
    receivers: Receivers,
    random: float = 0.0,
    seconds: float = 0.5,
    **tables: dict[str, Any],
) -> AsyncIterator[Running]:
    for table in tables.values():
        table.setdefault("timeout", f"{seconds}s")
        for key in ("url", "webhook_url"):
            if str(table.get(key, "")).startswith("/"):
                table[key] = receivers.url + table[key]
    configs = parse(tables)
    box = outbox(policies(configs, AT_ONCE), random=0.0)
    disk = Disk()
    async with aclosing(HttpClient(total_seconds=seconds)) as http:
        workers = Workers(
            box,
            request_commit=lambda: running.commit(),  # noqa: PLW0108 - made below
            stop_seconds=0.2,
        )
        running = Running(box, workers, disk)
        workers.use(build(configs, http))
        try:
            yield running
        finally:
            await workers.stop()


SLACK = {"type": "slack", "webhook_url": "/services/T/B/x", "rate": "1000/s"}
PAGER = {"type": "pagerduty", "routing_key": "R" * 32, "url": "/", "rate": "1000/s"}
HOOK = {"type": "webhook", "url": "/hook", "rate": "1000/s"}


async def test_trigger_and_resolve_reach_every_receiver_in_order(
    receivers: Receivers,
) -> None:
    async with run_worker(
        receivers, ops=dict(SLACK), pd=dict(PAGER), hook=dict(HOOK)
    ) as running:
        for name in ("ops", "pd", "hook"):
            running.put(name, FIRING, alert(fired=time.time()))
        await until(lambda: running.count(MessageStatus.SENT) == 3)
        for name in ("ops", "pd", "hook"):
            running.put(name, RESOLVED, resolve_alert(alert(), ended=time.time()))
        await until(lambda: running.count(MessageStatus.SENT) == 6)

    assert ["[FIRING]" in r.json["text"] for r in receivers.to("/services/T/B/x")] == [
        True,
        False,
    ]
    events = [r.json for r in receivers.to("/v2/enqueue")]
    assert [e["event_action"] for e in events] == ["trigger", "resolve"]
    assert events[0]["dedup_key"] == events[1]["dedup_key"]
    assert [r.json["status"] for r in receivers.to("/hook")] == ["firing", "resolved"]


async def test_temporary_failures_are_retried_with_the_same_id(
    receivers: Receivers,
) -> None:
    receivers.answer(
        "/hook",
        Reply(500),
        Reply(503, "", {"Retry-After": "0"}),
        Reply(408),
        rate_limited("1"),
        HANG,
        RESET,
    )
    async with run_worker(receivers, hook=dict(HOOK)) as running:
        running.put("hook", FIRING, alert())
        await until(lambda: running.count(MessageStatus.SENT) == 1)

    tries = receivers.to("/hook")
    assert len(tries) == 7
    assert len({r.headers["idempotency-key"] for r in tries}) == 1
    assert len({r.json["id"] for r in tries}) == 1


async def test_rejections_are_kept_with_the_reason(
    receivers: Receivers,
) -> None:
    receivers.answer(
        "/v2/enqueue",
        Reply(400, '{"status":"invalid event","errors":["Length of key is wrong"]}'),
    )
    receivers.answer("/hook", Reply(302, "", {"Location": "/elsewhere"}))
    async with run_worker(receivers, pd=dict(PAGER), hook=dict(HOOK)) as running:
        running.put("pd", FIRING, alert())
        running.put("hook", FIRING, alert())
        await until(lambda: all(m.error for m in running.box.messages()))
        errors = {message.receiver: message.error for message in running.box.messages()}

    assert errors["pd"] == "HTTP 400: Length of key is wrong"
    assert errors["hook"] == (
        "HTTP 302: redirects to another path are not followed; configure the final URL"
    )


async def test_a_hanging_receiver_does_not_delay_others(receivers: Receivers) -> None:
    receivers.answer("/services/T/B/x", HANG)
    async with run_worker(
        receivers, seconds=5.0, ops=dict(SLACK), hook=dict(HOOK)
    ) as running:
        running.put("ops", FIRING, alert())
        await until(lambda: receivers.to("/services/T/B/x"))
        running.put("hook", FIRING, alert())
        await until(lambda: running.count(MessageStatus.SENT) == 1, 1.0)


async def test_a_410_disables_the_receiver_and_notifies_the_fallback(
    receivers: Receivers,
) -> None:
    receivers.answer("/hook", Reply(410, "gone"))
    async with run_worker(
        receivers, hook={**HOOK, "fallback": "ops"}, ops=dict(SLACK)
    ) as running:
        running.put("hook", FIRING, alert())
        await until(lambda: running.count(MessageStatus.SENT) == 1)
        running.put("hook", FIRING, alert("ship"))
        await until(lambda: running.count(MessageStatus.SENT) == 2)

    texts = [r.json["text"] for r in receivers.to("/services/T/B/x")]
    assert all("Sent here because hook can't be reached" in text for text in texts)
    assert len(receivers.to("/hook")) == 1


async def test_stop_waits_briefly_and_keeps_unfinished_messages(
    receivers: Receivers,
) -> None:
    receivers.answer("/hook", HANG)
    started = time.monotonic()
    async with run_worker(receivers, seconds=30.0, hook=dict(HOOK)) as running:
        running.put("hook", FIRING, alert())
        await until(lambda: receivers.to("/hook"))

    assert time.monotonic() - started < 5
    (message,) = running.box.messages()
    assert message.status is MessageStatus.PENDING
    assert list(running.disk.documents) == [message.id]


async def test_an_exception_in_a_receiver_is_retried(receivers: Receivers) -> None:
    class Broken:
        calls = 0

        async def send(self, notification: Notification, now: float) -> DeliveryResult:
            self.calls += 1
            if self.calls == 1:
                raise ZeroDivisionError
            return sent()

    async with run_worker(receivers, hook=dict(HOOK)) as running:
        running.workers.use({"hook": Broken()})
        running.put("hook", FIRING, alert())
        await until(lambda: running.count(MessageStatus.SENT) == 1)
        assert running.box.messages()[0].attempts == 1


async def test_an_exception_in_the_worker_does_not_stop_delivery(
    receivers: Receivers,
) -> None:
    async with run_worker(receivers, hook=dict(HOOK)) as running:
        due, calls = running.box.claim, []

        def once_broken(name: str, now: float) -> Any:
            calls.append(name)
            if len(calls) == 1:
                raise ZeroDivisionError
            return due(name, now)

        running.box.claim = once_broken  # type: ignore[method-assign]
        running.put("hook", FIRING, alert())
        await until(lambda: running.count(MessageStatus.SENT) == 1)


async def test_a_reload_adds_and_removes_receivers(receivers: Receivers) -> None:
    async with (
        run_worker(receivers, hook=dict(HOOK)) as running,
        aclosing(HttpClient()) as http,
    ):
        configs = parse({"other": {**HOOK, "url": receivers.url + "/other"}})
        running.box.use(policies(configs, AT_ONCE), time.time())
        running.workers.use(build(configs, http))
        running.put("other", FIRING, alert())
        await until(lambda: running.count(MessageStatus.SENT) == 1)

    assert [r.path for r in receivers.requests] == ["/other"]


async def test_a_receiver_that_is_added_again_during_an_attempt_is_served(
    receivers: Receivers,
) -> None:
    receivers.answer("/hook", HANG)
    async with (
        run_worker(receivers, hook=dict(HOOK)) as running,
        aclosing(HttpClient()) as http,
    ):
        running.put("hook", FIRING, alert())
        await until(lambda: receivers.to("/hook"))
        running.workers.use({})
        configs = parse({"hook": {**HOOK, "url": receivers.url + "/hook"}})
        running.workers.use(build(configs, http))
        await until(lambda: running.count(MessageStatus.SENT) == 1)


async def test_a_thousand_episodes_with_a_third_of_the_requests_failing(
    receivers: Receivers,
) -> None:
    """Every incident is closed, and every message ends."""
    receivers.fail(0.3)
    async with run_worker(receivers, pd=dict(PAGER), hook=dict(HOOK)) as running:
        for n in range(1000):
            one = alert(f"n{n % 50}", episode=1 + n // 50, fired=NOON)
            for name in ("pd", "hook"):
                put(running.box, name, FIRING, one, time.time())
            if n % 3 == 0:
                running.commit()
                await asyncio.sleep(0)
            for name in ("pd", "hook"):
                put(running.box, name, RESOLVED, resolve_alert(one), time.time())
            if n % 25 == 0:
                running.commit()
                await asyncio.sleep(0.01)
        running.commit()
        await until(lambda: running.count(MessageStatus.PENDING) == 0, 60)

    open_incidents: set[str] = set()
    for request in receivers.accepted("/v2/enqueue"):
        if request.json["event_action"] == "trigger":
            open_incidents.add(request.json["dedup_key"])
        else:
            open_incidents.discard(request.json["dedup_key"])
    assert open_incidents == set()
    ended = {
        (one["labels"]["node"], one["episode"])
        for request in receivers.accepted("/hook")
        for one in request.json["alerts"]
        if one["status"] == "resolved"
    }
    assert len(ended) == 1000


async def test_short_outages_are_logged_at_debug_level(
    receivers: Receivers,
) -> None:
    receivers.answer("/hook", Reply(500), Reply(200), Reply(500), Reply(200))
    with capture_logs() as lines:
        async with run_worker(
            receivers, hook={"type": "webhook", "url": "/hook"}
        ) as now:
            now.put("hook", FIRING, alert("pay"))
            await until(lambda: now.count(MessageStatus.SENT) == 1)
            now.put("hook", FIRING, alert("ship"))
            await until(lambda: now.count(MessageStatus.SENT) == 2)
            await until(lambda: len(back(lines)) == 2)
    assert [line["log_level"] for line in back(lines)] == ["debug", "debug"]


async def test_the_end_of_an_outage_is_logged(receivers: Receivers) -> None:
    receivers.answer("/hook", *[Reply(500)] * 10)
    with capture_logs() as lines:
        async with run_worker(
            receivers, hook={"type": "webhook", "url": "/hook"}
        ) as now:
            now.put("hook", FIRING, alert("pay"))
            await until(lambda: now.box.receivers["hook"].down)
            # A reload closes the circuit, which saves waiting a minute for the probe.
            now.box.use({"hook": now.box.receivers["hook"].policy}, time.time())
            now.workers.wake()
            await until(lambda: now.count(MessageStatus.SENT) == 1)
            await until(lambda: back(lines))
    (line,) = back(lines)
    assert (line["log_level"], line["receiver"]) == ("info", "hook")
    assert line["after_seconds"] >= 0


def back(lines: list[Any]) -> list[Any]:
    return [line for line in lines if line["event"] == "receiver recovered"]

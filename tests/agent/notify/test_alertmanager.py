"""AlertmanagerSender, against a real Alertmanager."""

from __future__ import annotations

import asyncio
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.agent.notify.alerts import alert, resolve_alert
from tests.agents import DEADLINE, free_port, kill_at_end, until
from tests.receivers import Receivers, Reply
from tests.servers import require

from kaywatch_agent.model.alerts import AlertDetails
from kaywatch_agent.notify.config import AlertmanagerConfig, parse
from kaywatch_agent.notify.http import HttpClient
from kaywatch_agent.notify.metrics import OutboxMetrics
from kaywatch_agent.notify.receivers.alertmanager import (
    BATCH,
    AlertmanagerSender,
    render,
    safe_name,
)

CONFIG = """
route: {receiver: hook, group_wait: 100ms, group_interval: 200ms, group_by: ['...']}
receivers:
- name: hook
  webhook_configs: [{url: '%s/from-alertmanager', send_resolved: true}]
"""


@contextmanager
def alertmanager(folder: Path, hook: str) -> Iterator[str]:
    program = require("prometheus-alertmanager")
    folder.mkdir()
    (folder / "am.yml").write_text(CONFIG % hook)
    port = free_port()
    server = subprocess.Popen(
        [
            program,
            f"--config.file={folder}/am.yml",
            f"--storage.path={folder}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    with kill_at_end(server):
        until(lambda: get(url + "/-/ready"), "it is ready")
        yield url


def get(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE) as response:
            return bytes(response.read())
    except OSError:
        return None


def alerts_of(url: str) -> dict[str, Any]:
    document = json.loads(get(url + "/api/v2/alerts") or b"[]")
    return {one["labels"].get("node", ""): one for one in document}


def now() -> float:
    import time

    return time.time()


def firing_alert(node: str, **fields: Any) -> AlertDetails:
    return alert(node, started=now() - 60, fired=now() - 30, **fields)


def alertmanager_sender(
    http: HttpClient, alerts: list[AlertDetails], *urls: str, interval: str = "1m"
) -> AlertmanagerSender:
    table = {"type": "alertmanager", "urls": list(urls), "resend_interval": interval}
    config = parse({"am": table})["am"]
    assert isinstance(config, AlertmanagerConfig)
    return AlertmanagerSender(config, http, lambda _: alerts, OutboxMetrics(), now)


@pytest.fixture
def peers(tmp_path: Path, receivers: Receivers) -> Iterator[tuple[str, str]]:
    with ExitStack() as stack:
        first = stack.enter_context(alertmanager(tmp_path / "a", receivers.url))
        second = stack.enter_context(alertmanager(tmp_path / "b", receivers.url))
        yield first, second


async def test_every_peer_is_sent_firing_and_resolved_alerts(
    peers: tuple[str, str], http: HttpClient, receivers: Receivers
) -> None:
    alerts = [firing_alert("pay"), firing_alert("ship", severity="warning")]
    sender = alertmanager_sender(http, alerts, *peers)
    await sender.send()

    for url in peers:
        result = alerts_of(url)
        assert set(result) == {"pay", "ship"}
        pay = result["pay"]
        assert pay["fingerprint"] == alerts[0].fingerprint
        assert pay["labels"]["alertname"] == "node-success-rate"
        assert pay["generatorURL"] == alerts[0].dashboard_url
    tool = await asyncio.to_thread(
        subprocess.run,
        [require("amtool"), "alert", "query", f"--alertmanager.url={peers[0]}"],
        capture_output=True,
        text=True,
    )
    assert "node-success-rate" in tool.stdout

    hook = "/from-alertmanager"
    await asyncio.to_thread(
        until, lambda: len(receivers.to(hook)) >= 4, "the hook is notified of both"
    )
    alerts[0] = resolve_alert(alerts[0], ended=now() - 1)
    await sender.send()
    ended = await asyncio.to_thread(
        until,
        lambda: [r for r in receivers.to(hook) if r.json["status"] == "resolved"],
        "the hook is notified of the end",
    )
    (one,) = ended[0].json["alerts"]
    assert (one["labels"]["node"], one["generatorURL"]) == (
        "pay",
        alerts[0].dashboard_url,
    )
    assert set(alerts_of(peers[0])) == {"ship"}


async def test_an_alert_ends_when_it_is_no_longer_sent(
    peers: tuple[str, str], http: HttpClient
) -> None:
    sender = alertmanager_sender(http, [firing_alert("pay")], peers[0], interval="1s")
    await sender.send()
    assert set(alerts_of(peers[0])) == {"pay"}

    await asyncio.to_thread(
        until, lambda: not alerts_of(peers[0]), "it ends after four intervals"
    )


async def test_a_rejected_alert_does_not_affect_the_others(
    peers: tuple[str, str], http: HttpClient
) -> None:
    poisoned = firing_alert("bad", dashboard_url=":::no URL")
    odd = firing_alert("odd")
    odd = msgspec.structs.replace(
        odd,
        labels={**odd.labels, "node.id": "x", "bad-name": "y", "empty": "", "1": "z"},
    )
    alerts = [firing_alert("pay"), poisoned, odd]
    sender = alertmanager_sender(http, alerts, *peers)
    await sender.send()

    for url in peers:
        assert set(alerts_of(url)) == {"pay", "odd"}
    labels = alerts_of(peers[0])["odd"]["labels"]
    assert (labels["node_id"], labels["bad_name"], labels["_1"]) == ("x", "y", "z")
    assert "empty" not in labels
    assert sender.errors == dict.fromkeys(peers, "")


async def test_a_peer_that_is_down_does_not_affect_the_other(
    peers: tuple[str, str], http: HttpClient
) -> None:
    down = f"http://127.0.0.1:{free_port()}"
    sender = alertmanager_sender(http, [firing_alert("pay")], down, peers[0])
    await sender.send()

    assert set(alerts_of(peers[0])) == {"pay"}
    assert sender.errors == {down: "connection refused", peers[0]: ""}


async def test_an_alert_with_a_new_severity_replaces_the_old_one(
    peers: tuple[str, str], http: HttpClient
) -> None:
    """Rules therefore send both in one request: the old one as ended."""
    before = firing_alert("pay", severity="warning")
    after = firing_alert("pay", severity="critical")
    await alertmanager_sender(http, [before], peers[0]).send()
    await alertmanager_sender(
        http, [resolve_alert(before, ended=now() - 1), after], peers[0]
    ).send()

    (only,) = json.loads(get(peers[0] + "/api/v2/alerts") or b"[]")
    assert only["labels"]["severity"] == "critical"


async def test_many_alerts_are_sent_in_batches(
    http: HttpClient, receivers: Receivers
) -> None:
    many = [firing_alert(f"n{n}") for n in range(2 * BATCH + 1)]
    await alertmanager_sender(http, many, receivers.url).send()

    assert [len(r.json) for r in receivers.to("/api/v2/alerts")] == [BATCH, BATCH, 1]


async def test_a_rejected_alert_is_left_out_for_a_while(
    http: HttpClient, receivers: Receivers
) -> None:
    receivers.answer("/api/v2/alerts", Reply(422, "no"), Reply(200), Reply(422, "no"))
    sender = alertmanager_sender(
        http, [firing_alert("pay"), firing_alert("bad")], receivers.url
    )
    await sender.send()
    await sender.send()

    assert [len(r.json) for r in receivers.requests] == [2, 1, 1, 1]
    assert receivers.requests[-1].json[0]["labels"]["node"] == "pay"


async def test_alerts_are_sent_immediately_after_wake(
    http: HttpClient, receivers: Receivers
) -> None:
    alerts: list[AlertDetails] = []
    sender = alertmanager_sender(http, alerts, receivers.url)
    task = asyncio.create_task(sender.run())
    await asyncio.sleep(0.05)
    alerts.append(firing_alert("pay"))
    sender.wake()
    await asyncio.to_thread(until, lambda: receivers.requests, "it sends")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_times_and_label_names_of_an_alertmanager_alert() -> None:
    body = render(alert(), 1_795_608_100.0, 60.0)
    assert body["startsAt"] == "2026-11-25T12:01:00.000Z"
    assert body["endsAt"] == "2026-11-25T12:05:40.000Z"
    assert [safe_name(n) for n in ("a.b", "9x", "", "ok_1")] == [
        "a_b",
        "_9x",
        "_",
        "ok_1",
    ]

"""Receivers that misbehave: the status of a response decides, however its body ends."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.agent.notify.alerts import (
    NOON,
    alert,
    outbox,
    put,
    resolve_alert,
)
from tests.agent.notify.test_outbox import deliver, fail
from tests.agent.notify.test_worker import run_worker, until
from tests.certificates import certificate
from tests.receivers import Receivers, Reply

from kaywatch_agent.model.alerts import MessageStatus, NotificationKind
from kaywatch_agent.notify.config import AlertmanagerConfig, parse, parse_heartbeat
from kaywatch_agent.notify.heartbeat import Heartbeat
from kaywatch_agent.notify.http import HttpClient, NoResponse
from kaywatch_agent.notify.metrics import HeartbeatMetrics, OutboxMetrics
from kaywatch_agent.notify.policy import Policy
from kaywatch_agent.notify.receivers.alertmanager import AlertmanagerSender
from kaywatch_agent.notify.request_options import RequestOptions
from kaywatch_agent.notify.result import judge_status

FIRING, RESOLVED = NotificationKind.FIRING, NotificationKind.RESOLVED
STATUS = "HTTP/1.1 {} Status\r\nConnection: close\r\n"

# How a body may go wrong after a status; {} is the status line.
BODIES = {
    "complete": STATUS + "Content-Length: 2\r\n\r\nok",
    "empty": STATUS + "Content-Length: 0\r\n\r\n",
    "truncated": STATUS + "Content-Length: 50\r\n\r\nok",
    "not gzip": STATUS + "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok",
    "brotli": STATUS + "Content-Encoding: br\r\nContent-Length: 2\r\n\r\n\x0b\x03",
    "bad chunk": STATUS + "Transfer-Encoding: chunked\r\n\r\n5\r\nok",
    "not text": STATUS + "Content-Length: 2\r\n\r\n\x00\x01",
    "endless": STATUS + "Content-Type: text/event-stream\r\n\r\nok",
    "html": STATUS + "Content-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
    "cut json": STATUS + 'Content-Type: application/json\r\n\r\n{"ok":fal',
}


def answer(body: str, status: int) -> str:
    return BODIES[body].replace("{}", str(status), 1)


class Recording(ThreadingHTTPServer):
    """Answers with bytes as they are, and records what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer("complete", 200)
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.over = threading.Event()

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up on an endless body is no error."""


class _Handler(BaseHTTPRequestHandler):
    server: Recording

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.command, self.path, headers, body))
        self.wfile.write(self.server.answer.encode("latin-1"))
        self.wfile.flush()
        if self.server.answer.endswith("stream\r\n\r\nok"):
            self.server.over.wait(60)
        self.close_connection = True

    do_POST = do_GET = do_HEAD = handle_any

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextmanager
def recording() -> Iterator[Recording]:
    server = Recording()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("status", [200, 202, 400, 401, 404, 422, 500, 503])
async def test_the_status_decides_whatever_the_body(body: str, status: int) -> None:
    with recording() as server:
        server.answer = answer(body, status)
        async with aclosing(HttpClient()) as http:
            response = await http.post(server.url, b"{}")

    assert response.status == status


# A receiver of each type.
TABLES = {
    "slack": {"webhook_url": ""},
    "teams": {"webhook_url": ""},
    "discord": {"webhook_url": ""},
    "webhook": {"url": ""},
    "pagerduty": {"url": "", "routing_key": "R" * 32},
    "opsgenie": {"url": "", "api_key": "0a1b2c3d"},
}


@pytest.mark.parametrize("kind", sorted(TABLES))
@pytest.mark.parametrize("body", BODIES)
async def test_an_accepted_message_is_never_repeated(
    receivers: Receivers, kind: str, body: str
) -> None:
    with recording() as server:
        server.answer = answer(body, 200)
        keys = {key: value or server.url for key, value in TABLES[kind].items()}
        table = {"type": kind, **keys}
        async with run_worker(receivers, hook=table) as running:
            running.put("hook", FIRING, alert())
            await until(lambda: running.count(MessageStatus.SENT) == 1)
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 422])
async def test_a_receiver_that_rejects_everything_is_down_until_it_is_repaired(
    receivers: Receivers, status: int
) -> None:
    receivers.mood = lambda path: Reply(status, "no")
    async with run_worker(receivers, hook={"type": "webhook", "url": "/hook"}) as run:
        state = run.box.receivers["hook"]
        assert state.up is None  # nothing was attempted
        run.put("hook", FIRING, alert())
        await until(lambda: state.up is False)
        assert state.down
        assert state.error.startswith(f"HTTP {status}")
        assert run.count(MessageStatus.PENDING) == 1
        # The next attempt is within a minute.
        due = run.box.next_due("hook", time.time())
        assert due is not None and due - time.time() <= 61

        receivers.mood = lambda path: None
        state.breaker.close()
        run.put("hook", FIRING, alert("ship", graph="other"))
        await until(lambda: run.count(MessageStatus.SENT) == 2)
        assert state.up is True


def test_a_message_that_alone_is_rejected_is_given_up() -> None:
    rejected = judge_status(422, {}, "no", NOON)
    box = outbox({"pd": Policy(grouped=False)}, random=1.0)
    put(box, "pd", FIRING, alert(), NOON)
    put(box, "pd", FIRING, alert("ship"), NOON)
    fail(box, "pd", NOON, rejected)
    assert not box.messages(statuses=(MessageStatus.DEAD,))
    deliver(box, "pd", NOON + 60)
    for attempt in range(4):
        # The receiver accepts other messages, so that they do not wait.
        assert not box.messages(statuses=(MessageStatus.DEAD,))
        fail(box, "pd", NOON + 61 * (attempt + 2), rejected)
        assert not box.receivers["pd"].down

    (dead,) = box.messages(statuses=(MessageStatus.DEAD,))
    assert (dead.reason, dead.error) == ("refused", "HTTP 422: no")


async def test_a_test_of_a_receiver_fails_at_once(receivers: Receivers) -> None:
    receivers.answer("/hook", Reply(401, "who?"))
    async with run_worker(receivers, hook={"type": "webhook", "url": "/hook"}) as run:
        run.put("hook", NotificationKind.TEST, alert())
        await until(lambda: run.count(MessageStatus.DEAD) == 1)


async def test_a_test_is_sent_while_the_receiver_is_down_and_ends_that(
    receivers: Receivers,
) -> None:
    receivers.answer("/hook", Reply(401, "who?"))
    async with run_worker(receivers, hook={"type": "webhook", "url": "/hook"}) as run:
        run.put("hook", FIRING, alert())
        await until(lambda: run.box.receivers["hook"].down)
        run.put("hook", NotificationKind.TEST, alert())
        await until(lambda: run.count(MessageStatus.SENT) == 2)


async def test_attempts_have_a_limit(receivers: Receivers) -> None:
    receivers.mood = lambda path: Reply(500, "")
    table = {"type": "webhook", "url": "/hook", "max_attempts": 3}
    async with run_worker(receivers, hook=table) as run:
        run.put("hook", FIRING, alert())
        await until(lambda: run.count(MessageStatus.DEAD) == 1)

    (dead,) = run.box.messages(statuses=(MessageStatus.DEAD,))
    assert (dead.attempts, dead.reason) == (3, "attempts")


# -- accounts ------------------------------------------------------------------------


async def test_a_resolve_goes_to_the_account_of_its_trigger(
    receivers: Receivers, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("old" * 11)
    table = {"type": "pagerduty", "routing_key_file": str(key), "url": "/v2/enqueue"}
    async with run_worker(receivers, pd=table) as run:
        run.put("pd", FIRING, alert())
        await until(lambda: run.count(MessageStatus.SENT) == 1)
        key.write_text("new" * 11)
        run.put("pd", RESOLVED, resolve_alert(alert()))
        await until(lambda: run.count(MessageStatus.SENT) == 2)
        run.put("pd", FIRING, alert("ship"))
        await until(lambda: run.count(MessageStatus.SENT) == 3)

    keys = [request.json["routing_key"][:3] for request in receivers.to("/v2/enqueue")]
    assert keys == ["old", "old", "new"]


async def test_a_resolve_goes_to_the_new_account_once_the_old_one_is_gone(
    receivers: Receivers, tmp_path: Path
) -> None:
    url = tmp_path / "url"
    url.write_text(receivers.url + "/old")
    async with run_worker(
        receivers, hook={"type": "webhook", "url_file": str(url)}
    ) as run:
        run.put("hook", FIRING, alert())
        await until(lambda: run.count(MessageStatus.SENT) == 1)
        url.write_text(receivers.url + "/new")
        receivers.answer("/old", Reply(410, "gone"))
        run.put("hook", RESOLVED, resolve_alert(alert()))
        await until(lambda: run.count(MessageStatus.SENT) == 2)

    assert [request.path for request in receivers.requests] == ["/old", "/old", "/new"]


UPDATE, POST = "/api/chat.update", "/api/chat.postMessage"


def rejected(error: str) -> Reply:
    """Return how the Web API rejects a call."""
    return Reply(200, json.dumps({"ok": False, "error": error}))


@pytest.mark.parametrize(
    ("replies", "calls"),
    [
        # The app that has posted a message may update it.
        ((), [(UPDATE, "old")]),
        # A new token of the same app may as well.
        ((rejected("token_revoked"),), [(UPDATE, "old"), (UPDATE, "new")]),
        # Another app may not: the channel gets a message of its own.
        (
            (rejected("invalid_auth"), rejected("cant_update_message")),
            [(UPDATE, "old"), (UPDATE, "new"), (POST, "new")],
        ),
        # Neither may one of another workspace.
        (
            (rejected("account_inactive"), rejected("channel_not_found")),
            [(UPDATE, "old"), (UPDATE, "new"), (POST, "new")],
        ),
    ],
)
async def test_a_bot_whose_token_was_rotated_updates_the_posted_message(
    receivers: Receivers,
    tmp_path: Path,
    replies: tuple[Reply, ...],
    calls: list[tuple[str, str]],
) -> None:
    token = tmp_path / "token"
    token.write_text("xoxb-old")
    table = {"type": "slack", "bot_token_file": str(token), "channel": "#ops"}
    async with run_worker(receivers, bot={**table, "url": "/api"}) as run:
        run.put("bot", FIRING, alert())
        await until(lambda: run.count(MessageStatus.SENT) == 1)
        token.write_text("xoxb-new")
        receivers.answer(UPDATE, *replies)
        run.put("bot", RESOLVED, resolve_alert(alert()))
        await until(lambda: run.count(MessageStatus.SENT) == 2)
        run.put("bot", FIRING, alert("ship"))
        await until(lambda: run.count(MessageStatus.SENT) == 3)

    made = [
        (request.path, request.headers["authorization"].removeprefix("Bearer xoxb-"))
        for request in receivers.requests
    ]
    assert made == [(POST, "old"), *calls, (POST, "new")]
    updates = [request.json for request in receivers.to(UPDATE)]
    assert {(one["channel"], one["ts"]) for one in updates} == {
        ("C0123", "1700000000.000001")
    }


# -- how requests are sent -----------------------------------------------------------


async def test_a_proxy_and_headers_are_used() -> None:
    options = {"headers": {"X-Team": "search"}}
    with recording() as proxy:
        async with aclosing(HttpClient()) as http:
            chosen = RequestOptions(proxy=proxy.url, **options)
            await http.post("http://nowhere.invalid/hook", b"{}", options=chosen)

    ((method, path, headers, _),) = proxy.requests
    assert (method, path) == ("POST", "http://nowhere.invalid/hook")
    assert headers["x-team"] == "search"


async def test_the_environments_proxy_is_used_on_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with recording() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "inside.invalid")
        options = RequestOptions(proxy="environment")
        async with aclosing(HttpClient()) as http:
            await http.post("http://nowhere.invalid/", b"{}", options=options)
            for url, chosen in (
                ("http://inside.invalid/", options),
                ("http://nowhere.invalid/", RequestOptions()),
            ):
                with pytest.raises(NoResponse, match="cannot be resolved"):
                    await http.post(url, b"{}", options=chosen)
    assert len(proxy.requests) == 1


async def test_a_private_authority_is_trusted_if_it_is_named(tmp_path: Path) -> None:
    issued = certificate(tmp_path, "localhost")
    with recording() as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(issued.certificate, issued.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        port = server.server_address[1]
        url = f"https://localhost:{port}/"
        async with aclosing(HttpClient()) as http:
            with pytest.raises(NoResponse, match="not trusted"):
                await http.post(url, b"{}")
            options = RequestOptions(ca=str(issued.certificate))
            assert (await http.post(url, b"{}", options=options)).status == 200


async def test_a_request_ends_after_its_timeout(receivers: Receivers) -> None:
    receivers.answer("/x", Reply(hang=True))
    async with aclosing(HttpClient()) as http:
        options = RequestOptions(timeout=0.2)
        with pytest.raises(NoResponse, match="no response in time"):
            await http.post(receivers.url + "/x", b"{}", options=options)


@pytest.mark.parametrize("method", ["POST", "GET", "HEAD"])
async def test_a_heartbeat_uses_its_method(method: str) -> None:
    with recording() as server:
        config = parse_heartbeat({"url": server.url, "method": method})
        async with aclosing(HttpClient()) as http:
            await Heartbeat(config, http, lambda: True, HeartbeatMetrics()).ping()

    assert [request[0] for request in server.requests] == [method]


async def test_an_alert_that_changes_its_severity_ends_under_the_old_one() -> None:
    current = [alert(severity="warning")]
    with recording() as server:
        table = {"am": {"type": "alertmanager", "urls": [server.url]}}
        (config,) = parse(table).values()
        assert isinstance(config, AlertmanagerConfig)
        async with aclosing(HttpClient()) as http:
            sender = AlertmanagerSender(
                config, http, lambda _: current, OutboxMetrics(), lambda: NOON
            )
            await sender.send()
            current[0] = alert(severity="critical")
            await sender.send()

    last = json.loads(server.requests[-1][3])
    ends = {one["labels"]["severity"]: one["endsAt"] for one in last}
    assert set(ends) == {"warning", "critical"}
    assert ends["warning"] < ends["critical"]

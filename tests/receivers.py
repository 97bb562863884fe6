"""Receivers that answer as the real ones do, or as they do on bad days.

One HTTP server in a thread, so that tests of any kind can use it: paths below
`/services/` are Slack's incoming webhooks, `/api/chat.*` its Web API, `/v2/enqueue`
is PagerDuty, `/api/webhooks/` is Discord, `/workflows/` is Teams, `/v2/alerts` is
Opsgenie, and everything else is a webhook of someone's own.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from tests.agents import DEADLINE

HANG_SECONDS = 60.0


@dataclass(frozen=True)
class Reply:
    """One answer; `hang` and `reset` are none.

    With `cut`, the connection breaks within the body; with `endless`, it never ends.
    """

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    reset: bool = False
    cut: bool = False
    endless: bool = False


HANG = Reply(hang=True)
RESET = Reply(reset=True)
LIMITED = Reply(429, '{"retry_after":1,"ok":false,"error":"rate_limited"}')


def rate_limited(retry_after: str) -> Reply:
    return Reply(429, "slow down", {"Retry-After": retry_after})


@dataclass(frozen=True)
class Request:
    """A request to a receiver, and the response."""

    path: str
    headers: dict[str, str]
    body: bytes
    reply: Reply
    method: str = "POST"
    query: str = ""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Receivers:
    """A server that records, and responds as configured, or else as the real one."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[Request] = []
        self.scripted: dict[str, deque[Reply]] = defaultdict(deque)
        self.mood: Callable[[str], Reply | None] = lambda path: None
        self._posted = 0

    def answer(self, path: str, *replies: Reply) -> None:
        """Give these answers to the next requests to a path."""
        self.scripted[path].extend(replies)

    def fail(self, share: float, seed: int = 0, rejected: float = 0.0) -> None:
        """Let a share of all answers be bad ones, at random.

        Half as many more are successes with a bad body. A share of `rejected` is 4xx,
        each of which makes the agent wait for a minute.
        """
        chance = random.Random(seed)
        odd = [
            Reply(200, "ok", cut=True),
            Reply(202, "o", {"Content-Encoding": "gzip"}),
            Reply(200, "<html>welcome"),
            Reply(201, '{"ok":fal'),
            Reply(204),
            Reply(200, "ok", endless=True),
        ]
        bad = [
            Reply(500, "oops"),
            Reply(503, ""),
            Reply(502, "<html>bad gateway</html>"),
            RESET,
            rate_limited("0"),
        ]

        def mood(path: str) -> Reply | None:
            if chance.random() < rejected:
                return Reply(chance.choice([401, 403, 404, 422]), "no")
            if chance.random() >= share:
                # An endless body takes the agent two seconds.
                usual = chance.random() >= share / 2
                return None if usual else chance.choices(odd, [9, 9, 9, 9, 9, 1])[0]
            # A 429 of PagerDuty's means half a minute.
            return chance.choice(bad[:4] if path == "/v2/enqueue" else bad)

        self.mood = mood

    def to(self, path: str) -> list[Request]:
        """Return the requests to a path."""
        return [request for request in self.requests if request.path == path]

    def accepted(self, path: str) -> list[Request]:
        """Return the requests that were answered with success."""
        return [r for r in self.to(path) if 200 <= r.reply.status < 300 and r.body]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        scripted = self.scripted[request.path]
        if scripted:
            reply = scripted.popleft()
        else:
            reply = self.mood(request.path) or self._usual(request.path, body)
        taken = Reply(0) if reply.hang or reply.reset else reply
        headers = {name.lower(): value for name, value in request.headers.items()}
        query = request.query_string
        self.requests.append(
            Request(request.path, headers, body, taken, request.method, query)
        )
        if reply.hang:
            await asyncio.sleep(HANG_SECONDS)
        if reply.reset:
            assert request.transport is not None
            request.transport.abort()
        if reply.cut or reply.endless:
            return await self._break_off(request, reply)
        return web.Response(
            status=reply.status, text=reply.body, headers=reply.headers or None
        )

    async def _break_off(
        self, request: web.Request, reply: Reply
    ) -> web.StreamResponse:
        """Send a status and a part of a body."""
        response = web.StreamResponse(status=reply.status)
        response.content_length = 50
        await response.prepare(request)
        await response.write(reply.body.encode())
        if reply.endless:
            await asyncio.sleep(HANG_SECONDS)
        if request.transport is not None:  # the client may have hung up
            request.transport.abort()
        return response

    def _usual(self, path: str, body: bytes) -> Reply:
        if path.startswith("/services/"):
            return Reply(200, "ok")
        if path.startswith("/api/chat."):
            self._posted += 1
            asked = json.loads(body)
            stamp = asked.get("ts") or f"1700000000.{self._posted:06}"
            result = {"ok": True, "channel": "C0123", "ts": stamp}
            return Reply(200, json.dumps(result))
        if path == "/v2/enqueue":
            key = json.loads(body).get("dedup_key")
            result = {"status": "success", "message": "Event processed"}
            return Reply(202, json.dumps({**result, "dedup_key": key}))
        if path.startswith("/workflows/"):
            return Reply(202, "")
        if path.startswith("/api/webhooks/"):
            self._posted += 1
            return Reply(200, json.dumps({"id": f"12345678901234{self._posted:04}"}))
        if path.startswith("/v2/alerts"):
            result = {"result": "Request will be processed", "took": 0.1}
            return Reply(202, json.dumps({**result, "requestId": "43a29c5c"}))
        return Reply(200, "")


@contextmanager
def run_receivers() -> Iterator[Receivers]:
    """Serve on a free port of 127.0.0.1."""
    receivers = Receivers()
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def serve() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", receivers.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        receivers.url = f"http://{host}:{port}"
        return runner

    def run() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(serve())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(DEADLINE)
    try:
        yield receivers
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE)

"""An agent's pipeline behind a real HTTP server in a thread, fed with real batches."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from tests.agent.protocol.fakes import Agent, Conversation
from tests.agents import DEADLINE

from kaywatch import wire
from kaywatch._process import process
from kaywatch.recorder import Recorder
from kaywatch.testing import capture
from kaywatch_agent.aggregate.clients import Clients
from kaywatch_agent.aggregate.view import View
from kaywatch_agent.backtesting import Backtester
from kaywatch_agent.ingest.unix import IngestMetrics
from kaywatch_agent.model.alerts import (
    MessageRecord,
    NotificationRequest,
    ReceiverRecord,
    Subject,
)
from kaywatch_agent.model.records import ProcessSample
from kaywatch_agent.rules.load import load
from kaywatch_agent.rules.loop import Alerting
from kaywatch_agent.runtime.health import Health
from kaywatch_agent.web.config import HttpConfig
from kaywatch_agent.web.server import WebServer
from kaywatch_agent.web.view import AgentUsage

MEGABYTE = 2**20
ANYWHERE = HttpConfig("127.0.0.1:0")


class FakePeer:
    """A process at the other end."""

    def __init__(self, pid: int, megabytes: int) -> None:
        self.pid = pid
        self.uid = 1000
        self.started = 0.0
        self.trusted = False
        self.closed = False
        self._bytes = megabytes * MEGABYTE

    def has_exited(self) -> bool:
        return self.closed

    def sample(self) -> ProcessSample | None:
        return (
            ProcessSample(rss_bytes=self._bytes, cpu_seconds=1.5)
            if self._bytes
            else None
        )

    def close(self) -> None: ...


class FakeLink:
    """A connection that keeps the data sent to the client."""

    backlog = 0

    def __init__(self, pid: int, megabytes: int) -> None:
        self.peer = FakePeer(pid, megabytes)
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self) -> None: ...


class Answer(NamedTuple):
    """The response to a request."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body, parse_constant=_refuse)

    @property
    def error(self) -> dict[str, str]:
        result: dict[str, str] = self.json["error"]
        assert set(result) == {"code", "message", "hint"}
        return result


class NoPost:
    """Receivers that do not exist, and messages that were not delivered."""

    def __init__(self) -> None:
        self.dead = ["msg_1", "msg_2"]
        summary = "slow: checkout / pay: it is slow"
        self.about = Subject("key", 1, "firing", False, summary)

    def messages(self) -> list[MessageRecord]:
        return [
            MessageRecord(
                id=name,
                receiver="ops",
                kind="firing",
                status="dead",
                created=1.8e9,
                due=1.8e9,
                not_before=1.8e9,
                next_attempt=None,
                behind="",
                expires=1.8e9 + 86_400,
                settled=1.8e9 + 60,
                attempts=3,
                code=400,
                error="HTTP 400: invalid_payload",
                reason="refused",
                alerts=(self.about,),
                group={"graph": "checkout"},
            )
            for name in self.dead
        ]

    def receivers(self) -> list[ReceiverRecord]:
        return [
            ReceiverRecord(name="ops", type="slack", up=False, dead=len(self.dead)),
            ReceiverRecord(name="am", type="alertmanager", up=True),
        ]

    def retry(self, name: str | None) -> int:
        return self.purge(name)

    def purge(self, name: str | None) -> int:
        gone = [m for m in self.dead if name in (None, m)]
        self.dead = [m for m in self.dead if m not in gone]
        return len(gone)

    def test(self, receiver: str) -> None:
        self.dead.append(f"test for {receiver}")


class Source:
    """The agent, as far as the web stage sees it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.health = Health(clock())
        self.agent = Agent(clock=clock)
        self.telemetry = self.agent.telemetry
        self.pipeline = self.agent.pipeline
        self.event_stream = self.pipeline.queue.event_stream
        self.ingest = IngestMetrics()
        self.requests: list[NotificationRequest] = []
        self.delivery = NoPost()
        self.backtest = Backtester(None, lambda: load({})).run
        self.reload: Callable[[], list[str]] = list
        self.unkept = ""  # why nothing is durable
        self.alerting = Alerting(
            load({}),
            min_severity={},
            clock=clock,
        )

    @property
    def clients(self) -> Clients:
        return self.pipeline.clients

    def usage(self) -> AgentUsage:
        events = int(self.pipeline.queue.metrics.events.value)
        return AgentUsage(events, 2**20, 0, time.process_time())

    async def wait_durable(self) -> str:
        return self.unkept

    def socket(self) -> str:
        return "/run/kaywatch/ingest.sock"

    def view(self) -> View:
        return self.pipeline.aggregator.view(self.clock())


class Served:
    """A running server; everything of the agent's happens in its thread."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        config: HttpConfig = ANYWHERE,
    ) -> None:
        self.source = Source(clock)
        self.server = WebServer(self.source, self.source.telemetry, "1.2.3")
        self.source.telemetry.include(
            self.source.alerting.metrics,
            self.source.ingest,
            self.server.metrics,
        )
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.url = ""
        try:
            self.url = self.await_(self.server.start(config))
        except BaseException:
            self.stop()
            raise
        self.host = urlsplit(self.url).hostname or ""
        self.port = urlsplit(self.url).port or 0
        self.links: dict[str, tuple[FakeLink, Conversation]] = {}

    def await_(self, coroutine: Any, deadline: float = 30) -> Any:
        """Run a coroutine there, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(deadline)

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function there, and return its result."""

        async def called() -> Any:
            return function()

        return self.await_(called())

    def stop(self) -> None:
        self.await_(self.server.stop())
        self.call(self._cancel)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _cancel(self) -> None:
        """End the reading of bodies that are no longer needed."""
        for task in asyncio.all_tasks(self.loop) - {asyncio.current_task()}:
            task.cancel()

    # -- feeding -----------------------------------------------------------------------

    def receive(
        self,
        messages: Iterable[dict[str, Any]],
        client: str = "a",
        *,
        pid: int = 4711,
        megabytes: int = 64,
    ) -> None:
        """Take messages in on a client's connection, and tick."""

        def take() -> None:
            if client not in self.links:
                link = FakeLink(pid, megabytes)
                self.links[client] = (link, self.source.agent.open(link))
                self.source.ingest.connections.add()
            conversation = self.links[client][1]
            for message in messages:
                conversation.receive(wire.frame(wire.pack(message)))
            self.source.agent.tick()

        self.call(take)

    def send_rows(self, *rows: dict[str, Any], service: str = "shop") -> None:
        """Take events in as another language would send them."""
        batch = {"type": "batch", "v": wire.VERSION, "service": service}
        self.receive([{**batch, "events": list(rows)}], f"rows of {service}")

    @contextlib.contextmanager
    def recording(
        self, service: str, *, bye: bool = False, **peer: int
    ) -> Iterator[Recorder]:
        """Accept the events recorded in the block, as a separate client."""
        with capture() as captured:
            # A process sends all of its graphs' wirings; this one is a new process.
            process.recorder.topologies.clear()
            yield process.recorder
        messages = [{**m, "service": service} for m in captured.messages]
        replies = [m for m in messages if bye or m["type"] != "bye"]
        self.receive(replies, f"{service} {len(self.links)}", **peer)

    # -- asking ------------------------------------------------------------------------

    def get(self, path: str, **parameters: Any) -> Any:
        """Return the JSON of a path."""
        answer = self.ask(path, **parameters)
        assert answer.status == 200, answer.body
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
        return answer.json

    def ask(
        self,
        path: str,
        headers: dict[str, str] | None = None,
        method: str = "GET",
        **parameters: Any,
    ) -> Answer:
        """Return the answer of a path."""
        target = f"{path}?{urlencode(parameters)}" if parameters else path
        connection = http.client.HTTPConnection(self.host, self.port, timeout=DEADLINE)
        try:
            connection.request(method, target, headers=headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def node(self, name: str, **parameters: Any) -> Any:
        return self.get(f"/api/v1/nodes/{quote(name, safe='')}/stats", **parameters)

    def graph(self, name: str, **parameters: Any) -> Any:
        return self.get(f"/api/v1/graphs/{quote(name, safe='')}/stats", **parameters)


@contextlib.contextmanager
def serving(
    clock: Callable[[], float] = time.time, config: HttpConfig = ANYWHERE
) -> Iterator[Served]:
    """Serve within the block."""
    served = Served(clock, config)
    try:
        yield served
    finally:
        served.stop()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def evaluate(served: Served) -> None:
    """Evaluate the rules once, and wait for it."""
    source = served.source

    async def work() -> None:
        update = await source.alerting.evaluate(source.view(), source.clients)
        source.requests += update.requests

    served.await_(work())
    assert not source.alerting.problem

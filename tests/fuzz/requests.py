"""Send hostile requests to an agent, and print how they were handled.

    python -m tests.fuzz.requests [REQUESTS] [SEED]

The agent's HTTP stage runs here, with a task that records how late its loop is; the
requests come from two processes. No request may end in a fault of the agent (500), each
that is refused must be counted by its reason, and memory must not grow.
"""

from __future__ import annotations

import asyncio
import collections
import json
import multiprocessing
import random
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from tests.agent.web.conftest import fill
from tests.agent.web.serving import Served, serving

from kaywatch_agent.web.config import HttpConfig
from kaywatch_agent.web.guard import bodies
from kaywatch_agent.web.routes import ENDPOINTS

REQUESTS = 100_000
PROCESSES = 4  # most of the time they wait
# How long the agent waits for an incomplete head or body, in place of ten seconds, and
# a client for the next piece of a response.
PART_SECONDS = 0.05
KEPT_SECONDS = 0.05

CODE = re.compile(rb'"code":"(\w+)"')
NAMES = ("node", "graph", "id", "rule", "receiver")
WORDS = (
    *(
        "",
        "0",
        "-1",
        "pay",
        "checkout",
        "5m",
        "now",
        "-15m",
        "p95",
        "true",
        "nan",
        "inf",
    ),
    *(
        "9" * 400,
        "x" * 300,
        "%",
        "%zz",
        "%00",
        "%0d%0aX: y",
        "%2e%2e%2f",
        "'\"<>",
        "\t",
    ),
    *(
        "%F0%9F%92%A9",
        "%ff%fe",
        "a&b=c",
        "a=b",
        "1e308",
        "1w",
        "é",
        "[",
        "{}",
        "\\",
        ";",
    ),
)
HEADERS = (
    ("Host", ("localhost", "127.0.0.1", "evil.example", "", "[::1", "a b", "x" * 9000)),
    ("Origin", ("null", "http://localhost", "https://evil.example", "http://[")),
    ("Sec-Fetch-Site", ("same-origin", "cross-site", "odd", "")),
    ("Authorization", ("Bearer x", "Basic ////", "Digest", "Bearer " + "x" * 5000)),
    ("Content-Type", ("application/json", "text/plain", "", "application/json; a=b")),
    ("Content-Encoding", ("gzip", "identity", "br", "x")),
    ("Accept", ("application/openmetrics-text; version=1.0.0", "*/*;q=x", ",,,")),
    ("Accept-Encoding", ("gzip", "gzip;q=0", "gzip;q=x", ";;")),
    ("Transfer-Encoding", ("chunked", "identity", "gzip, chunked", "x")),
    (
        "Content-Length",
        ("0", "1", "-1", "1, 1", "99999999", "x", "18446744073709551616"),
    ),
    ("Connection", ("close", "keep-alive", "Upgrade", "x, y")),
    ("Upgrade", ("h2c", "websocket")),
    ("Expect", ("100-continue", "x")),
    ("X" * 70, ("y",)),
)
SILENCE: dict[str, Any] = {
    "matchers": [{"name": "node", "value": "x", "isRegex": False, "isEqual": True}],
    "endsAt": "2099-01-01T00:00:00Z",
    "comment": "c",
}


class Fuzzer:
    """Makes one request after the other, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        # Streams never end, and are looked at elsewhere.
        self.routes = [route for route in ENDPOINTS if not route.events]

    def request(self) -> bytes:
        """Return a request with one, several or only invalid parts."""
        chance = self.chance
        route = chance.choice(self.routes)
        path = route.path
        for name in NAMES:
            path = path.replace(f"{{{name}}}", chance.choice(WORDS))
        if chance.random() < 0.5:
            path += "?" + self._query([f.encode() for f in _fields(route)])
        if chance.random() < 0.05:
            path = chance.choice(
                ("*", "//", "/..", "http://x/", path * 3, "x" * 40_000)
            )
        body = self._body() if route.method == "POST" else b""
        made = self._head(route.method, path, body) + body
        if chance.random() < 0.2:
            made = self._broken(made)
        return made

    def _query(self, names: list[bytes]) -> str:
        chance = self.chance
        known = [name.decode() for name in names] + ["x", ""]
        pairs = (
            f"{chance.choice(known)}={chance.choice(WORDS)}"
            for _ in range(chance.choice((0, 1, 1, 2, 5, 50)))
        )
        return chance.choice(("&", "&", "&", ";", "&&")).join(pairs)

    def _body(self) -> bytes:
        chance = self.chance
        body = json.dumps(_alter(SILENCE, chance)).encode()
        if chance.random() < 0.1:
            body = chance.choice((b"[" * 5_000, b"9" * 70_000, b"\xff\x00", b"{}"))
        return body

    def _head(self, method: str, path: str, body: bytes) -> bytes:
        chance = self.chance
        if chance.random() < 0.1:
            method = chance.choice(
                ("HEAD", "OPTIONS", "PUT", "TRACE", "CONNECT", "get")
            )
        headers = [("Host", "localhost")]
        if body or method == "POST":
            headers.append(("Content-Type", "application/json"))
            headers.append(("Content-Length", str(len(body))))
        if chance.random() < 0.9:
            headers.append(("Connection", "close"))
        for _ in range(chance.choice((0, 0, 1, 1, 2, 4))):
            name, values = chance.choice(HEADERS)
            made = name, chance.choice(values)
            if chance.random() < 0.5:
                headers = [header for header in headers if header[0] != name]
            headers.append(made)
        version = chance.choice((*("1.1",) * 20, "1.0", "2.0", "0.9"))
        lines = [f"{method} {path} HTTP/{version}"]
        lines += [f"{name}: {value}" for name, value in headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "replace")

    def _broken(self, request: bytes) -> bytes:
        """Change some bytes anywhere in it."""
        chance = self.chance
        made = bytearray(request)
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = chance.randrange(len(made) + 1)
            kind = chance.randrange(5)
            if kind == 0:
                made[at : at + 1] = bytes((chance.randrange(256),))
            elif kind == 1:
                del made[at : at + chance.randint(1, 20)]
            elif kind == 2:
                made[at:at] = chance.choice((b"\r\n", b"\n", b"\r", b"\0", b" ", b":"))
            elif kind == 3:
                made[at:at] = made[: chance.randint(1, 200)]
            else:
                made[at:at] = chance.randbytes(chance.randint(1, 30))
        return bytes(made)


def _fields(route: Any) -> tuple[str, ...]:
    result: tuple[str, ...] = route.parameters.__struct_fields__
    return result


def _alter(value: Any, chance: random.Random) -> Any:
    """Return a value with something in it left out or replaced, or as it is."""
    if chance.random() < 0.15:
        return chance.choice((None, True, -1, 1e308, "", "x" * 3000, [], {}, [[]], "("))
    if isinstance(value, dict):
        query = {
            k: _alter(v, chance) for k, v in value.items() if chance.random() > 0.05
        }
        return {**query, "x": 1} if chance.random() < 0.05 else query
    if isinstance(value, list):
        return [
            _alter(v, chance) for v in value for _ in range(chance.choice((1, 1, 3)))
        ]
    return value


class ClientTotals(NamedTuple):
    """The responses that a client got."""

    statuses: dict[int, int]
    codes: dict[str, int]
    silent: int  # connections without any answer
    unheard: int  # requests without an answer, on connections with others


def send_requests(address: tuple[str, int], requests: int, seed: int) -> ClientTotals:
    """Send requests, each on its own connection; return the responses."""
    fuzzer = Fuzzer(seed)
    statuses: collections.Counter[int] = collections.Counter()
    codes: collections.Counter[str] = collections.Counter()
    silent = unheard = 0
    for _ in range(requests):
        request = fuzzer.request()
        answer = exchange(address, request)
        matches = re.findall(rb"^HTTP/[0-9]\.[0-9] (\d{3}) ", answer, re.MULTILINE)
        matches = [status for status in matches if status != b"100"]
        statuses.update(map(int, matches))
        codes.update(code.decode() for code in CODE.findall(answer))
        silent += not matches
        if matches:
            # A later answer may cross with the end of the client's patience.
            heads = len(re.findall(rb" HTTP/[0-9]\.[0-9]\r?\n", request))
            unheard += max(0, heads - len(matches))
    return ClientTotals(dict(statuses), dict(codes), silent, unheard)


def exchange(address: tuple[str, int], request: bytes) -> bytes:
    """Send a request; return the response until the agent disconnects or is done."""
    result = b""
    with socket.create_connection(address, 30) as connection:
        try:
            connection.sendall(request)
            while piece := connection.recv(262_144):
                result += piece
                connection.settimeout(KEPT_SECONDS)
        except TimeoutError:
            pass  # it would take another request
        except ConnectionError:
            pass  # disconnected before the request was complete
    return result


class Watch:
    """How late the loop was at most, of its own doing and of the machine's."""

    def __init__(self) -> None:
        self.latest = 0.0
        self.busiest = 0.0
        self.over = False

    async def look(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.over:
            began, used = loop.time(), time.thread_time()
            await asyncio.sleep(0.005)
            self.latest = max(self.latest, loop.time() - began - 0.005)
            # What the loop's thread was really at work: the rest is other processes'.
            self.busiest = max(self.busiest, time.thread_time() - used)


def count_metric(served: Served, name: str) -> dict[tuple[str, ...], int]:
    for metric, values in served.source.telemetry.collect():
        if metric.name == name:
            return {labels: int(value) for labels, value in values.items()}
    return {}


class Outcome(NamedTuple):
    """The results of all clients."""

    requests: int
    seconds: float
    client: ClientTotals
    refused: dict[str, int]
    answered: dict[str, int]  # by status
    latest: float
    busiest: float
    memory: list[float]  # MiB, at each tenth


def fuzz(requests: int, seed: int) -> Outcome:
    """Send a number of requests, and check the invariants."""
    process, body_seconds = psutil.Process(), bodies.BODY_SECONDS
    with serving(config=HttpConfig("127.0.0.1:0")) as served:
        fill(served)
        served.server.limiter.head_seconds = bodies.BODY_SECONDS = PART_SECONDS
        watch = Watch()
        looking = asyncio.run_coroutine_threadsafe(watch.look(), served.loop)
        memory: list[float] = []
        parts: list[ClientTotals] = []
        started = time.monotonic()
        # A fresh interpreter for each: no thread of ours, and no lock, is copied.
        with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
            address = (served.host, served.port)
            for tenth in range(10):
                each = requests // 10 // PROCESSES
                work = [
                    (address, each, seed * 1_000 + tenth * PROCESSES + n)
                    for n in range(PROCESSES)
                ]
                parts += pool.starmap(send_requests, work)
                memory.append(process.memory_info().rss / 2**20)
        seconds = time.monotonic() - started
        watch.over = True
        looking.result(10)
        refused = count_metric(served, "kaywatch_http_refused_total")
        answered: collections.Counter[str] = collections.Counter()
        for (_, status), count in count_metric(
            served, "kaywatch_http_requests_total"
        ).items():
            answered[status] += count
        assert served.ask("/health").status == 200
        bodies.BODY_SECONDS = body_seconds  # type: ignore[misc]
    total: collections.Counter[int] = collections.Counter()
    codes: collections.Counter[str] = collections.Counter()
    for part in parts:
        total.update(part.statuses)
        codes.update(part.codes)
    totals = ClientTotals(
        dict(total),
        dict(codes),
        sum(part.silent for part in parts),
        sum(part.unheard for part in parts),
    )
    actual = {reason: count for (reason,), count in refused.items()}
    return Outcome(
        each * PROCESSES * 10,
        seconds,
        totals,
        actual,
        dict(answered),
        watch.latest,
        watch.busiest,
        memory,
    )


def check(outcome: Outcome) -> None:
    """Compare the results of the requests with the promises."""
    totals = outcome.client
    assert "500" not in outcome.answered, outcome.answered
    # Each rejection that a client received is counted, by its code.
    for code, count in totals.codes.items():
        assert outcome.refused.get(code, 0) >= count, (code, count, outcome.refused)
    # Nothing else is counted, except for connections that were ended
    # without a word, and answers that crossed with a connection's end.
    ended = sum(outcome.refused.get(reason, 0) for reason in ("slow", "idle"))
    refusals = sum(outcome.refused.values()) - ended
    heard = sum(count for status, count in totals.statuses.items() if status >= 400)
    most = heard + totals.silent + totals.unheard
    assert heard <= refusals <= most, (heard, refusals, totals)
    assert sum(totals.statuses.values()) + totals.silent >= outcome.requests


def main() -> None:
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    outcome = fuzz(requests, seed)
    totals = outcome.client
    rate = outcome.requests / outcome.seconds
    print(f"{outcome.requests:,} requests in {outcome.seconds:.0f} s, {rate:,.0f}/s")
    print(f"  seed {seed}, {totals.silent:,} without an answer (no whole request)")
    print(f"answers: {dict(sorted(totals.statuses.items()))}")
    print(f"refused: {dict(sorted(outcome.refused.items()))}")
    late, busy = outcome.latest * 1e3, outcome.busiest * 1e3
    print(f"the loop was late by {late:.1f} ms at most, and at work for {busy:.1f} ms")
    print(f"memory at each tenth: {[round(m) for m in outcome.memory]} MiB")
    check(outcome)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent.parent))
    main()

"""Server-sent events: to all who listen, without a backlog, until told to stop."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.agent.web.serving import Served, serving, until

from kaywatch_agent.web import stream as module
from kaywatch_agent.web.config import HttpConfig


class Reader:
    """One stream, read by hand."""

    def __init__(self, served: Served, query: str = "") -> None:
        self.connection = socket.create_connection((served.host, served.port))
        self.connection.settimeout(20)
        request = f"GET /api/v1/stream{query} HTTP/1.0\r\n\r\n"
        self.connection.sendall(request.encode())
        self._file = self.connection.makefile("rb")

    def headers(self) -> list[bytes]:
        return list(iter(lambda: self._file.readline().strip(), b""))

    def block(self) -> dict[str, str]:
        """Return the fields of the next event; none at the end."""
        fields = {}
        for line in iter(self._file.readline, b""):
            if line == b"\n":
                return fields
            name, _, value = line.decode().rstrip("\n").partition(":")
            fields[name] = value.removeprefix(" ")
        return fields

    def close(self) -> None:
        self._file.close()
        self.connection.close()


@contextlib.contextmanager
def reading(served: Served, query: str = "") -> Iterator[Reader]:
    reader = Reader(served, query)
    try:
        headers = reader.headers()
        assert headers[0].endswith(b"200 OK")
        assert b"Content-Type: text/event-stream; charset=utf-8" in headers
        assert reader.block() == {"retry": "2000"}
        yield reader
    finally:
        reader.close()


def open_streams(served: Served) -> float:
    found: float = served.source.telemetry.get("kaywatch_stream_clients")
    return found


def publish(served: Served) -> None:
    served.call(served.server.publish)


def test_each_publish_is_one_snapshot(served: Served) -> None:
    served.send_rows(
        *({"graph": "g", "node": "busy", "seconds": 0.5} for _ in range(3)),
        {"graph": "g", "node": "idle", "seconds": 1.0, "end": time.time() - 600},
        {"node": "bad", "seconds": 2.0, "outcome": "error", "attempts": 3},
    )
    with reading(served) as reader:
        assert open_streams(served) == 1
        numbers = []
        for _ in range(3):
            publish(served)
            event = reader.block()
            assert event["event"] == "snapshot"
            numbers.append(int(event["id"]))
            snapshot: Any = json.loads(event["data"])
        assert numbers == [1, 2, 3]

    assert set(snapshot) == {"time", "health", "totals", "nodes_active", "nodes"}
    assert snapshot["health"]["status"] == "healthy"
    assert snapshot["totals"] == {
        "executions": 5,
        "runs": 0,
        "errors": 1,
        "retries": 2,
        "nodes": 3,
        "graphs": 1,
        "clients": {"connected": 1},
        "completeness": 1.0,
    }
    # Only those of the last minute, the busiest first.
    assert [node["node"] for node in snapshot["nodes"]] == ["busy", "bad"]
    assert snapshot["nodes_active"] == 2
    assert snapshot["nodes"][1] == {
        "node": "bad",
        "executions": 1,
        "success_rate": 0.0,
        "avg": 2.0,
        "p95": 2.0,
        "errors": 1,
        "retries": 2,
    }
    until(lambda: open_streams(served) == 0, "it is forgotten")


def test_it_ends_after_the_limit(served: Served) -> None:
    with reading(served, "?limit=2") as reader:
        for number in ("1", "2"):
            publish(served)
            assert reader.block()["id"] == number
        assert reader.block() == {}
    assert served.ask("/api/v1/stream?limit=0").status == 400


def test_without_listeners_nothing_is_made(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(served)

    with reading(served) as reader:
        publish(served)
        assert reader.block()["id"] == "1"


def test_a_silence_is_filled_with_comments(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEEPALIVE_SECONDS", 0.01)

    with reading(served, "?limit=1") as reader:
        assert reader.block() == {"": "keep-alive"}
        publish(served)
        # They don't count towards the limit.
        while (event := reader.block()) == {"": "keep-alive"}:
            pass
        assert event["id"] == "1"
        assert reader.block() == {}


def test_a_subscriber_that_leaves_makes_room_at_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEEPALIVE_SECONDS", 3600.0)

    with reading(served):
        assert open_streams(served) == 1
    until(lambda: open_streams(served) == 0, "it is removed")


def test_a_slow_reader_gets_the_newest_and_holds_up_nobody(served: Served) -> None:
    rows = [{"node": f"{n:0200}", "seconds": 1.0} for n in range(500)]
    served.send_rows(*rows)
    times = 120

    with reading(served) as slow, reading(served) as quick:
        for number in range(1, times + 1):
            publish(served)
            event = quick.block()
            assert int(event["id"]) == number
        assert len(event["data"]) * times > 15e6

        seen = []
        while not seen or seen[-1] < times:
            seen.append(int(slow.block()["id"]))

    assert seen == sorted(seen)
    # What the sockets' buffers didn't hold was dropped, the oldest first.
    assert len(seen) < times / 2
    assert seen[-module.MAX_SNAPSHOTS :] == list(
        range(times - module.MAX_SNAPSHOTS + 1, times + 1)
    )


def test_a_reader_that_takes_nothing_is_hung_up_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaywatch_agent.web.responses.STALL_SECONDS", 0.05)
    served.send_rows(*({"node": f"{n:0200}", "seconds": 1.0} for n in range(500)))

    with reading(served):
        until(lambda: publish(served) or open_streams(served) == 0, "it is gone")


def test_beyond_a_hundred_streams_the_next_is_refused(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(HttpConfig().streams):
            stack.enter_context(reading(served))
        answer = served.ask("/api/v1/stream?limit=1")

        assert answer.status == 503
        assert answer.error["code"] == "too_many_streams"
        assert answer.headers["Retry-After"] == "10"
    until(lambda: publish(served) or open_streams(served) == 0, "all are gone")
    with reading(served) as reader:
        publish(served)
        assert reader.block()["event"] == "snapshot"


def test_stop_ends_streams_cleanly_and_soon() -> None:
    with contextlib.ExitStack() as stack:
        with serving() as served:
            served.send_rows(
                *({"node": f"{n:0200}", "seconds": 1.0} for n in range(500))
            )
            ends = stack.enter_context(reading(served, "?limit=1000"))
            stack.enter_context(reading(served))  # and never reads again
            for number in range(1, 60):
                publish(served)
                assert ends.block()["id"] == str(number)
            began = time.monotonic()
        # Two grace periods of a second at most, of the one that doesn't read.
        assert time.monotonic() - began < 10
        assert ends.block() == {}


def test_after_stop_a_publish_does_no_harm() -> None:
    with serving() as served:
        with reading(served):
            publish(served)
        served.await_(served.server.stop())
        publish(served)


def test_a_snapshot_that_fails_does_not_end_the_stream(served: Served) -> None:
    view = served.source.view

    def broken() -> Any:
        raise RuntimeError("broken")

    with reading(served) as reader:
        served.source.view = broken  # type: ignore[method-assign]
        publish(served)
        until(
            lambda: not served.server.application.snapshots.is_building, "it has failed"
        )
        served.source.view = view  # type: ignore[method-assign]
        publish(served)
        assert reader.block()["event"] == "snapshot"

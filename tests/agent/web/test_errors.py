"""Error responses: always JSON, with a code, the problem and the fix."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog
from tests.agent.web.serving import Served, Source, serving
from tests.agents import until

from kaywatch_agent.errors import StartError
from kaywatch_agent.web import workers as module
from kaywatch_agent.web.responses import SLICE
from kaywatch_agent.web.server import HttpConfig, WebServer


@pytest.mark.parametrize(
    ("path", "code", "message", "hint"),
    [
        (
            "/api/v1/nodes?windw=5m",
            "unknown_parameter",
            "unknown parameter 'windw'",
            (
                "did you mean 'window'? known here: window, end, graph, service, sort,"
                " limit, cursor"
            ),
        ),
        (
            "/api/v1/rule_metrics?x=1",
            "unknown_parameter",
            "unknown parameter 'x'",
            "known here: none",
        ),
        (
            "/api/v1/nodes/pay/stats?node=load",
            "unknown_parameter",
            "unknown parameter 'node'",
            "known here: window, end, graph, service",
        ),
        (
            "/api/v1/nodes?graph=a&graph=b",
            "repeated_parameter",
            "graph: given 2 times",
            "give it once",
        ),
        (
            "/api/v1/failures?limit=0",
            "bad_parameter",
            "invalid limit='0'",
            "expected a whole number from 1 to 1000",
        ),
        (
            "/api/v1/failures?limit=",
            "bad_parameter",
            "invalid limit=''",
            "expected a whole number from 1 to 1000",
        ),
        (
            "/api/v1/nodes?graph=" + "x" * 201,
            "bad_parameter",
            f"invalid graph={'x' * 200!r}",
            "expected a text of at most 200 characters",
        ),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(
    shop: Served, path: str, code: str, message: str, hint: str
) -> None:
    answer = shop.ask(path)

    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.error == {"code": code, "message": message, "hint": hint}


@pytest.mark.parametrize(
    "window",
    ["0s", "0", "m", "-5m", "5x", "1m1h", "5m%0A", "%D9%A5m", "1w", "9999999d"],
)
def test_an_invalid_window_is_an_error_with_the_format(
    shop: Served, window: str
) -> None:
    answer = shop.ask(f"/api/v1/nodes/pay/stats?window={window}")

    assert answer.status == 400
    assert answer.error["message"].startswith("invalid window='")
    assert "expected a duration such as 90s, 5m, 1h30m or 500ms" in answer.error["hint"]


@pytest.mark.parametrize(
    "window",
    ["1s", "60", "500ms", "1.5m", "1h30m", "90s", "1000000s", "2d", "999999d"],
)
def test_windows_of_any_length_are_taken(shop: Served, window: str) -> None:
    assert shop.node("pay", window=window)["window"] >= 1


def test_an_unknown_path_names_the_nearest(shop: Served) -> None:
    answer = shop.ask("/api/v1/node")
    assert answer.status == 404
    assert answer.error == {
        "code": "unknown_path",
        "message": "unknown path '/api/v1/node'",
        "hint": "did you mean '/api/v1/nodes'? /openapi.json describes all paths",
    }
    for path in ("/api/v1/nodes/", "/api/v1/nodes//stats", "/api/v1/nodes/a/b/stats"):
        assert shop.ask(path).error["code"] == "unknown_path"


def test_a_wrong_method_is_405_with_the_allowed_ones(shop: Served) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        answer = shop.ask("/api/v1/nodes", method=method)
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET, HEAD"
        assert answer.error["code"] == "method_not_allowed"
        assert answer.error["hint"] == "use GET, HEAD"


def test_head_has_the_headers_and_no_body(shop: Served) -> None:
    for path in ("/health", "/api/v1/export", "/metrics", "/api/v1/live"):
        answer = shop.ask(path, method="HEAD")
        assert answer.status == 200
        assert answer.body == b""
    assert shop.ask("/api/v1/nodes?x=1", method="HEAD").status == 400


def test_a_fault_of_ours_is_500_without_a_trace_and_logged_once(served: Served) -> None:
    def broken() -> Any:
        raise RuntimeError("a secret")

    served.source.view = broken  # type: ignore[method-assign]
    with structlog.testing.capture_logs() as logs:
        answer = served.ask("/api/v1/nodes")

    assert answer.status == 500
    assert answer.error["code"] == "internal"
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body
    (entry,) = logs
    assert entry["event"] == "request failed"
    assert entry["path"] == "/api/v1/nodes"
    assert entry["exc_info"]


def test_invalid_http_is_rejected_and_not_logged(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection((served.host, served.port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nbad\x00header: 1\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.0 400")

    assert served.ask("/health").status == 200
    assert [record for record in caplog.records if record.exc_info] == []


def test_a_busy_agent_refuses_rather_than_piles_up(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 0)

    answer = served.ask("/api/v1/nodes")
    assert answer.status == 503
    assert answer.error["code"] == "busy"
    assert answer.headers["Retry-After"] == "1"
    # The request for the agent's health is never rejected.
    assert served.ask("/health").status == 200


def test_requests_are_counted_by_template_and_status(served: Served) -> None:
    for path in ("/health", "/api/v1/nodes/a/stats", "/api/v1/nodes/b/stats", "/x"):
        served.ask(path)
    served.ask("/health", method="POST")

    def count(path: str, status: str) -> float:
        name = "kaywatch_http_requests_total"
        value: float = served.source.telemetry.get(name, path, status)
        return value

    assert count("/health", "200") == 1
    assert count("/api/v1/nodes/{node}/stats", "404") == 2
    assert count("other", "404") == 1
    assert count("other", "405") == 1


def test_a_client_that_leaves_before_a_large_response_is_no_error(
    served: Served,
) -> None:
    served.send_rows(
        *({"graph": "g", "node": f"n{n}", "seconds": 0.1} for n in range(300))
    )
    assert len(served.ask("/metrics").body) > SLICE
    address = urlsplit(served.url)
    with socket.create_connection((address.hostname, address.port)) as client:
        # The end of the block resets the connection.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")

    def count(status: str) -> float:
        name = "kaywatch_http_requests_total"
        value: float = served.source.telemetry.get(name, "/metrics", status)
        return value

    until(lambda: count("200") + count("500") == 2, "both requests are counted")
    assert count("500") == 0


# -- starting and stopping -----------------------------------------------------------


async def test_a_port_in_use_is_an_error_of_one_sentence() -> None:
    with serving() as served:
        source = Source(lambda: 0.0)
        server = WebServer(source, source.telemetry, "1")
        with pytest.raises(StartError) as caught:
            await server.start(HttpConfig(f"{served.host}:{served.port}"))

    text = str(caught.value)
    assert text.startswith(f"http.listen: cannot listen on 127.0.0.1:{served.port}: ")
    assert "address already in use" in text.lower()
    assert "--http" in text
    await server.stop()  # again, and harmless


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_an_address_of_another_host_is_an_error(host: str) -> None:
    source = Source(lambda: 0.0)
    config = HttpConfig(f"{host}:0", insecure_public_listener=True)
    with pytest.raises(StartError, match=r"^http\.listen: cannot listen on"):
        await WebServer(source, source.telemetry, "1").start(config)


async def test_it_listens_on_ipv6_too() -> None:
    source = Source(lambda: 0.0)
    server = WebServer(source, source.telemetry, "1")
    try:
        url = urlsplit(await server.start(HttpConfig("[::1]:0")))
    except StartError as error:
        pytest.skip(f"no IPv6 here: {error}")
    try:
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(b"HEAD /health HTTP/1.0\r\n\r\n")
        assert (await reader.read(15)).endswith(b"200 OK")
        writer.close()
        await writer.wait_closed()
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:9477", ("127.0.0.1", 9477)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_an_address_has_a_host_and_a_port(
    listen: str, address: tuple[str, int]
) -> None:
    assert HttpConfig(listen).address == address
    assert HttpConfig().address == ("127.0.0.1", 9477)


@pytest.mark.parametrize(
    "listen", ["", "9477", ":9477", "host", "h:x", "h:65536", "h:²"]
)
def test_an_invalid_address_is_rejected(listen: str) -> None:
    with pytest.raises(ValueError, match="listen"):
        HttpConfig(listen)


# -- how answers are sent ------------------------------------------------------------


def test_large_responses_are_compressed_if_accepted(served: Served) -> None:
    rows = [{"node": f"node-{n}", "seconds": 1.0} for n in range(500)]
    served.send_rows(*rows)
    plain = served.ask("/api/v1/nodes?window=5m")
    packed = served.ask("/api/v1/nodes?window=5m", {"Accept-Encoding": "br, gzip"})
    refused = served.ask("/api/v1/nodes", {"Accept-Encoding": "gzip;q=0"})
    small = served.ask("/api/v1/failures", {"Accept-Encoding": "gzip"})

    assert "Content-Encoding" not in plain.headers
    assert "Content-Encoding" not in refused.headers
    assert "Content-Encoding" not in small.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert len(packed.body) < len(plain.body) / 4
    unpacked = json.loads(gzip.decompress(packed.body))
    assert unpacked["nodes"] == plain.json["nodes"]
    assert len(unpacked["nodes"]) == 500


def test_a_reader_that_leaves_in_the_middle_does_no_harm(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"node": f"{n:0200}", "seconds": 1.0} for n in range(15_000)]
    served.send_rows(*rows)
    with socket.create_connection((served.host, served.port)) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")

    assert served.ask("/health").status == 200
    assert [record for record in caplog.records if record.exc_info] == []


def test_headers_keep_answers_fresh_and_as_they_are(shop: Served) -> None:
    answer = shop.ask("/api/v1/nodes")

    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Server"] == "kaywatch/1.2.3"

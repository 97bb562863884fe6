"""`kaywatch doctor exports`: what OTLP servers, real and broken, answer to a canary."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb
from tests.agents import free_port, until
from tests.brokers import Authority
from tests.collectors import Backend, collector
from tests.e2e.test_doctor_exports import COUNTER, HISTOGRAM, doctor, only
from tests.receivers import Receivers, Reply, run_receivers

PATH = "/v1/metrics"
PROTOBUF = {"Content-Type": "application/x-protobuf"}


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    """A server that records what it is sent."""
    with run_receivers() as receivers:
        yield receivers


def otlp(folder: Path, url: str, *lines: str) -> list[str]:
    """Return the status, text and fix of the only result."""
    (result,) = doctor(folder, url, *lines, kind="otlp")
    return list(result)


def partial(rejected: int, message: str) -> Reply:
    response = ExportMetricsServiceResponse()
    response.partial_success.rejected_data_points = rejected
    response.partial_success.error_message = message
    return Reply(200, response.SerializeToString().decode(), PROTOBUF)


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_a_real_collector_forwards_the_canary(tmp_path: Path, temporality: str) -> None:
    backend, port = Backend(), free_port()
    url = f"http://127.0.0.1:{port}"
    keys = f'temporality = "{temporality}"', 'resource = { team = "search" }'
    with backend.serve(), collector(backend.url, port):
        results = doctor(tmp_path, f"{url}{PATH}", *keys, kind="otlp")
        only(results, "ok", "the canary was accepted", "cannot read back")
        until(lambda: len(backend.points) >= 2, "the points")
        points = dict(backend.points[:2])
        assert points.keys() == {COUNTER, HISTOGRAM}
        assert points[COUNTER].data.as_double == points[HISTOGRAM].data.count == 1
        assert points[COUNTER].service == "kaywatch"
        if temporality == "cumulative":
            until(lambda: len(backend.points) == 4, "the ends")
            ended = pb.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK
            assert {point.data.flags for _, point in backend.points[2:]} == {ended}
        only(
            doctor(tmp_path, f"{url}/v1/metric", *keys, kind="otlp"),
            *("problem", "HTTP 404", "its path is /v1/metric, and usually /v1/metrics"),
        )


@pytest.mark.parametrize(
    ("reply", "status", "words"),
    [
        (partial(1, "no histograms"), "problem", "1 of the canary's 2 points"),
        (partial(2, ""), "problem", "the collector gave no reason"),
        (partial(0, "use delta"), "warning", "with a warning: use delta"),
        (Reply(200, "<html>welcome"), "problem", "not an OTLP response"),
        (Reply(400, "\x12\x03no!", PROTOBUF), "problem", "HTTP 400: no!"),
        (Reply(400, "x sent to an HTTPS server"), "problem", "use https://"),
        (Reply(401, "who?"), "problem", "check bearer_token"),
        (Reply(403, ""), "problem", "allow these credentials"),
        (Reply(405, ""), "problem", "nothing receives OTLP metrics at /v1/metrics"),
        (Reply(415, "json only"), "problem", "application/x-protobuf"),
        (Reply(302, "", {"Location": "/x"}), "problem", "redirects to"),
        (Reply(503, "busy"), "problem", "the agent retries meanwhile"),
    ],
)
def test_each_answer_has_its_fix(
    receivers: Receivers, tmp_path: Path, reply: Reply, status: str, words: str
) -> None:
    receivers.answer(PATH, reply)
    result, *_ = doctor(tmp_path, f"{receivers.url}{PATH}", kind="otlp")
    assert result.status == status
    assert words in f"{result.text}; {result.fix}"


def test_credentials_are_sent_and_not_shown(
    receivers: Receivers, tmp_path: Path
) -> None:
    receivers.answer(PATH, Reply(401, "Bearer s3cret-token is wrong"))
    line = 'bearer_token = "s3cret-token"'
    _, text, _ = otlp(tmp_path, f"{receivers.url}{PATH}", line)
    assert receivers.requests[0].headers["authorization"] == "Bearer s3cret-token"
    assert "HTTP 401" in text and "s3cret" not in text


def test_no_server_no_secret_and_grpc(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}{PATH}"
    status, text, fix = otlp(tmp_path, url)
    assert status == "problem" and "connection refused" in text
    assert "whether the collector is running" in fix
    secret = tmp_path / "absent"
    _, text, _ = otlp(tmp_path, url, f'bearer_token_file = "{secret}"')
    assert f"cannot read {secret}" in text
    _, _, fix = otlp(tmp_path, f"http://127.0.0.1:4317{PATH}")
    assert "OTLP over gRPC" in fix


class Handler(BaseHTTPRequestHandler):
    """Accepts everything."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def tls_server(authority: Authority, name: str) -> Iterator[int]:
    """Run a server whose certificate is for a name; yield its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.server(name))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ca = f'ca = "{authority.ca}"'
    with tls_server(authority, "127.0.0.1") as port:
        url = f"https://127.0.0.1:{port}{PATH}"
        assert otlp(tmp_path, url, ca)[0] == "ok"
        status, text, fix = otlp(tmp_path, url)
        assert status == "problem" and "not trusted" in text and "set ca" in fix
        status, _, fix = otlp(tmp_path, url.replace("https", "http"))
        assert status == "problem"
    with tls_server(authority, "collector.example.org") as port:
        status, _, fix = otlp(tmp_path, f"https://127.0.0.1:{port}{PATH}", ca)
        assert status == "problem" and "a name in it" in fix
    with run_receivers() as receivers:
        url = receivers.url.replace("http", "https")
        _, text, fix = otlp(tmp_path, f"{url}{PATH}", ca)
        assert "TLS" in text and "use http://" in fix

"""`[[export.remote_write]]`: what is allowed, and how requests are sent."""

from __future__ import annotations

import base64
import socket
from contextlib import aclosing
from pathlib import Path

import cramjam
import pytest
from tests.receivers import Receivers

from kaywatch_agent.config import Config, parse
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.export.client import RemoteWriteClient, Unavailable
from kaywatch_agent.export.encoding import encode_request, messages
from kaywatch_agent.export.snapshot_export import metric_filter
from kaywatch_agent.notify.http import HttpClient

SERVER = "[[export.remote_write]]\nurl = 'https://prom:9090/api/v1/write'\n"


def config(text: str = "") -> Config:
    return parse(SERVER + text)


def test_a_url_is_enough() -> None:
    (server,) = config().export.remote_write
    assert (server.identity, server.interval, server.histograms) == (
        "prom-9090",
        "15s",
        "auto",
    )
    assert parse("").export.remote_write == ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "[export]\nremote = 1",
            "export.remote: unknown key (known: remote_write, otlp)",
        ),
        ("export = 1", "export: expected a table [export], got 1"),
        ("[export.remote_write]", "export.remote_write: expected a list of tables"),
        ("[[export.remote_write]]", "export.remote_write[0].url: missing"),
        (SERVER + "urls = 1", "export.remote_write[0].urls: unknown key; did you"),
        (SERVER + "interval = '0.5s'", 'export.remote_write.interval: "0.5s" is not'),
        (SERVER + "max_disk = '1kB'", 'export.remote_write.max_disk: "1kB": at least'),
        (SERVER + "max_buckets = 0", "export.remote_write.max_buckets: 0: at least 1"),
        (SERVER + "include = ['(']", "export.remote_write.include[0]: "),
        (SERVER + "labels = {epoch = '1'}", "export.remote_write.labels.epoch: not a"),
        (
            SERVER + "labels = {a-b = '1'}",
            "export.remote_write.labels.a-b: not a valid",
        ),
        (
            SERVER + "username = 'u'",
            "export.remote_write.username: set both username and",
        ),
        (
            SERVER + "username = 'u'\npassword = 'p'\nbearer_token = 't'",
            "export.remote_write.bearer_token: set either",
        ),
        (SERVER + "name = 'a/b'", "export.remote_write.name: a name consists of"),
        (SERVER + "histograms = 'x'", "export.remote_write[0].histograms: 'x' is not"),
        (SERVER + SERVER, "export: two servers are called prom-9090"),
        (
            "[[export.remote_write]]\nurl = 'https://u:p@prom/'",
            "export.remote_write.url: set username and password by their own keys",
        ),
        (
            "[[export.remote_write]]\nurl = 'prom/write'",
            "export.remote_write.url: expected a URL such as",
        ),
    ],
)
def test_a_mistake_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value).startswith(complaint)


def test_metrics_are_filtered_by_their_whole_names() -> None:
    (server,) = config(
        "include = ['kaygraph_.*', 'x']\nexclude = ['.*_seconds']"
    ).export.remote_write
    is_sent = metric_filter(server)

    assert [
        is_sent(name)
        for name in ("kaygraph_a", "x", "xy", "kaygraph_a_seconds", "kaywatch_a")
    ] == [True, True, False, False, False]
    assert metric_filter(config().export.remote_write[0])("anything")


@pytest.mark.parametrize("way", ["basic", "bearer"])
async def test_a_request_is_as_the_specification_says(
    receivers: Receivers, tmp_path: Path, way: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    keys = {
        "basic": f"username = 'u'\npassword_file = '{secret}'",
        "bearer": f"bearer_token_file = '{secret}'",
    }
    table = f"[[export.remote_write]]\nurl = '{receivers.url}/write'\n{keys[way]}\n"
    (server,) = parse(f"{table}headers = {{X-Scope-OrgID = 'a'}}").export.remote_write
    series = messages.TimeSeries()
    series.labels.add(name="__name__", value="x")
    body = encode_request([series.SerializeToString()])
    async with aclosing(HttpClient()) as http:
        client = RemoteWriteClient(server, http)
        assert (await client.post(body)).status == 200
        secret.unlink()
        with pytest.raises(Unavailable, match=f"cannot read {secret}"):
            await client.post(body)

    (request,) = receivers.requests
    headers = {name.lower(): value for name, value in request.headers.items()}
    expected = {
        "basic": "Basic " + base64.b64encode(b"u:s3cret").decode(),
        "bearer": "Bearer s3cret",
    }
    assert headers["authorization"] == expected[way]
    assert headers["content-type"] == "application/x-protobuf"
    assert headers["content-encoding"] == "snappy"
    assert headers["x-prometheus-remote-write-version"] == "0.1.0"
    assert headers["x-scope-orgid"] == "a"
    assert headers["user-agent"].startswith("kaywatch/")
    data = bytes(cramjam.snappy.decompress_raw(request.body))
    assert messages.WriteRequest.FromString(data).timeseries == [series]


def test_a_variable_overrides_the_name_of_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (server,) = config().export.remote_write
    assert server.all_labels["instance"] == socket.gethostname()
    monkeypatch.setenv("KAYWATCH_HOST", "node-7")
    assert server.all_labels["instance"] == "node-7"

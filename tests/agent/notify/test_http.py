"""Which addresses requests may be sent to, and the errors when they fail."""

from __future__ import annotations

import asyncio
import socket
from contextlib import aclosing
from ipaddress import ip_network

import pytest
from tests.receivers import HANG, RESET, Receivers, Reply

from kaywatch_agent.notify.http import HttpClient, NoResponse, check_address, redact_url


async def refusal(http: HttpClient, url: str) -> NoResponse:
    with pytest.raises(NoResponse) as caught:
        await http.post(url, b"{}", {})
    return caught.value


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "100.100.100.200",
    ],
)
def test_metadata_and_link_local_addresses_are_rejected(host: str) -> None:
    with pytest.raises(OSError, match="not allowed"):
        check_address(host)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "::1", "10.0.0.1", "::ffff:127.0.0.1", "fd12::1"],
)
def test_private_addresses_are_allowed(host: str) -> None:
    check_address(host)


async def test_addresses_are_checked_when_the_connection_is_made(
    receivers: Receivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    loopback = [ip_network("127.0.0.0/8"), ip_network("::1/128")]
    monkeypatch.setattr("kaywatch_agent.notify.http.FORBIDDEN", loopback)
    port = receivers.url.rpartition(":")[2]
    async with aclosing(HttpClient()) as http:
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
            error = await refusal(http, f"http://{host}:{port}/x")
            assert str(error) == "the address is not allowed for receivers"
            assert error.undelivered
    assert receivers.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://x/y",
        "file:///etc/passwd",
        "http://",
        "hooks.slack.com/x",
        "http://[",
        "http://a/\n",
    ],
)
async def test_other_urls_than_http_are_rejected(http: HttpClient, url: str) -> None:
    error = await refusal(http, url)
    assert (str(error), error.undelivered) == ("not an http or https URL", True)


async def test_redirects_are_not_followed(
    http: HttpClient, receivers: Receivers
) -> None:
    receivers.answer("/a", Reply(302, "", {"Location": receivers.url + "/b"}))

    answer = await http.post(receivers.url + "/a", b"", {})
    assert answer.status == 302
    assert [r.path for r in receivers.requests] == ["/a"]


async def test_proxies_of_the_environment_are_not_used(
    receivers: Receivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with aclosing(HttpClient()) as http:
        assert (await http.post(receivers.url, b"", {})).status == 200


async def test_errors_contain_no_url_and_tell_whether_the_request_arrived(
    http: HttpClient, receivers: Receivers
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    receivers.answer("/T0/B0/token", HANG, RESET)
    url = receivers.url + "/T0/B0/token"
    result = [
        await refusal(http, f"http://127.0.0.1:{port}/T0/B0/token"),
        await refusal(http, url),
        await refusal(http, url),
        await refusal(http, receivers.url.replace("http:", "https:") + "/T0/B0/token"),
    ]

    assert [str(error) for error in result][:3] == [
        "connection refused",
        "no response in time",
        "the connection was closed without a response",
    ]
    assert "TLS" in str(result[3])
    assert [error.undelivered for error in result] == [True, False, False, True]
    assert not [error for error in result if "token" in str(error)]


async def test_a_response_is_truncated_and_cleared_of_secrets(
    http: HttpClient, receivers: Receivers
) -> None:
    receivers.answer(
        "/T0/B0/token",
        Reply(404, "no such path: T0/B0/token, key hunter22"),
        Reply(500, "x" * 1_000_000),
    )
    url = receivers.url + "/T0/B0/token"

    answer = await http.post(url, b"", {}, secrets=("hunter22",))
    assert answer.text == "no such path: …, key …"
    assert len((await http.post(url, b"", {})).body) <= 64 * 1024


async def test_a_response_that_arrives_in_pieces_is_read_completely(
    http: HttpClient,
) -> None:
    async def slow(_: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"k")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert (await http.post(f"http://127.0.0.1:{port}/", b"", {})).text == "ok"


async def test_a_request_can_be_cancelled(
    http: HttpClient, receivers: Receivers
) -> None:
    receivers.answer("/x", HANG)
    task = asyncio.create_task(http.post(receivers.url + "/x", b"", {}))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_redacted_url_has_no_secret() -> None:
    hook = "https://hooks.slack.com/services/T/B/x?y=z"
    assert redact_url(hook) == "https://hooks.slack.com/…"
    assert redact_url("http://user:pw@host:9093/a") == "http://host:9093/…"
    assert redact_url("nonsense") == redact_url("http://[") == "…"

"""Where requests may go, and what is said when they fail."""

from __future__ import annotations

import asyncio
import socket

import pytest
from tests.receivers import HANG, RESET, Receivers, Reply

from kaywatch_agent.notify.http import HttpClient, NoResponse, check_address, redacted


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
def test_metadata_and_link_local_addresses_are_never_reached(host: str) -> None:
    with pytest.raises(OSError, match="not allowed"):
        check_address(host, private=True)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "::1", "10.0.0.1", "::ffff:127.0.0.1", "fd12::1"],
)
def test_private_addresses_are_for_the_configuration_file_alone(host: str) -> None:
    check_address(host, private=True)
    with pytest.raises(OSError, match="not allowed"):
        check_address(host, private=False)


async def test_the_check_is_made_when_the_connection_is(fakes: Receivers) -> None:
    port = fakes.url.rpartition(":")[2]
    async with HttpClient(private=False) as http:
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
            error = await refusal(http, f"http://{host}:{port}/x")
            assert str(error) == "the address is not allowed for receivers"
            assert error.undelivered
    assert fakes.requests == []


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
async def test_only_http_is_spoken(http: HttpClient, url: str) -> None:
    error = await refusal(http, url)
    assert (str(error), error.undelivered) == ("not an http or https URL", True)


async def test_redirects_are_not_followed(http: HttpClient, fakes: Receivers) -> None:
    fakes.answer("/a", Reply(302, "", {"Location": fakes.url + "/b"}))

    answer = await http.post(fakes.url + "/a", b"", {})
    assert answer.status == 302
    assert [r.path for r in fakes.requests] == ["/a"]


async def test_a_proxy_of_the_environment_is_not_used(
    fakes: Receivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with HttpClient() as http:
        assert (await http.post(fakes.url, b"", {})).status == 200


async def test_failures_name_no_url_and_say_whether_it_arrived(
    http: HttpClient, fakes: Receivers
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    fakes.answer("/T0/B0/token", HANG, RESET)
    url = fakes.url + "/T0/B0/token"
    found = [
        await refusal(http, f"http://127.0.0.1:{port}/T0/B0/token"),
        await refusal(http, url),
        await refusal(http, url),
        await refusal(http, fakes.url.replace("http:", "https:") + "/T0/B0/token"),
    ]

    assert [str(error) for error in found][:3] == [
        "connection refused",
        "no response in time",
        "the connection was closed without a response",
    ]
    assert "TLS" in str(found[3])
    assert [error.undelivered for error in found] == [True, False, False, True]
    assert not [error for error in found if "token" in str(error)]


async def test_an_answer_s_body_is_read_up_to_a_bound_and_echoes_no_secret(
    http: HttpClient, fakes: Receivers
) -> None:
    fakes.answer(
        "/T0/B0/token",
        Reply(404, "no such path: T0/B0/token, key hunter22"),
        Reply(500, "x" * 1_000_000),
    )
    url = fakes.url + "/T0/B0/token"

    answer = await http.post(url, b"", {}, secrets=("hunter22",))
    assert answer.text == "no such path: …, key …"
    assert len((await http.post(url, b"", {})).body) <= 64 * 1024


async def test_a_body_in_pieces_is_read_whole(http: HttpClient) -> None:
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


async def test_a_request_can_be_cancelled(http: HttpClient, fakes: Receivers) -> None:
    fakes.answer("/x", HANG)
    task = asyncio.create_task(http.post(fakes.url + "/x", b"", {}))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_url_is_shown_without_its_secret() -> None:
    hook = "https://hooks.slack.com/services/T/B/x?y=z"
    assert redacted(hook) == "https://hooks.slack.com/…"
    assert redacted("http://user:pw@host:9093/a") == "http://host:9093/…"
    assert redacted("nonsense") == redacted("http://[") == "…"

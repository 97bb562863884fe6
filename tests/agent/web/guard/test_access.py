"""Access to HTTP depends on address, site and token, and has limits."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
import ssl
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.agent.web.serving import Answer, Served, serving
from tests.agents import until
from tests.certificates import certificate

from kaywatch.errors import AgentRefused, ConfigurationError
from kaywatch.query import fetch, send
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.web.config import HttpConfig, is_loopback
from kaywatch_agent.web.guard.tokens import Role, Tokens, parse_token
from kaywatch_agent.web.routes import ENDPOINTS

READ, OLD, ADMIN = "r" * 16, "old-token-of-before", "a-token/for+admins=="
JSON = {"Content-Type": "application/json"}
LISTEN = "127.0.0.1:0"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "read").write_text(f"# for Prometheus\n\n{READ}\n{OLD}\n")
    (folder / "admin").write_text(f"  {ADMIN}  \n")
    for name in ("read", "admin"):
        (folder / name).chmod(0o600)
    return {f"{name}_tokens_file": str(folder / name) for name in ("read", "admin")}


@pytest.fixture(scope="module")
def guarded(files: dict[str, str]) -> Iterator[Served]:
    with serving(config=HttpConfig(LISTEN, **files)) as result:  # type: ignore[arg-type]
        yield result


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def basic(token: str) -> dict[str, str]:
    pair = base64.b64encode(f"anybody:{token}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


# -- tokens --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "reads", "writes"),
    [
        ({}, 401, 401),
        (bearer(READ), 200, 403),
        (bearer(OLD), 200, 403),
        (bearer(ADMIN), 200, 200),
        (basic(READ), 200, 403),
        (basic(ADMIN), 200, 200),
        ({"Authorization": f"bearer   {ADMIN}"}, 200, 200),
        (bearer(READ[:-1]), 401, 401),
        (bearer(READ + "r"), 401, 401),
        (bearer(ADMIN.upper()), 401, 401),
        (bearer("# for Prometheus"), 401, 401),
        (bearer(""), 401, 401),
        ({"Authorization": READ}, 401, 401),
        ({"Authorization": f"Basic {READ}"}, 401, 401),
        ({"Authorization": "Basic ////"}, 401, 401),
        ({"Authorization": f"Digest {ADMIN}"}, 401, 401),
    ],
)
def test_a_token_reads_or_changes(
    guarded: Served, headers: dict[str, str], reads: int, writes: int
) -> None:
    assert guarded.ask("/api/v1/nodes", headers).status == reads
    answer = guarded.ask(
        "/api/v1/receivers/ops/test", {**JSON, **headers}, method="POST"
    )
    assert answer.status == writes
    if reads == 401:
        assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="kaywatch"')
        assert answer.error["code"] in ("no_token", "wrong_token")


def test_every_path_but_the_public_needs_a_token(guarded: Served) -> None:
    for route in ENDPOINTS:
        path = route.path.replace("{", "").replace("}", "")
        answer = guarded.ask(path, JSON, method=route.method)
        is_public = route.is_public or route.path == "/health"
        assert (answer.status != 401) is is_public, path
    # The response does not reveal which paths exist.
    for path, method in (("/x", "GET"), ("/health", "POST"), ("/metrics", "OPTIONS")):
        assert guarded.ask(path, method=method).status == 401


def test_public_paths_are_configurable(files: dict[str, str]) -> None:
    config = HttpConfig(LISTEN, **files, public=("/metrics",))  # type: ignore[arg-type]
    with serving(config=config) as served:
        assert served.ask("/metrics").status == 200
        assert served.ask("/health").status == 401
        counted = served.source.telemetry.get("kaywatch_http_refused_total", "no_token")
        assert counted == 1


def test_two_tokens_at_once_are_none(guarded: Served) -> None:
    with connected(guarded) as connection:
        connection.sendall(
            b"GET /api/v1/nodes HTTP/1.1\r\nHost: localhost\r\n"
            b"Authorization: Bearer %s\r\nAuthorization: Bearer x\r\n\r\n"
            % READ.encode()
        )
        assert b" 401 " in connection.recv(100)


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("the-first-token-x\n")
    tokens = Tokens(read=str(file), admin="")
    file.write_text("the-first-token-x\nthe-second-token-x\n")
    tokens.refresh(10.0)
    assert tokens.role_of("the-first-token-x") is Role.READ
    assert tokens.role_of("the-second-token-x") is Role.READ

    replaced = tmp_path / "new"
    replaced.write_text("the-second-token-x\n")
    os.replace(replaced, file)
    tokens.refresh(10.5)  # looked at a moment ago
    assert tokens.role_of("the-first-token-x") is Role.READ
    tokens.refresh(12.0)
    assert tokens.role_of("the-first-token-x") is None


def test_an_invalid_token_file_changes_nothing_and_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("the-first-token-x\n")
    tokens = Tokens(read="", admin=str(file))
    for number, text in enumerate(("short\n", "", None), 1):
        file.unlink()
        if text is not None:
            file.write_text(text)
        with structlog.testing.capture_logs() as logs:
            tokens.refresh(10.0 * number)
        assert [line["event"] for line in logs if line["log_level"] == "error"] == [
            "tokens not reloaded"
        ]
        assert "short" not in str(logs)
        assert tokens.role_of("the-first-token-x") is Role.ADMIN


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "has no token; create one: openssl rand -hex 32"),
        ("# nothing\n", "has no token"),
        ("secret\n", "line 1: a token has 16 to 512 characters"),
        ("\n" + "s" * 513, "line 2: a token has 16 to 512 characters"),
        ("not a token, this one", "line 1: a token consists of letters, digits"),
        ("tökentökentökentöken", "a token consists of letters, digits"),
        ("tok\x00entokentokentoken", "a token consists of letters, digits"),
        ("t" * 20 + "\n" + ("u" * 20 + "\n") * 100, "more than 100 tokens"),
    ],
)
def test_an_invalid_token_is_reported_without_its_text(
    tmp_path: Path, text: str, complaint: str
) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Tokens(read=str(file), admin="")
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("http.read_tokens_file: ")
    assert "secret" not in str(caught.value).replace(str(file), "")


def test_a_world_readable_token_file_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(READ)
    file.chmod(0o644)
    with structlog.testing.capture_logs() as logs:
        Tokens(read=str(file), admin="")
    assert [line["event"] for line in logs] == [
        "every user can read the tokens: chmod o-r"
    ]


def test_tokens_come_as_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "admins").write_text(ADMIN)
    config = HttpConfig(LISTEN, admin_tokens_credential="admins")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match="add LoadCredential= to the unit"):
        _ = config.admin_tokens
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with serving(config=config) as served:
        assert served.ask("/api/v1/nodes").status == 401
        assert served.ask("/api/v1/nodes", bearer(ADMIN)).status == 200


@pytest.mark.parametrize("header", ["", " ", "Basic", "Basic =", "Bearer", "\x00"])
def test_headers_that_hold_no_token(header: str) -> None:
    assert parse_token(header) is None


def test_the_reader_sends_the_token_that_its_environment_names(
    guarded: Served,
    files: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in ("KAYWATCH_TOKEN", "KAYWATCH_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AgentRefused, match="a token is required"):
        fetch("/api/v1/nodes", url=guarded.url)
    monkeypatch.setenv("KAYWATCH_TOKEN_FILE", files["read_tokens_file"])
    assert fetch("/api/v1/nodes", url=guarded.url)["nodes"] == []
    path = "/api/v1/receivers/ops/test"
    with pytest.raises(AgentRefused, match="this token allows reading only"):
        send("POST", path, url=guarded.url)
    monkeypatch.setenv("KAYWATCH_TOKEN", ADMIN)
    assert send("POST", path, url=guarded.url)["count"] > 0

    monkeypatch.setenv("KAYWATCH_TOKEN", "a\r\nX-Other: b")
    with pytest.raises(ConfigurationError, match="KAYWATCH_TOKEN: a token has"):
        fetch("/health", url=guarded.url)
    monkeypatch.setenv("KAYWATCH_TOKEN", "")
    monkeypatch.setenv("KAYWATCH_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="No such file"):
        fetch("/health", url=guarded.url)


# -- where it listens ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("web1", False),
        ("localhost.example.org", False),
    ],
)
def test_local_addresses(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("keys", "missing"),
    [
        ({}, "tokens .* and TLS"),
        ({"admin_tokens_file": "t"}, "without TLS"),
        ({"tls_certificate_file": "c", "tls_key_file": "k"}, "without tokens"),
    ],
)
@pytest.mark.parametrize("listen", ["0.0.0.0:9477", "[::]:0", "web1.example.org:80"])
def test_others_reach_nothing_without_a_token_and_tls(
    listen: str, keys: dict[str, str], missing: str
) -> None:
    with pytest.raises(ValueError, match=missing) as caught:
        HttpConfig(listen, **keys)  # type: ignore[arg-type]
    assert "http.insecure_public_listener = true" in str(caught.value)
    HttpConfig(listen, **keys, insecure_public_listener=True)  # type: ignore[arg-type]


def test_with_both_others_may_reach_it() -> None:
    HttpConfig(
        "0.0.0.0:9477",
        read_tokens_file="t",
        tls_certificate_file="c",
        tls_key_file="k",
    )


def test_a_name_that_leads_elsewhere_than_it_seems_is_found_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """/etc/hosts decides to which address `localhost` resolves."""
    find = socket.getaddrinfo

    def astray(host: Any, *rest: Any, **more: Any) -> Any:
        return find("0.0.0.0" if host == "localhost" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", astray)
    with (
        pytest.raises(ConfigError, match="other hosts can reach"),
        serving(config=HttpConfig("localhost:0")),
    ):
        pass


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"listen": "unix:http.sock"}, "expected an absolute path"),
        ({"listen": "unix:/" + "x" * 107}, "at most 107 bytes"),
        ({"mode": "rw"}, "expected octal digits"),
        ({"group": "no such group"}, 'unknown group "no such group"'),
        ({"tls_key_file": "k"}, "set both or none"),
        ({"tls_certificate_file": "c"}, "set both or none"),
        ({"read_tokens_file": "a", "read_tokens_credential": "b"}, "set only one"),
        ({"public": ("/helth",)}, "public: unknown path '/helth'"),
        ({"connections": 0}, "connections = 0: expected at least 1"),
    ],
)
def test_an_invalid_access_setting_is_reported(
    keys: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        HttpConfig(**keys)


def test_it_is_served_on_a_unix_socket() -> None:
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        path = f"{folder}/http.sock"
        with serving(config=HttpConfig(f"unix:{path}", mode="0600")) as served:
            assert served.url == f"unix:{path}"
            assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
            assert fetch("/health", url=served.url)["status"]
            done = send("POST", "/api/v1/receivers/ops/test", url=served.url)
            assert done["count"] > 0
        assert not os.path.exists(path)


# -- TLS -----------------------------------------------------------------------------


def peer(served: Served, version: ssl.TLSVersion | None = None) -> tuple[str, str]:
    """Return the version that is agreed on, and the name on the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection((served.host, served.port), 10) as raw,
        context.wrap_socket(raw) as secure,
    ):
        raw_certificate = secure.getpeercert(binary_form=True) or b""
        # The name stands in it as it is.
        name = "second" if b"second" in raw_certificate else "first"
        return secure.version() or "", name


def test_tls_is_of_1_2_or_later_and_its_certificate_is_renewed(tmp_path: Path) -> None:
    first = certificate(tmp_path, "first")
    config = HttpConfig(
        LISTEN,
        tls_certificate_file=str(first.certificate),
        tls_key_file=str(first.key),
    )
    with serving(config=config) as served:
        assert served.url.startswith("https://127.0.0.1:")
        assert peer(served) == ("TLSv1.3", "first")
        assert peer(served, ssl.TLSVersion.TLSv1_2) == ("TLSv1.2", "first")
        with pytest.raises(ssl.SSLError), pytest.warns(match="deprecated"):
            peer(served, ssl.TLSVersion.TLSv1_1)
        context = ssl.create_default_context(cafile=str(first.certificate))
        with contextlib.closing(
            http.client.HTTPSConnection(served.host, served.port, context=context)
        ) as connections:
            connections.request("GET", "/health")
            assert connections.getresponse().read()

            second = certificate(tmp_path, "second")
            os.replace(second.certificate, first.certificate)
            # Half of it is there: the old one goes on.
            served.call(lambda: served.server.use(config))
            assert peer(served)[1] == "first"
            os.replace(second.key, first.key)
            served.call(lambda: served.server.use(config))
            assert peer(served)[1] == "second"
            # Who is connected already notices nothing.
            connections.request("GET", "/health")
            assert connections.getresponse().status == 200


def test_an_invalid_certificate_is_an_error_at_startup(tmp_path: Path) -> None:
    made = certificate(tmp_path)
    other = certificate(tmp_path, "other")
    for key, complaint in (
        (other.key, "with its key"),
        (tmp_path / "x", "cannot read"),
    ):
        config = HttpConfig(
            LISTEN,
            tls_certificate_file=str(made.certificate),
            tls_key_file=str(key),
        )
        with (
            pytest.raises(ConfigError, match=complaint),
            serving(config=config),
        ):
            pass


# -- the host, and the site ----------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:9477", 200),
        ("192.0.2.7:80", 200),
        ("[::1]:9477", 200),
        ("localhost", 200),
        ("LocalHost:1", 200),
        ("localhost.", 200),
        ("app.localhost:1", 200),
        ("web1:9477", 200),
        ("kaywatch.example.org", 200),
        ("KAYWATCH.example.org:443", 200),
        ("evil.example", 403),
        ("evil.example:9477", 403),
        ("kaywatch.example.org.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("evil.example@127.0.0.1", 403),
        ("127.0.0.1:9477@evil.example", 403),
        ("127.0.0.1/evil.example", 403),
        ("127.0.0.1#", 403),
        ("0x7f.1", 403),
        ("", 403),
        ("[::1", 403),
        ("a:b:c", 403),
        ("127.0.0.1:99999999", 403),
    ],
)
def test_only_hosts_safe_from_dns_rebinding_are_allowed(host: str, status: int) -> None:
    with serving(config=HttpConfig(LISTEN, hosts=("Kaywatch.example.org",))) as served:
        answer = served.ask("/api/v1/nodes", {"Host": host})
        assert answer.status == status, answer.body
        if status == 403:
            assert answer.error["code"] == "unknown_host"
            assert "http.hosts" in answer.error["hint"]


def test_any_host_can_be_allowed() -> None:
    with serving(config=HttpConfig(LISTEN, hosts=("*",))) as served:
        assert served.ask("/health", {"Host": "evil.example"}).status == 200


SITES: list[tuple[dict[str, str], int, int]] = [
    ({}, 200, 200),
    ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200, 200),
    ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, 200, 200),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403, 403),
    ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403, 403),
    ({"Sec-Fetch-Site": "odd"}, 403, 403),
    # A link that is followed, and a frame.
    (
        {
            "Sec-Fetch-Site": "cross-site",
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "document",
        },
        200,
        403,
    ),
    (
        {
            "Sec-Fetch-Site": "cross-site",
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "iframe",
        },
        403,
        403,
    ),
    ({"Origin": "https://evil.example"}, 200, 403),
    ({"Origin": "null"}, 200, 403),
]


@pytest.mark.parametrize(("headers", "reads", "writes"), SITES)
def test_other_sites_change_nothing_and_take_nothing_up(
    shop: Served, headers: dict[str, str], reads: int, writes: int
) -> None:
    answer = shop.ask("/api/v1/nodes", headers)
    assert answer.status == reads
    path = "/api/v1/receivers/ops/test"
    assert shop.ask(path, {**JSON, **headers}, method="POST").status == writes
    # Whatever the answer, no page of theirs may read it.
    assert not [name for name in answer.headers if name.lower().startswith("access-")]


def test_a_cross_site_form_changes_nothing(shop: Served) -> None:
    for kind in (
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain",
        "text/plain; application/json",
        "",
    ):
        for path in ("/api/v1/receivers/ops/test", "/api/v1/silences"):
            answer = shop.ask(path, {"Content-Type": kind}, method="POST")
            assert (answer.status, answer.error["code"]) == (415, "not_json"), kind


def test_every_response_has_restrictive_security_headers(shop: Served) -> None:
    for path in ("/", "/health", "/metrics", "/api/v1/nodes", "/x", "/health?x=1"):
        headers = shop.ask(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"


# -- how much at once ----------------------------------------------------------------


@contextlib.contextmanager
def connected(served: Served) -> Iterator[socket.socket]:
    with socket.create_connection((served.host, served.port), 20) as connection:
        yield connection


def count_refused(served: Served, reason: str) -> float:
    value: float = served.source.telemetry.get("kaywatch_http_refused_total", reason)
    return value


def rest(connection: socket.socket) -> bytes:
    """Return all bytes until the peer disconnects."""
    result = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65_536):
            result += data
    return result


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_connection_without_a_request_is_closed(served: Served, sent: bytes) -> None:
    served.server.limiter.head_seconds = 0.2
    with connected(served) as connection:
        connection.sendall(sent)
        assert rest(connection) == b""
    assert count_refused(served, "slow") == 1
    until(lambda: open_connections(served) == 0, "it is gone")


def test_a_drip_does_not_keep_a_connection_open(served: Served) -> None:
    """Slowloris: a header line now and then, for ever."""
    served.server.limiter.head_seconds = 0.5
    with connected(served) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises(ConnectionError):
            drip(connection)
    assert count_refused(served, "slow") == 1


def drip(connection: socket.socket) -> None:
    for number in range(200):
        connection.sendall(b"X-%d: 1\r\n" % number)
        time.sleep(0.05)


def test_a_connection_that_is_kept_has_its_time_for_the_next_request(
    served: Served,
) -> None:
    served.server.limiter.head_seconds = 0.3
    with contextlib.closing(http.client.HTTPConnection(served.host, served.port)) as c:
        for _ in range(3):
            c.request("GET", "/health")
            assert c.getresponse().read()
            time.sleep(0.5)  # longer than a head may take
        assert count_refused(served, "slow") == 0
        assert c.sock is not None
        c.sock.sendall(b"GET / HT")
        assert rest(c.sock) == b""
    assert count_refused(served, "slow") == 1


def test_a_body_that_does_not_come_is_waited_for_so_long(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaywatch_agent.web.guard.bodies.BODY_SECONDS", 0.2)
    with connected(served) as connection:
        connection.sendall(
            b"POST /api/v1/silences HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
        rest(connection)  # it ends: the rest could be taken for a request
    assert count_refused(served, "slow_body") == 1


def test_of_too_many_connections_the_idlest_goes() -> None:
    with (
        serving(config=HttpConfig(LISTEN, connections=3)) as served,
        contextlib.ExitStack() as stack,
    ):
        connections = [stack.enter_context(connected(served)) for _ in range(3)]
        until(lambda: open_connections(served) == 3, "three are there")
        assert served.ask("/health").status == 200
        assert rest(connections[0]) == b""
        assert count_refused(served, "idle") == 1


def test_where_all_are_at_work_the_new_one_comes_again_later() -> None:
    with (
        serving(config=HttpConfig(LISTEN, connections=2)) as served,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(2):
            stream = stack.enter_context(connected(served))
            stream.sendall(b"GET /api/v1/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert stream.recv(20).startswith(b"HTTP/1.1 200")
        answer = served.ask("/health")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert count_refused(served, "too_many_connections") == 1


def test_streams_are_bounded() -> None:
    with (
        serving(config=HttpConfig(LISTEN, streams=1)) as served,
        connected(served) as stream,
    ):
        stream.sendall(b"GET /api/v1/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert stream.recv(20).startswith(b"HTTP/1.1 200")
        answer = served.ask("/api/v1/live")
        assert answer.error["code"] == "too_many_streams"


def open_connections(served: Served) -> float:
    value: float = served.source.telemetry.get("kaywatch_http_connections")
    return value


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 9_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 100 + b"\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 400),
    ],
)
def test_a_head_that_can_t_be_is_refused_in_json_and_counted(
    served: Served, head: bytes, status: int
) -> None:
    with connected(served) as connection:
        connection.sendall(head)
        answer = b""
        while b"}}" not in answer:
            answer += connection.recv(65_536)
    assert answer.split(b" ")[1] == str(status).encode()
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert count_refused(served, body["error"]["code"]) == 1
    assert b"nosniff" in answer
    assert Answer(status, http.client.HTTPMessage(), b"").status == status


@pytest.mark.parametrize(
    ("expected", "status"), [("100-continue", 200), ("x", 417), ("\udcff", 400)]
)
def test_expect_is_granted_or_refused(
    served: Served, caplog: pytest.LogCaptureFixture, expected: str, status: int
) -> None:
    with connected(served) as connection:
        value = expected.encode("utf-8", "surrogateescape")
        connection.sendall(
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Expect: %s\r\n\r\n" % value
        )
        statuses = [
            line[9:12] for line in rest(connection).splitlines() if b"HTTP/" in line
        ]
    assert statuses[-1] == str(status).encode()
    assert not caplog.records


def test_a_disconnect_in_mid_request_is_not_logged(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(50):
        with connected(served) as connection:
            connection.sendall(
                b"POST /api/v1/silences HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: 9\r\n"
                b"Expect: 100-continue\r\n\r\n{"
            )
            connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )
    until(lambda: open_connections(served) == 0, "all are gone")
    assert served.ask("/health").status == 200
    assert not [record for record in caplog.records if record.exc_info]
    assert count_refused(served, "internal") == 0

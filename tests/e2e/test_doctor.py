"""`kaywatch doctor` in real situations."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
from tests import forks
from tests.agents import Agent, free_port, kill_at_end, running_agent, until
from tests.brokers import AGENT, HOST, run_broker
from tests.certificates import certificate
from tests.e2e.chaos import small_disk
from tests.mail_server import run_mail_server
from tests.mqtt import agent_at, is_listening, settings, variables
from tests.receivers import run_receivers

from kaywatch import wire
from kaywatch_agent.cli.doctor.checks import CHECKS, run_checks
from kaywatch_agent.cli.doctor.context import Options, gather
from kaywatch_agent.cli.doctor.result import SECTIONS, CheckStatus

NOBODY = 65_534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# Imports everything first: this user cannot read the folder of Python.
AS_NOBODY = f"""
import encodings.idna, encodings.utf_8_sig, os, sys
from kaywatch_agent import app
from kaywatch_agent.cli import main as cli
from kaywatch_agent.cli.commands import doctor
from kaywatch_agent.cli.doctor import checks, context
import structlog, uvloop
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
cli.main()
"""

WORKS = """
import kaywatch, sys
with kaywatch.execution("g", "n"): pass
kaywatch.flush(10)
print("pushed", flush=True)
sys.stdin.read()
"""


class Report:
    """The output of `kaywatch doctor --json`."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.json = json.loads(text)

    def result(self, *words: str) -> dict[str, str]:
        """Return the only result with all these words in its section, text or fix."""
        (actual,) = (
            result
            for result in self.json["results"]
            if all(
                word in f"{result['section']}: {result['text']} {result['fix']}"
                for word in words
            )
        )
        return dict(actual)

    def status(self, *words: str) -> str:
        return self.result(*words)["status"]

    @property
    def problems(self) -> list[str]:
        return [
            r["text"]
            for r in self.json["results"]
            if r["status"] == CheckStatus.PROBLEM
        ]


def doctor(*arguments: str, code: str = "", **environment: str) -> Report:
    """Run the command without the KAYWATCH_ variables of this environment."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("KAYWATCH_")}
    env = {**clean, **environment}
    if code:
        done = subprocess.run(
            [sys.executable, "-c", code, "doctor", "--json", *arguments],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )
    else:
        done = forks.run(sys.executable, "doctor", "--json", *arguments, env=env)
    assert done.returncode in (0, 1) and done.stdout, done.stderr
    assert "bug in kaywatch" not in done.stdout, done.stdout
    return Report(done.returncode, done.stdout)


def doctor_for(agent: Agent, *arguments: str, **more: str) -> Report:
    """Run the command for one agent."""
    options = ["--socket", agent.socket, "--url", agent.url, "--store", agent.store]
    return doctor(*arguments, *options, **more)


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a short path that every user can enter."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


# -- an agent, or none -----------------------------------------------------------------


def test_a_url_alone_selects_the_agent_s_own_socket_and_store() -> None:
    with running_agent() as agent:
        report = doctor("socket", "store", "--url", agent.url)
        texts = json.dumps(report.json["results"])

    assert agent.socket in texts
    assert agent.store in texts
    assert report.problems == []


def test_the_configuration_of_an_agent_at_a_url_is_not_guessed(short: Path) -> None:
    text = """
[receiver.ops]
type = "webhook"
url = "http://127.0.0.1:1"
[[inhibit]]
source = ['severity="crit"']
target = ['severity="info"']
"""
    sections = ["agent", "configuration"]
    with running_agent(sys.executable, "--config", str(config(short, text))) as agent:
        report = doctor(*sections, "--url", agent.url)
        health = agent.get("/health")

    assert report.status("its configuration", "pass --config") == "not checked"
    assert report.status("rules, receivers: ops") == "ok"
    assert report.status("inhibit[0].source[0]: no alert has severity") == "warning"
    assert "only this host can use HTTP" not in json.dumps(report.json)
    assert "inhibit[0].source[0]" in health["stages"]["rules"]["note"]


def test_without_an_agent_at_a_url_no_other_paths_are_checked() -> None:
    report = doctor("--url", f"http://127.0.0.1:{free_port()}")

    for section in ("socket", "processes", "store"):
        assert report.status(section, f"its {section}", "unknown") == "not checked"
    assert report.status("its configuration", "pass --config") == "not checked"


def test_a_server_without_tls_is_named() -> None:
    with running_agent() as agent:
        url = agent.url.replace("http://", "https://")
        report = doctor("agent", "--url", url)

    assert report.status("uses plain HTTP", f"pass --url {agent.url}") == "problem"
    assert "WRONG_VERSION_NUMBER" not in json.dumps(report.json)


def test_without_an_agent_the_other_checks_run(short: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    arguments = [
        "--socket",
        str(short / "s"),
        "--url",
        url,
        "--store",
        str(short / "k"),
    ]
    report = doctor(*arguments)
    process = subprocess.run(
        [sys.executable, "-m", "kaywatch_agent", "doctor", *arguments],
        capture_output=True,
        text=True,
    )

    assert process.returncode == report.code == 1
    assert process.stdout.startswith(
        f"No agent answers at {url}; only some checks are possible"
    )
    assert report.status("agent", "no agent answers", "kaywatch serve") == "problem"
    assert report.status("socket", "no such file") == "problem"
    assert report.status("store", "does not exist yet") == "ok"
    assert report.status("processes", "which process listens") == "not checked"
    assert list(short.iterdir()) == []


def test_a_healthy_agent_has_no_problem(short: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hook:
        url = f"http://127.0.0.1:{hook.getsockname()[1]}"
        path = config(short, RECEIVER.format(url=url))
        with running_agent(sys.executable, "--config", str(path)) as agent:
            with agent.spawn(WORKS) as client:
                assert client.stdout is not None
                assert client.stdout.readline() == "pushed\n"
                until(lambda: agent.clients()[0]["memory_mb"], "its memory is read")
                report = doctor_for(agent, "--config", str(path))
            pid = agent.process.pid if agent.process else 0

    assert report.problems == []
    assert report.code == 0
    # Without brokers and exports there is nothing to check.
    sections = {r["section"] for r in report.json["results"]}
    assert sections == {*SECTIONS} - {"brokers", "exports"}
    assert report.status("agent", "answers at", agent.url) == "ok"
    assert report.status("agent", "healthy: tick") == "ok"
    assert report.status("agent", "as installed here") == "ok"
    assert report.status("socket", "can push", "0660") == "ok"
    assert report.status("processes", f"the agent is process {pid}") == "ok"
    assert report.status("processes", "1 connected, each identified by its pid") == "ok"
    assert report.status("clock", "this host's") == "ok"
    assert report.status("clock", "1 clients agree") == "ok"
    assert report.status("store", "the last commit was", "schema") == "ok"
    assert report.status("store", "not damaged") == "ok"
    assert report.status("receivers", "nothing was sent") == "ok"
    assert report.status("host", "open files are allowed")


def test_an_agent_of_another_version_is_named(short: Path) -> None:
    now = time.time()
    health = {
        "status": "degraded",
        "timestamp": now - 3600,
        "version": "0.0.9",
        "uptime": 5.0,
        "stages": {"store": {"status": "degraded", "problem": "the disk is full"}},
    }
    with serve_json({"/health": health}) as url:
        report = doctor("agent", "clock", "--url", url)

    assert report.status("version 0.0.9 is running", "restart the agent") == "warning"
    assert report.status("store: the disk is full") == "warning"
    assert report.status("/health only", "KAYWATCH_TOKEN_FILE") == "problem"
    assert report.status("1h behind this host's", "timedatectl") == "warning"


@contextmanager
def serve_json(answers: dict[str, Any]) -> Iterator[str]:
    """Serve JSON at some paths, and respond with 401 at all others."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            result = answers.get(self.path)
            body = json.dumps(result or {"error": {"code": "no_token"}}).encode()
            self.send_response(200 if result else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


# -- the socket ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "status", "words"),
    [
        (0o666, "warning", "every user of this host can push"),
        (0o600, "ok", "can push"),
        (0o440, "problem", "only root can push"),
    ],
)
def test_the_mode_of_the_socket_is_checked(
    agent: Agent, mode: int, status: str, words: str
) -> None:
    os.chmod(agent.socket, mode)

    assert doctor_for(agent, "socket").status(f"({mode:04o} ", words) == status


def test_a_socket_without_a_listener_is_a_problem(agent: Agent) -> None:
    agent.stop(signal.SIGKILL)
    report = doctor_for(agent, "socket")

    assert report.status("no process listens", "replaces the socket") == "problem"
    # The result names the paths where clients look.
    assert report.status("look at /", f"unix://{agent.socket}") == "warning"


@as_root
def test_a_user_without_access_gets_the_fix(short: Path) -> None:
    agent = Agent(short)
    try:
        agent.start()
        report = doctor_for(agent, "socket", "store", code=AS_NOBODY)
        os.chmod(agent.socket, 0o666)
        allowed = doctor_for(agent, "socket", code=AS_NOBODY)
        os.chmod(short, 0o700)
        outside = doctor_for(agent, "socket", code=AS_NOBODY)
    finally:
        agent.close()

    refused = report.result("cannot connect to")
    assert refused["status"] == "problem"
    assert "usermod -aG root nobody" in refused["fix"]
    assert allowed.status("nobody can connect") == "ok"
    assert outside.status("this user cannot enter", f"chmod o+x {short}") == "problem"


@as_root
def test_a_user_outside_allow_uids_is_a_problem(short: Path) -> None:
    path = config(short, '[ingest]\nmode = "0666"\nallow_uids = ["daemon"]\n')
    path.chmod(0o644)
    with running_agent(sys.executable, "--config", str(path)) as agent:
        os.chmod(agent.folder, 0o755)
        report = doctor_for(agent, "socket", "--config", str(path), code=AS_NOBODY)

    assert report.status("every user of this host can connect") == "ok"
    assert report.status("only daemon and root can push") == "ok"
    refused = report.result("nobody can connect, but is not in")
    assert (refused["status"], report.code) == ("problem", 1)


# -- HTTP ------------------------------------------------------------------------------


def test_an_agent_that_requires_a_token(short: Path) -> None:
    tokens = short / "tokens"
    tokens.write_text(f"{secrets.token_hex(32)}\n")
    tokens.chmod(0o600)
    path = config(short, f'[http]\nread_tokens_file = "{tokens}"\n')
    with running_agent(sys.executable, "--config", str(path)) as agent:
        options = ("agent", "configuration", "--config", str(path))
        without = doctor_for(agent, *options)
        value = doctor_for(agent, *options, KAYWATCH_TOKEN_FILE=str(tokens))

    assert without.status("HTTP requires a token") == "ok"
    assert without.status("/health only", "KAYWATCH_TOKEN_FILE") == "problem"
    assert value.problems == []
    tokens.unlink()
    missing = doctor("configuration", "--config", str(path))
    assert missing.status("http.read_tokens_file", "docs/security.md") == "problem"


def test_an_agent_with_a_self_signed_certificate(short: Path) -> None:
    own = certificate(short)
    text = f"[http]\ntls_certificate_file = '{own.certificate}'\n"
    path = config(short, f"{text}tls_key_file = '{own.key}'\n")
    with running_agent(sys.executable, "--config", str(path)) as agent:
        options = ("agent", "--config", str(path), "--url", agent.url)
        strange = doctor(*options)
        trusting = doctor(*options, SSL_CERT_FILE=str(own.certificate))

    assert agent.url.startswith("https://")
    assert strange.status("is not trusted here", "SSL_CERT_FILE") == "problem"
    # One day, minus the seconds since the certificate was created.
    assert strange.status("the certificate of", "expires in") == "warning"
    assert trusting.status("answers at", agent.url) == "ok"


def test_an_agent_with_http_on_a_unix_socket_is_found(
    short: Path,
) -> None:
    path = config(short, f'[http]\nlisten = "unix:{short}/http"\n')
    options = ("--config", str(path), "--http", f"unix:{short}/http")
    with running_agent(sys.executable, *options) as agent:
        report = doctor("agent", "configuration", "--config", str(path))

    assert agent.url == f"unix:{short}/http"
    assert report.status("answers at", agent.url) == "ok"
    assert report.status("HTTP is open to users who can open") == "ok"


# -- peers and clocks ------------------------------------------------------------------


@as_root
def test_hidepid_is_reported(short: Path) -> None:
    (short / "n").mkdir()
    os.chown(short / "n", NOBODY, NOBODY)
    hide = 'mount -t proc -o hidepid=invisible proc /proc && exec "$@"'
    agent = subprocess.Popen(
        [
            *("unshare", "--mount", "sh", "-c", hide, "sh"),
            *(sys.executable, "-c", AS_NOBODY, "serve", "--store", ":memory:"),
            *("--socket", f"{short}/n/s", "--http", "127.0.0.1:0"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert agent.stderr is not None
    with kill_at_end(agent):
        serving = next((line for line in agent.stderr if '"serving"' in line), None)
        if serving is None:
            pytest.skip("unshare or mount is not permitted, such as in a container")
        url = json.loads(serving)["http"]
        report = doctor("processes", "--socket", f"{short}/n/s", "--url", url)

    assert report.status("processes of other users", "hidepid=invisible") == "warning"
    assert report.status(f"the agent is process {agent.pid} of nobody") == "ok"


# An agent that is process 1 of a pid namespace, as in a container, and its commands.
CONTAINER = 'mount -t proc proc /proc && exec "$@"'
PUSHES = """
import kaywatch, sys
with kaywatch.execution("g", "n"): pass
assert kaywatch.flush(10)
print("pushed", flush=True)
input()
"""


def in_container(host: str, *command: str) -> list[str]:
    """Return a command in namespaces of its own, with a host name of its own."""
    name = f"hostname {host} && {CONTAINER}"
    unshare = ("unshare", "--pid", "--mount", "--uts", "--fork", "--kill-child")
    return [*unshare, "sh", "-c", name, "sh", *command]


@as_root
def test_a_client_in_another_pid_namespace_is_reported(short: Path) -> None:
    """What it records is counted; its process is not known."""
    endpoint = {"KAYWATCH_ENDPOINT": f"unix://{short}/s"}
    agent = subprocess.Popen(
        in_container(
            "agent",
            *(
                sys.executable,
                "-m",
                "kaywatch_agent",
                "serve",
                "--socket",
                f"{short}/s",
            ),
            *("--store", f"{short}/kaywatch.db", "--http", "127.0.0.1:0"),
        ),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert agent.stderr is not None
    with kill_at_end(agent):
        serving = next((line for line in agent.stderr if '"serving"' in line), None)
        if serving is None:
            pytest.skip("unshare is not permitted, such as in a container")
        url = json.loads(serving)["http"]
        client = subprocess.Popen(
            in_container("shop", sys.executable, "-c", PUSHES),
            env={**os.environ, **endpoint, "KAYWATCH_SERVICE": "shop"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert client.stdout is not None
        with kill_at_end(client):
            assert client.stdout.readline() == "pushed\n"
            (child,) = (
                Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
            )
            enter = ["nsenter", "--target", child, "--pid", "--mount", "--uts"]

            def check() -> Report:
                done = subprocess.run(
                    [*enter, sys.executable, "-m", "kaywatch_agent", "doctor"]
                    + ["processes", "store", "--json", "--url", url],
                    capture_output=True,
                    text=True,
                )
                return Report(done.returncode, done.stdout)

            report = until(
                lambda: (each := check()).problems and each, "the client is judged"
            )
    words = ("1 of 1 clients are in another pid namespace", "(shop)", "--pid=host")
    assert report.status("processes", *words) == "problem"
    assert report.status("the agent is process 1") == "ok"
    # The store of process 1, which only its command line names.
    assert report.status("store", "free on the disk of", f"{short}/kaywatch.db") == "ok"


def test_names_made_per_request_are_shown_with_their_source(agent: Agent) -> None:
    code = """
import kaywatch, logging, sys, uuid
logging.basicConfig(stream=sys.stdout)
for _ in range(9):
    with kaywatch.execution("Checkout", f"Sub_{uuid.uuid4()}"): pass
print(kaywatch.flush(10))
"""
    logged = agent.run(code, KAYWATCH_SERVICE="shop")
    assert logged.count("'Sub_*'") == 1
    assert agent.executions() == {"Sub_*": 9}

    source = "service shop, graph Checkout: Sub_* stands for many nodes"
    result = doctor_for(agent, "agent").result(source, "kaywatch.name(")
    assert result["status"] == "warning"
    status = agent.command("status")
    assert source in status
    assert "kaywatch.name(" in status


@pytest.mark.parametrize(
    ("ahead", "words", "status", "counted"),
    [
        (-7200.0, ("2h behind", "in no bucket"), "problem", 0),
        (-60.0, ("behind", "in the wrong buckets"), "warning", 1),
        # The agent limits times to its own.
        (7200.0, ("2h ahead of", "counted when they arrive"), "warning", 1),
    ],
)
def test_a_client_with_a_wrong_clock_is_judged_as_the_agent_treats_it(
    agent: Agent, ahead: float, words: tuple[str, str], status: str, counted: int
) -> None:
    client, now = secrets.token_bytes(16), time.time()
    hello = wire.hello(
        client=client,
        service="adrift",
        host=socket.gethostname(),
        pid=os.getpid(),
        start=now,
        sdk="kaywatch-python/0.0.1",
        tags={},
    )
    event = {"graph": "g", "node": "n", "seconds": 0.1, "time": now + ahead}
    batch = wire.batch(
        client=client,
        seq=1,
        sent=now + ahead,
        service="adrift",
        recorded=1,
        sections={"events": [event]},
    )
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(agent.socket)
        link.sendall(wire.frame(hello) + wire.frame(batch))
        until(lambda: agent.clients() and agent.clients()[0]["events"], "it is taken")
        # The next tick counts it.
        until(lambda: "n" in agent.executions(), "it is counted")
        report = doctor_for(agent, "clock", "agent")

    result = report.result("adrift", f"pid {os.getpid()}", *words)
    assert result["status"] == status
    assert agent.node("n", window="5m")["total_executions"] == counted
    assert report.status("clients of other versions: kaywatch-python/0.0.1")


# -- the machine -----------------------------------------------------------------------


@contextmanager
def small_group(megabytes: int) -> Iterator[Path]:
    """Create a control group with a memory limit, of either version.

    Raises:
        OSError: control groups cannot be created here.
    """
    top = Path("/sys/fs/cgroup")
    first = top / "memory"
    name = f"kaywatch-test-{os.getpid()}"
    group = (first if first.is_dir() else top) / name
    group.mkdir()
    try:
        limit = "memory.limit_in_bytes" if first.is_dir() else "memory.max"
        (group / limit).write_text(str(megabytes * 2**20))
        yield group
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), "it is empty")
        group.rmdir()


@as_root
def test_the_memory_limit_of_a_control_group_is_shown(short: Path) -> None:
    listen = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]);"
        "s.listen(); print('listens', flush=True); sys.stdin.read()"
    )
    enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
    try:
        with small_group(32) as group:
            path = str(short / "s")
            process = subprocess.Popen(
                ["sh", "-c", enter, str(group), sys.executable, "-c", listen, path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            with kill_at_end(process):
                assert process.stdout is not None
                assert process.stdout.readline() == "listens\n"
                report = doctor("host", "--socket", path)
    except OSError as error:
        pytest.skip(f"cannot create a control group: {error}")

    assert report.status(f"of 32.0 MiB of {group.name} are used")
    assert report.status("open files are allowed")


# -- the store -------------------------------------------------------------------------


@as_root
def test_a_full_disk_is_a_problem(short: Path) -> None:
    try:
        with small_disk(short / "disk", 16) as disk:
            report = doctor("store", "--store", str(disk / "kaywatch.db"))
    except OSError as error:
        pytest.skip(f"no small disk: {error}")

    assert report.status("16.0 MiB free", "free space") == "problem"


def test_a_damaged_store_is_reported_and_not_changed(agent: Agent) -> None:
    agent.run(WORKS.replace("sys.stdin.read()", ""))
    agent.stop()
    store = Path(agent.store)
    good = doctor_for(agent, "store")
    data = bytearray(store.read_bytes())
    for page in range(4096, len(data), 4096):
        data[page : page + 64] = b"\xff" * 64
    store.write_bytes(data)
    before = sorted(agent.folder.iterdir()), store.stat().st_mtime_ns
    bad = doctor_for(agent, "store")

    assert good.status("not damaged") == "ok"
    assert good.status("the last commit was") == "ok"
    assert bad.status("is damaged", "renames it") == "problem"
    assert (sorted(agent.folder.iterdir()), store.stat().st_mtime_ns) == before


def test_a_database_of_another_program_is_a_problem(short: Path) -> None:
    import sqlite3

    with sqlite3.connect(short / "x.db") as db:
        db.execute("CREATE TABLE t (x)")
    db.close()
    report = doctor("store", "--store", str(short / "x.db"))

    assert report.status("a database of another program") == "problem"


# -- configuration and receivers -------------------------------------------------------

RECEIVER = """
[receiver.ops]
type = "webhook"
url = "{url}/hook"
"""


def config(folder: Path, text: str) -> Path:
    path = folder / "kaywatch.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_all_errors_of_the_configuration_are_shown(short: Path) -> None:
    rules = '[[rule]]\nname = "a"\nmetric = "x"\n[[rule]]\nname = "b"\nmetric = "y"\n'
    report = doctor("configuration", "--config", str(config(short, rules)))

    assert report.code == 1
    assert report.status("rule[0].metric") == "problem"
    assert report.status("rule[1].metric") == "problem"


def test_risky_settings_are_warnings(short: Path) -> None:
    text = RECEIVER.format(url="http://127.0.0.1:1") + (
        '[receiver.spare]\ntype = "webhook"\nurl_env = "X"\n'
        '[alerting]\ndefault_notify = ["ops"]\n'
        '[[rule]]\nname = "mute"\nwhen = "error_rate > 0.5"\nnotify = []\n'
    )
    path = config(short, text)
    os.chmod(path, 0o644)
    report = doctor("configuration", "--config", str(path))

    assert report.status("receiver.ops.url: the configuration file") == "warning"
    assert report.status("every user can read it", "chmod o-r") == "problem"
    assert report.status("rules that notify no receiver: mute") == "warning"
    assert report.status("receiver.spare: no rule notifies it") == "warning"


def test_receivers_are_connected_to_without_sending(short: Path) -> None:
    with run_receivers() as fakes:
        text = RECEIVER.format(url=fakes.url) + (
            f'[receiver.shut]\ntype = "webhook"\nurl = "http://127.0.0.1:{free_port()}"\n'
            '[receiver.lost]\ntype = "webhook"\nurl = "http://kaywatch.invalid/x"\n'
            '[receiver.link]\ntype = "webhook"\nurl = "http://169.254.169.254/x"\n'
            '[receiver.file]\ntype = "webhook"\nurl_file = "/nowhere/url"\n'
            f'[receiver.am]\ntype = "alertmanager"\nurls = ["{fakes.url}"]\n'
            f'[receiver.mail]\ntype = "email"\nhost = "127.0.0.1"\n'
            f"port = {urlsplit(fakes.url).port}\n"
            'from = "a@example.org"\nto = ["b@example.org"]\n'
            f'[heartbeat]\nurl = "{fakes.url}/ping"\n'
        )
        report = doctor("receivers", "--config", str(config(short, text)))

    assert report.status("receiver.ops", "nothing was sent") == "ok"
    assert report.status("heartbeat", "nothing was sent") == "ok"
    assert report.status("receiver.am", "is ready") == "ok"
    assert report.status("receiver.mail (127.0.0.1:", "nothing was sent") == "ok"
    assert report.status("receiver.mail", "no encryption by STARTTLS") == "problem"
    assert report.status("receiver.shut", "connection refused") == "problem"
    assert report.status("receiver.lost", "name cannot be resolved") == "problem"
    assert report.status("receiver.link", "cannot connect", "not allowed")
    assert report.status("receiver.file.url_file") == "problem"
    assert [request.path for request in fakes.requests] == ["/-/ready"]


@contextmanager
def serve_tls(expires: dt.timedelta) -> Iterator[tuple[str, trustme.CA]]:
    """Serve TLS with a certificate; yield the URL and the authority."""
    now = dt.datetime.now(dt.UTC)
    authority = trustme.CA()
    leaf = authority.issue_cert(
        "127.0.0.1", not_before=now - dt.timedelta(90), not_after=now + expires
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    link, _ = listening.accept()
                    with context.wrap_socket(link, server_side=True) as secure:
                        secure.recv(1)
                except (OSError, ssl.SSLError):
                    if listening.fileno() < 0 or stopping.is_set():
                        return

        stopping = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"https://127.0.0.1:{listening.getsockname()[1]}", authority
        stopping.set()
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    ("days", "status", "words"),
    [
        (-1, "problem", "certificate has expired"),
        (5, "warning", "expires in 4d 23h"),
        (80, "ok", "is valid for 79d 23h"),
    ],
)
def test_the_certificate_of_a_receiver_is_checked(
    short: Path, days: int, status: str, words: str
) -> None:
    # How long the check takes has no effect.
    with serve_tls(dt.timedelta(days, minutes=-30)) as (url, authority):
        authority.cert_pem.write_to_path(str(short / "ca.pem"))
        path = config(short, RECEIVER.format(url=url))
        trusting = {"SSL_CERT_FILE": str(short / "ca.pem")}
        report = doctor("receivers", "--config", str(path), **trusting)
        strange = doctor("receivers", "--config", str(path))

    assert report.status("its certificate", words) == status
    assert strange.status("is not trusted", "SSL_CERT_FILE") == "problem"


MAIL = (
    '[receiver.mail]\ntype = "email"\nhost = "{host}"\nport = {port}\n'
    'from = "a@example.org"\nto = ["b@example.org"]\nca = "{ca}"\n'
)


def check_mail(folder: Path, port: int, ca: Path, host: str = "127.0.0.1") -> Report:
    text = MAIL.format(host=host, port=port, ca=ca)
    return doctor("receivers", "--config", str(config(folder, text)))


@pytest.mark.parametrize(
    ("days", "status", "words"),
    [
        (-1, "problem", "certificate has expired"),
        (5, "warning", "expires in 4d 23h"),
        (80, "ok", "is valid for 79d 23h"),
    ],
)
def test_the_certificate_of_a_mail_server_is_checked_after_starttls(
    short: Path, days: int, status: str, words: str
) -> None:
    now = dt.datetime.now(dt.UTC)
    authority, other = trustme.CA(), trustme.CA()
    leaf = authority.issue_cert(
        *("127.0.0.1", "localhost"),
        not_before=now - dt.timedelta(90),
        # Half an hour less than days: how long the check takes has no effect.
        not_after=now + dt.timedelta(days, minutes=-30),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    for name, each in (("ca.pem", authority), ("other.pem", other)):
        each.cert_pem.write_to_path(str(short / name))
    with run_mail_server(starttls=context) as server:
        report = check_mail(short, server.port, short / "ca.pem")
        strange = check_mail(short, server.port, short / "other.pem")

    assert report.status("receiver.mail", "nothing was sent") == "ok"
    assert report.status("its certificate after STARTTLS", words) == status
    assert strange.status("after STARTTLS is not trusted") == "problem"
    assert server.mails == []


def test_a_mail_server_without_starttls_is_a_problem(short: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(short / "ca.pem"))
    with run_mail_server() as server:
        report = check_mail(short, server.port, short / "ca.pem")
    assert report.status("does not offer STARTTLS", 'tls = "tls"') == "problem"


def test_the_table_of_checks_has_all_sections_in_order() -> None:
    checks = [check for checks in CHECKS.values() for check in checks]

    assert tuple(CHECKS) == SECTIONS
    assert len(set(checks)) == len(checks)


def test_a_check_that_hangs_is_abandoned(short: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        path = config(short, RECEIVER.format(url=url))
        context = gather(Options(config=str(path), url="http://127.0.0.1:1"))
        ((section, results),) = run_checks(context, ("receivers",), seconds=0.2)

    assert section == "receivers"
    assert [r.status for r in results] == [CheckStatus.UNCHECKED]
    assert "no result in 0.2 s" in results[0].fix


# -- brokers ---------------------------------------------------------------------------


def test_brokers_and_their_sessions_are_checked(short: Path) -> None:
    with run_broker("mosquitto-tls") as broker:
        access = broker.access(AGENT)
        path = config(short, settings(access))
        with agent_at(broker) as agent:
            until(lambda: is_listening(agent), "there is a session")
            well = doctor_for(agent, "brokers", "agent", "--config", str(path))
            applications = doctor(
                "application", **{k: v for k, v in variables(access).items() if v}
            )
            strange = re.sub(r"\nca = .*", "", path.read_text())
            untrusted = doctor("brokers", "--config", str(config(short, strange)))
            config(short, settings(access))
            broker.stop()
            until(lambda: not is_listening(agent), "the agent has noticed")
            stopped = doctor_for(agent, "brokers", "--config", str(path))

    label = f"{HOST}:{access.port}/kaywatch"
    assert well.status(f"{label}: connected") == "ok"
    assert well.status("mqtts://", "can be connected to; nothing was sent") == "ok"
    assert well.status("mqtts://", "its certificate is valid for") == "ok"
    assert applications.status("KAYWATCH_ENDPOINT", "can be connected to") == "ok"
    assert stopped.status(f"brokers: {label}", "docs/mqtt.md") == "problem"
    assert stopped.status("mqtts://", "connection refused") == "problem"
    assert untrusted.status("mqtts://", "is not trusted") == "problem"


# -- an application's environment ------------------------------------------------------


def test_the_environment_of_an_application_is_checked(short: Path) -> None:
    report = doctor(
        "application",
        KAYGRAPH_COLLECT_METRICS="false",
        KAYWATCH_ENDPOINT=f"unix://{short}/none",
        KAYWATCH_TAGS="zone",
        KAYWATCH_PRICES=str(short / "prices.toml"),
    )

    assert report.status("KAYGRAPH_COLLECT_METRICS=false") == "warning"
    assert report.status("KAYWATCH_ENDPOINT", "no such file") == "problem"
    assert report.status("KAYWATCH_TAGS: zone is ignored") == "warning"
    assert report.status("KAYWATCH_PRICES", "no such file") == "problem"
    assert report.status("pocketflow 0.0.3") == "ok"

"""The agent under a real systemd: its life, its watchdog, its sockets."""

from __future__ import annotations

import json
import re

import pytest
from tests.agents import until
from tests.systemd.service import (
    CLIENT,
    CONNECTOR,
    HELD,
    KAYWATCH,
    PYTHON,
    UNIT,
    Service,
)

pytestmark = pytest.mark.timeout(180)

# Blocks the loop permanently at SIGUSR2, as a bug would.
BLOCKABLE = (
    "import signal, time\n"
    "signal.signal(signal.SIGUSR2, lambda *_: time.sleep(1e6))\n"
    "from kaywatch_agent.__main__ import main\n"
    "main()\n"
)


def test_it_is_enabled_started_and_stopped_and_reports_its_status(
    service: Service,
) -> None:
    box = service.box
    box.run("systemctl", "enable", "--now", "kaywatch.socket", UNIT)

    # Started means serving: nothing is waited for.
    health = service.get("/health")
    assert health["status"] == "healthy"
    # It can push to its own socket.
    until(lambda: service.get("/health")["stages"]["ingest"]["ready"], "it is tried")
    assert service.get("/health")["stages"]["ingest"]["status"] == "healthy"
    assert box.run("systemctl", "is-enabled", UNIT).strip() == "enabled"
    child = service.spawn(CLIENT)
    until(lambda: " 1 clients, 0 alerts firing" in service.status, "a client is shown")
    until(lambda: not service.status.startswith("0 events/s"), "events are shown")
    service.end(child)

    box.run("systemctl", "stop", "kaywatch.socket", UNIT)
    properties = service.show("Result", "ActiveState", "ExecMainStatus", "StatusText")
    assert properties["Result"] == "success" and properties["ExecMainStatus"] == "0"
    assert service.journal(KAYWATCH_EVENT="stopped")
    box.run("systemctl", "disable", "kaywatch.socket", UNIT)


def test_a_connection_starts_it_and_its_events_are_counted(service: Service) -> None:
    service.box.run("systemctl", "start", "kaywatch.socket")
    assert service.show("ActiveState")["ActiveState"] == "inactive"

    recorded = int(service.end(service.spawn(CLIENT, user="app", group="kaywatch")))

    assert service.serving()
    assert service.executions() == recorded > 0
    (entry,) = service.journal(KAYWATCH_EVENT="serving")
    assert entry["KAYWATCH_HELD_BY_SYSTEMD"] == "ingest"


def test_systemd_can_listen_for_http_as_well(service: Service) -> None:
    box = service.box
    box.run(KAYWATCH, "service", "install", "--http-socket")
    box.run("systemctl", "start", "kaywatch.socket", "kaywatch-http.socket")
    assert service.show("ActiveState")["ActiveState"] == "inactive"

    # The request waits in the socket while the agent starts.
    assert service.get("/health")["status"] == "healthy"
    (entry,) = service.journal(KAYWATCH_EVENT="serving")
    assert entry["KAYWATCH_HELD_BY_SYSTEMD"] == "http,ingest"
    assert "up to date" in box.run(KAYWATCH, "service", "status")

    box.run("systemctl", "stop", "kaywatch-http.socket", "kaywatch.socket", UNIT)
    box.run("rm", "/etc/systemd/system/kaywatch-http.socket")
    box.run(KAYWATCH, "service", "install")


@pytest.mark.parametrize(
    "how", ["blocked", pytest.param("stopped", marks=pytest.mark.long)]
)
def test_an_agent_that_hangs_is_killed_and_restarted(
    service: Service, how: str
) -> None:
    service.box.write("/opt/blockable.py", BLOCKABLE)
    service.drop_in(
        "[Service]\nWatchdogSec=3s\nRestartSec=100ms\n"
        f"ExecStart=\nExecStart={PYTHON} /opt/blockable.py serve\n"
    )
    service.start()
    child = service.spawn(CLIENT)
    until(lambda: service.executions() > 0, "events are counted")
    hung = service.pid
    for _ in range(2):
        fed = service.show("WatchdogTimestampMonotonic")
        until(lambda: service.show(*fed) != fed, "a tick feeds the watchdog")  # noqa: B023

    service.box.run("kill", "-STOP" if how == "stopped" else "-USR2", str(hung))

    until(lambda: service.serving() and service.pid not in (0, hung), "it is back")
    assert service.show("NRestarts")["NRestarts"] == "1"
    output = service.log("-o", "cat")
    assert "Watchdog timeout" in output
    if how == "blocked":
        # Where it hung.
        assert "Fatal Python error: Aborted" in output
        assert 'File "/opt/blockable.py", line 2 in <lambda>' in output
    assert int(service.end(child)) == service.executions()


def test_an_invalid_configuration_prevents_the_start(
    service: Service,
) -> None:
    service.drop_in("[Service]\nRestartSec=500ms\n")
    service.configure("[http]\nlisten = 3\n")
    service.box.run("systemctl", "start", "kaywatch.socket")
    service.box.run("systemctl", "start", UNIT, code=1)

    result = service.log("-p", "err", "-o", "cat")
    assert "kaywatch.toml: http.listen: expected a string, got 3" in result

    # Clients wait meanwhile; correcting the file is enough.
    child = service.spawn(CLIENT)
    service.configure("")
    until(lambda: service.show("ActiveState")["ActiveState"] == "active", "it starts")
    assert int(service.end(child)) == service.executions() > 0


def test_a_reload_under_load_loses_nothing_and_an_invalid_file_is_rejected(
    service: Service,
) -> None:
    service.configure("[limits]\nseries = 5000\n")
    service.start()
    children = [service.spawn(CLIENT) for _ in range(3)]
    pid = service.pid

    for number in range(5):
        service.configure(f"[limits]\nseries = {6000 + number}\n")
        service.box.run("systemctl", "reload", UNIT)
    until(
        lambda: len(service.journal(KAYWATCH_EVENT="configuration reloaded")) == 5,
        "five reloads",
    )
    service.configure("[limits]\nserie = 3\n")
    service.box.run("systemctl", "reload", UNIT, code=1)
    assert "did you mean series?" in service.log()
    # Past `kaywatch check`: the agent rejects the file, and reports it in its status.
    service.box.run("systemctl", "kill", "--signal=HUP", UNIT)
    until(lambda: "configuration not reloaded: " in service.status, "it is output")

    assert service.serving() and service.pid == pid
    recorded = sum(int(service.end(child)) for child in children)
    assert service.executions() == recorded
    service.configure("")
    service.box.run("systemctl", "reload", UNIT)
    until(lambda: "configuration not" not in service.status, "all is well again")


def test_connections_succeed_and_totals_are_exact_over_restarts_under_load(
    service: Service,
) -> None:
    service.drop_in("[Service]\nRestartSec=100ms\n")
    service.start()
    clients = [service.spawn(CLIENT, user="app", group="kaywatch") for _ in range(3)]
    connector = service.spawn(CONNECTOR, user="app", group="kaywatch")

    pids = {service.pid}
    for _ in range(2):
        service.box.run("systemctl", "restart", UNIT)
        pids.add(service.pid)
    service.box.run("systemctl", "kill", "--signal=KILL", UNIT)
    until(lambda: service.serving() and service.pid not in pids, "it is back")

    assert len(pids) == 3
    tried, failed = service.end(connector).split(" ", 1)
    assert (failed, int(tried) > 200) == ("[]\n", True)
    recorded = [int(service.end(client)) for client in clients]
    assert service.executions() == sum(recorded)
    socket = service.box.run("stat", "-c", "%A %U %G", "/run/kaywatch/ingest.sock")
    assert socket.split() == ["srw-rw----", "root", "kaywatch"]


def test_the_stop_waits_for_a_slow_last_commit(service: Service) -> None:
    service.drop_in(
        "[Service]\nTimeoutStopSec=2s\n"
        f"ExecStart=\nExecStart={PYTHON} /opt/slow.py serve\n"
    )
    service.box.write(
        "/opt/slow.py",
        "import os, time\n"
        "from kaywatch_agent.store.store import Store\n"
        "commit = Store.commit\n"
        "def slow(self, change):\n"
        "    if os.path.exists('/etc/kaywatch/slow'):\n"
        "        print('a slow commit', flush=True)\n"
        "        time.sleep(4)\n"
        "    return commit(self, change)\n"
        "Store.commit = slow\n"
        "from kaywatch_agent.__main__ import main\n"
        "main()\n",
    )
    service.start()
    service.box.write("/etc/kaywatch/slow", "")
    child = service.spawn(CLIENT)
    until(lambda: "a slow commit" in service.log(), "the disk is slow")

    service.box.run("systemctl", "stop", "kaywatch.socket", UNIT)

    properties = service.show("Result", "ExecMainStatus")
    assert properties == {"Result": "success", "ExecMainStatus": "0"}
    service.box.run("rm", "/etc/kaywatch/slow")
    service.start()
    assert int(service.end(child)) == service.executions()


def test_the_store_survives_a_change_of_the_user_id(service: Service) -> None:
    service.start()
    recorded = int(service.end(service.spawn(CLIENT)))
    before = service.show("UID")["UID"]
    service.box.run("systemctl", "stop", "kaywatch.socket", UNIT)

    # The number is taken meanwhile, by a user of the machine's own.
    service.box.run("useradd", "--uid", before, "--no-create-home", "newcomer")
    try:
        service.box.run(KAYWATCH, "service", "install")
        service.start()

        assert service.show("UID")["UID"] != before
        assert service.executions() == recorded
        recorded += int(service.end(service.spawn(CLIENT)))
        assert service.executions() == recorded
        owner = service.box.run("stat", "-c", "%u", "/var/lib/private/kaywatch")
        assert owner.strip() == service.show("UID")["UID"]
    finally:
        service.box.run("systemctl", "stop", "kaywatch.socket", UNIT)
        service.box.run("userdel", "newcomer")


def test_with_hidden_processes_only_memory_and_cpu_are_missing(
    service: Service,
) -> None:
    service.drop_in("[Service]\nProtectProc=invisible\n")
    service.start()
    child = service.spawn(HELD, user="app", group="kaywatch")
    ticks = service.show("WatchdogTimestampMonotonic")
    until(lambda: service.show(*ticks) != ticks, "a tick, which would sample it")

    (client,) = service.get("/api/v1/clients")["clients"]
    assert (client["state"], client["memory_mb"]) == ("connected", None)
    service.box.run("kill", "-KILL", str(client["pid"]))
    until(
        lambda: service.get("/api/v1/clients")["clients"][0]["state"] == "died",
        "its death is noticed",
    )
    child.communicate()


def test_a_credential_is_read_by_its_name(service: Service) -> None:
    receiver = (
        "import http.server\n"
        "class Hook(http.server.BaseHTTPRequestHandler):\n"
        "    def do_POST(self):\n"
        "        self.rfile.read(int(self.headers['Content-Length']))\n"
        "        self.send_response(200); self.end_headers()\n"
        "        print('path', self.path, flush=True)\n"
        "    def log_message(self, *_): pass\n"
        "server = http.server.HTTPServer(('127.0.0.1', 8099), Hook)\n"
        "print('began', flush=True)\n"
        "for _ in range(2): server.handle_request()\n"  # it fires, and it ends
    )
    service.configure('[receiver.ops]\ntype = "webhook"\nurl_credential = "ops"\n')
    service.box.write(
        "/etc/kaywatch/credentials/ops", "http://127.0.0.1:8099/s3cret\n", 0o600
    )
    service.start()
    hook = service.spawn(receiver)

    service.box.run(KAYWATCH, "notify", "test", "ops")

    assert service.end(hook) == "path /s3cret\n" * 2
    for unseen in ("/etc/kaywatch/credentials/ops", "credentials/kaywatch.service"):
        assert unseen not in service.box.run("cat", f"/proc/{service.pid}/cmdline")
    assert "s3cret" not in service.log("-o", "json")


def test_status_shows_problems(service: Service) -> None:
    output = service.box.run(KAYWATCH, "service", "status", code=1)
    assert "kaywatch.service: inactive (dead)" in output

    service.start()
    output = service.box.run(KAYWATCH, "service", "status")
    assert "/etc/systemd/system/kaywatch.service: up to date" in output
    assert "kaywatch.service: active (running)" in output
    assert re.search(r"exposure: 1\.[0-5] OK", output)
    document = json.loads(service.box.run(KAYWATCH, "service", "status", "--json"))
    assert document["sockets"] == {"kaywatch.socket": "active"}

    service.box.run("sh", "-c", "echo '# x' >>/etc/systemd/system/kaywatch.service")
    service.drop_in("[Service]\nMemoryMax=2G\n")
    output = service.box.run(KAYWATCH, "service", "status", code=1)
    assert "kaywatch.service: differs; update it with `kaywatch" in output
    assert "/run/systemd/system/kaywatch.service.d/test.conf: a drop-in" in output
    assert service.box.run(KAYWATCH, "service", "install").startswith("wrote /etc/")


def test_install_and_uninstall_keep_data_and_foreign_units(
    service: Service,
) -> None:
    box = service.box
    unit = "/etc/systemd/system/kaywatch.service"
    service.start()
    recorded = int(service.end(service.spawn(CLIENT)))
    before = box.run("cat", unit)

    output = box.run(KAYWATCH, "service", "uninstall")
    assert f"removed {unit}" in output
    assert box.run("systemctl", "is-active", UNIT, code=3).strip() == "inactive"
    assert "no kaywatch.service in" in box.run(KAYWATCH, "service", "status", code=1)
    box.write(unit, "[Service]\nExecStart=/bin/true\n")
    assert "was not written by kaywatch" in box.run(
        KAYWATCH, "service", "install", code=1
    )
    box.run("rm", unit)

    output = box.run(KAYWATCH, "service", "install", "--now")
    assert "enabled and started kaywatch.socket, kaywatch.service" in output
    assert box.run("cat", unit) == before
    assert service.executions() == recorded
    again = box.run(KAYWATCH, "service", "install")
    assert "wrote" not in again
    box.run("systemctl", "disable", "kaywatch.socket", UNIT)


def test_install_needs_root_and_a_path_that_services_can_read(service: Service) -> None:
    box = service.box
    as_app = ("setpriv", "--reuid=app", "--regid=app", "--clear-groups")
    output = box.run(*as_app, KAYWATCH, "service", "install", code=1)
    assert "this needs root: use sudo, or --user" in output

    box.run("mkdir", "/home/venv")
    box.run("cp", "-a", "/opt/kaywatch/.", "/home/venv")
    moved = ("/home/venv/bin/python", "-m", "kaywatch_agent", "service", "install")
    output = box.run(*moved, code=1)
    assert "/home/venv/bin/kaywatch is hidden from the service (ProtectHome=" in output
    assert "Traceback" not in output
    box.run("rm", "-rf", "/home/venv")

    box.run("chmod", "o-x", "/opt/kaywatch")
    output = box.run(KAYWATCH, "service", "install", code=1)
    assert "chmod o+rX /opt/kaywatch" in output
    box.run("chmod", "o+x", "/opt/kaywatch")

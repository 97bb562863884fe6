"""The agent as a service that has started: its environment, its peers, its log."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.agents import until
from tests.systemd.conftest import fresh
from tests.systemd.service import HELD, Service

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def service(installed_units: Service) -> Iterator[Service]:
    """A service that all tests of this module share: a start takes seconds."""
    with fresh(installed_units) as service:
        yield service.start()


def test_children_do_not_inherit_the_sockets_of_systemd(service: Service) -> None:
    words = service.box.run("cat", f"/proc/{service.pid}/environ")
    code = (
        "import os; from kaywatch_agent.runtime import systemd as s;"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='0',"
        " NOTIFY_SOCKET='/run/systemd/notify', WATCHDOG_USEC='1', WATCHDOG_PID='1');"
        "s.Notifier.take(); s.inherited_sockets();"
        "print([k for k in os.environ if k[:6] in ('LISTEN', 'NOTIFY', 'WATCHD')])"
    )

    assert "NOTIFY_SOCKET" in words and "LISTEN_FDNAMES=ingest" in words
    assert service.python(code) == "[]\n"


def test_processes_of_other_users_are_visible(service: Service) -> None:
    """SO_PEERCRED, pidfd_open and /proc work from within the sandbox."""
    child = service.spawn(HELD, user="app", group="kaywatch")

    (client,) = until(
        lambda: [
            c for c in service.get("/api/v1/clients")["clients"] if c["memory_mb"]
        ],
        "its memory is read",
    )
    uid = service.box.run("stat", "-c", "%U", f"/proc/{client['pid']}").strip()
    assert (client["service"], uid) == ("held", "app")
    assert client["memory_mb"] > 100
    service.box.run("kill", "-KILL", str(client["pid"]))

    until(
        lambda: service.get("/api/v1/clients")["clients"][0]["state"] == "died",
        "its death is noticed",
    )
    child.communicate()


def test_users_outside_the_group_cannot_push(service: Service) -> None:
    code = (
        "import socket\n"
        "try: socket.socket(socket.AF_UNIX).connect('/run/kaywatch/ingest.sock')\n"
        "except OSError as error: print(error.strerror)"
    )

    assert service.python(code, user="stranger") == "Permission denied\n"
    assert service.python(code, user="app", group="kaywatch") == ""


def test_the_agent_logs_to_the_journal_and_not_twice(service: Service) -> None:
    until(lambda: service.journal(KAYWATCH_EVENT="serving"), "it is logged")
    (entry,) = service.journal(KAYWATCH_EVENT="serving")
    assert entry["MESSAGE"].startswith("serving http=")
    assert " socket=/run/kaywatch/ingest.sock " in entry["MESSAGE"]
    assert entry["KAYWATCH_SOCKET"] == "/run/kaywatch/ingest.sock"
    plain = service.log("-o", "cat", "_TRANSPORT=stdout")
    assert "serving" not in plain

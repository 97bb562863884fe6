"""The agent as a service of a user: `systemctl --user`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.agents import until
from tests.systemd.service import KAYWATCH, PYTHON, UNIT, Service

pytestmark = pytest.mark.timeout(180)

RECORD = (
    "import kaywatch\n"
    "with kaywatch.execution('g', 'mine'): pass\n"
    "assert kaywatch.flush(30)\n"
)


class Session:
    """The session of a user who is logged in."""

    def __init__(self, service: Service, user: str) -> None:
        self._box = service.box
        self._user = user
        self.uid = service.box.run("id", "--user", user).strip()

    def run(self, *command: str, code: int = 0) -> str:
        identity = ("--reuid", self._user, "--regid", self._user, "--init-groups")
        environment = (
            f"XDG_RUNTIME_DIR=/run/user/{self.uid}",
            f"HOME=/var/home/{self._user}",
        )
        box = self._box
        return box.run("setpriv", *identity, "env", *environment, *command, code=code)


@pytest.fixture
def session(service: Service) -> Iterator[Session]:
    box = service.box
    box.run("useradd", "--create-home", "--base-dir", "/var/home", "somebody")
    session = Session(service, "somebody")
    manager = f"user@{session.uid}.service"
    box.run("systemctl", "start", manager)
    try:
        yield session
    finally:
        box.run("systemctl", "stop", manager, f"user-runtime-dir@{session.uid}.service")
        box.run("userdel", "--remove", "somebody", code=None)


def test_a_user_has_an_agent_of_their_own(session: Session) -> None:
    output = session.run(KAYWATCH, "service", "install", "--user", "--now")
    assert "enabled and started kaywatch.socket, kaywatch.service" in output

    session.run(PYTHON, "-c", RECORD)  # finds the socket in XDG_RUNTIME_DIR

    status = session.run(KAYWATCH, "stats", "mine")
    assert "1" in status
    output = session.run(KAYWATCH, "service", "status", "--user")
    assert "kaywatch.service: active (running), enabled" in output
    session.run("test", "-e", "/var/home/somebody/.local/state/kaywatch/kaywatch.db")
    show = ("systemctl", "--user", "show", "--property=StatusText", UNIT)
    until(
        lambda: " 0 alerts firing" in session.run(*show),
        "the status shows its activity",
    )

    output = session.run(KAYWATCH, "service", "uninstall", "--user")
    assert "stopped and disabled kaywatch.socket, kaywatch.service" in output
    assert "no kaywatch.service in" in session.run(
        KAYWATCH, "service", "status", "--user", code=1
    )

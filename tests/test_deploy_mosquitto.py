"""deploy/mosquitto as its README sets it up, on a real mosquitto."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.brokers import AGENT, Access, Broker, listens
from tests.servers import require

HERE = Path(__file__).parent.parent / "deploy" / "mosquitto"

# Two processes of one user, and one of another.
MINE, OURS, THEIRS = "a" * 32, "b" * 32, "c" * 32
STATE = "kaywatch/v1/alerts/rule/0123456789abcdef/state"

# As Debian has it in /etc/mosquitto/mosquitto.conf.
MAIN = """
pid_file {root}/mosquitto.pid
persistence true
persistence_location {root}/
log_dest stderr
include_dir {root}/conf.d
"""


class Deployed(Broker):
    """A mosquitto that was set up by the README, below another folder than /etc."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.plain, self.tls = self.ports.values()
        self.certified = False

    def set_up(self) -> None:
        for name in ("mosquitto", "mosquitto_pub", "mosquitto_sub", "mosquitto_passwd"):
            require(name)
        (self.folder / "conf.d").mkdir()
        (self.folder / "mosquitto.conf").write_text(MAIN.format(root=self.folder))
        readme = (HERE / "README.md").read_text()
        (recipe,) = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)
        lines = [
            line.replace("/etc/mosquitto", str(self.folder))
            for line in recipe.splitlines()
            if not line.startswith(("apt-get", "systemctl"))
            # Without root, mosquitto runs as the current user.
            and not (line.startswith("chown") and os.geteuid() != 0)
        ]
        subprocess.run(
            ["sh", "-eu", "-c", "\n".join(lines)], cwd=HERE, check=True, timeout=60
        )
        if os.geteuid() == 0:
            self.folder.chmod(0o755)
            shutil.chown(self.folder, "mosquitto")
        config = self.folder / "conf.d" / "kaywatch.conf"
        text = config.read_text().replace("/etc/mosquitto", str(self.folder))
        text = text.replace("listener 1883", f"listener {self.plain}")
        config.write_text(
            text.replace("listener 8883", f"listener {self.tls} 127.0.0.1")
        )

    def require_certificates(self) -> None:
        """Uncomment the settings for certificates."""
        config = self.folder / "conf.d" / "kaywatch.conf"
        text = config.read_text()
        for key in ("cafile", "require_certificate", "use_identity_as_username"):
            assert f"#{key} " in text
            text = text.replace(f"#{key} ", f"{key} ")
        config.write_text(text)
        for user in (AGENT, "shop"):
            script = [str(HERE / "certificates.sh"), str(self.folder / "kaywatch")]
            subprocess.run([*script, "user", user], check=True)
        self.certified = True

    def command(self) -> list[str]:
        return [require("mosquitto"), "-c", str(self.folder / "mosquitto.conf")]

    def access(self, user: str = "shop", version: int = 5) -> Access:
        files = self.folder / "kaywatch"
        ca = str(files / "ca.pem")
        if self.certified:
            mine = (str(files / f"{user}.pem"), str(files / f"{user}.key"))
            return Access(
                self.tls, "localhost", ca=ca, certificate=mine[0], key=mine[1]
            )
        password = (files / f"{user}.password").read_text().strip()
        return Access(self.tls, "localhost", user, password, ca)

    def _listens(self) -> bool:
        return listens(self.plain) and listens(self.tls)


@pytest.fixture
def deployed() -> Iterator[Deployed]:
    with tempfile.TemporaryDirectory(prefix="kwm-") as folder:
        broker = Deployed(Path(folder))
        broker.set_up()
        try:
            broker.start()
            yield broker
        finally:
            broker.stop(signal.SIGKILL)


@dataclass(frozen=True)
class Try:
    """An attempt to publish."""

    topic: str
    user: str = "shop"
    client: str = MINE
    arrives: bool = False


TRIES = [
    Try(f"kaywatch/v1/{MINE}/up", arrives=True),
    Try(f"kaywatch/v1/{MINE}/gone", arrives=True),
    Try("kaywatch/v1/shell/rows", user="shell", client="x", arrives=True),
    Try("kaywatch/v1/agent/status", user=AGENT, client="x", arrives=True),
    Try(STATE, user=AGENT, client="x", arrives=True),
    # As another process of the same user, of another user, as another user.
    Try(f"kaywatch/v1/{OURS}/up"),
    Try(f"kaywatch/v1/{THEIRS}/gone"),
    Try(f"kaywatch/v1/{THEIRS}/down"),
    Try(f"kaywatch/v1/{MINE}/down"),
    Try("kaywatch/v1/shell/rows"),
    # As the agent, also by a name that makes more levels of one.
    Try("kaywatch/v1/agent/status"),
    Try("kaywatch/v1/agent/status", client="agent"),
    Try("kaywatch/v1/agent/changes"),
    Try(STATE),
    Try(STATE, client="alerts/rule/0123456789abcdef"),
    Try(f"kaywatch/v1/{THEIRS}/up", client="#"),
    Try(f"kaywatch/v1/{MINE}/up", user=AGENT, client="x"),
    Try("kaywatch/v1/agent/status", user="automation", client="x"),
    Try("elsewhere"),
    Try("kaywatch/v1/last/rows", user="last", client="x", arrives=True),
]


def test_everybody_writes_only_as_himself(deployed: Deployed, version: int) -> None:
    passwords = deployed.folder / "kaywatch" / "passwords"
    add = ["mosquitto_passwd", "-b", str(passwords), "last", "secret"]
    subprocess.run(add, check=True, capture_output=True)
    (passwords.parent / "last.password").write_text("secret")
    # A reader that the ACL permits everything, in addition to those of the file.
    acl = passwords.parent / "acl"
    acl.write_text(acl.read_text() + "\nuser last\ntopic read #\n")
    deployed.reload()

    with deployed.subscribe("#", user="last", version=version) as everything:
        for each in TRIES:
            deployed.publish(
                each.topic, "x", "-i", each.client, user=each.user, version=version
            )
        expected = [each.topic for each in TRIES if each.arrives]
        everything.wait(len(expected))

    # The last one arrives, so what doesn't come before it doesn't come.
    assert [message.topic for message in everything.messages] == expected


@pytest.mark.parametrize("subscription", ["kaywatch/v1/+/down", "kaywatch/#", "#"])
def test_each_user_reads_only_allowed_topics(
    deployed: Deployed, version: int, subscription: str
) -> None:
    sent = {
        f"kaywatch/v1/{THEIRS}/down": "secret",
        "kaywatch/v1/agent/about": "secret",
        "kaywatch/v1/agent/changes": "secret",
        STATE: "secret",
        f"kaywatch/v1/{MINE}/down": "mine",
    }
    deployed.publish(f"kaywatch/v1/{OURS}/up", "secret", "-i", OURS)
    reading = deployed.subscribe(
        subscription, user="shop", client=MINE, version=version
    )
    with reading as read:
        for topic, payload in sent.items():
            deployed.publish(topic, payload, user=AGENT)
        read.wait()

    assert [m.topic for m in read.messages] == [f"kaywatch/v1/{MINE}/down"]


def test_only_the_agent_publishes_alerts(deployed: Deployed) -> None:
    deployed.publish(STATE, "firing", "-r", user=AGENT)

    with deployed.subscribe("kaywatch/v1/#", user="automation") as read:
        (retained,) = read.wait()
        forger = "alerts/rule"
        deployed.publish(f"kaywatch/v1/{forger}/up", "firing", "-i", forger)
        deployed.publish(STATE, "ok", user=AGENT)
        _, live = read.wait(2)

    assert (retained.retained, retained.payload) == (True, b"firing")
    assert (live.topic, live.payload) == (STATE, b"ok")


def test_a_connection_without_a_password_is_refused(deployed: Deployed) -> None:
    host = ["-h", "127.0.0.1", "-p", str(deployed.plain)]
    done = subprocess.run(
        [require("mosquitto_pub"), *host, "-t", f"kaywatch/v1/{MINE}/up", "-m", "x"],
        capture_output=True,
        text=True,
    )

    assert "not authori" in done.stderr.lower()


def test_a_certificate_is_as_good_as_a_password(deployed: Deployed) -> None:
    deployed.stop()
    deployed.require_certificates()
    if os.geteuid() == 0:
        for path in (deployed.folder / "kaywatch").iterdir():
            shutil.chown(path, "mosquitto")
    deployed.start()

    with deployed.subscribe("kaywatch/v1/+/up", user=AGENT) as read:
        deployed.publish(f"kaywatch/v1/{OURS}/up", "forged", "-i", MINE)
        deployed.publish(f"kaywatch/v1/{MINE}/up", "mine", "-i", MINE)
        (message,) = read.wait()

    assert message.payload == b"mine"

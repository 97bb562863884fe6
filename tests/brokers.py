"""Real MQTT brokers on free ports of 127.0.0.1: started, restarted, killed, stopped.

mosquitto as Debian ships it, with what its users protect it by, and as the second
implementation rumqttd, out of a wheel.
"""

from __future__ import annotations

import getpass
import importlib.util
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from tests.agents import DEADLINE, free_port, until
from tests.servers import absent, require

__all__ = [
    "AGENT",
    "CLIENT",
    "KINDS",
    "PASSWORDS",
    "Access",
    "Authority",
    "Broker",
    "READER",
    "Mosquitto",
    "Rumqttd",
    "run_broker",
]

HOST = "127.0.0.1"
ACL = Path(__file__).parent.parent / "deploy" / "mosquitto" / "acl"

# The users of brokers that know their users; the ACL names the agent and the reader.
AGENT = "kaywatch-agent"
CLIENT = "shop"
READER = "automation"
PASSWORDS = {
    AGENT: "agent secret",
    CLIENT: "shop secret",
    READER: "reader secret",
    "shell": "shell secret",
}

KINDS = (
    "mosquitto",
    "mosquitto-password",
    "mosquitto-tls",
    "mosquitto-mtls",
    "rumqttd",
)

# MQTT's own numbers of its versions 5 and 3.1.1, and mosquitto_pub's names of them.
VERSIONS = {5: "mqttv5", 4: "mqttv311"}


# What mosquitto logs when it reads its files again.
RELOADING = "Reloading config"


@dataclass(frozen=True)
class Access:
    """How one user connects to a broker; unused values are empty."""

    port: int
    host: str = HOST
    user: str = ""
    password: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""

    def url(self, prefix: str = "") -> str:
        """Return it as an endpoint, without the password."""
        scheme = "mqtts" if self.ca else "mqtt"
        user = f"{self.user}@" if self.user else ""
        path = f"/{prefix}" if prefix else ""
        return f"{scheme}://{user}{self.host}:{self.port}{path}"

    def options(self) -> list[str]:
        """Return it as options of mosquitto_pub and mosquitto_sub."""
        value = {
            "-h": self.host,
            "-p": str(self.port),
            "-u": self.user if self.password else "",
            "-P": self.password,
            "--cafile": self.ca,
            "--cert": self.certificate,
            "--key": self.key,
        }
        return [word for pair in value.items() if pair[1] for word in pair]


class Authority:
    """A CA for this test, and certificates signed by it, as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ca = trustme.CA()
        self.ca = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.ca)

    def server(self, *names: str) -> tuple[str, str]:
        """Return a server's certificate and key."""
        return self._write("server", self._ca.issue_cert(*(names or (HOST,))))

    def user(self, name: str) -> tuple[str, str]:
        """Return a certificate and key whose common name is a user's."""
        certificate = self._ca.issue_cert(f"{name}@example.org", common_name=name)
        return self._write(name, certificate)

    def _write(self, name: str, issued: trustme.LeafCert) -> tuple[str, str]:
        certificate, key = (self.folder / f"{name}.{end}" for end in ("pem", "key"))
        certificate.write_bytes(b"".join(p.bytes() for p in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return str(certificate), str(key)


class Broker(ABC):
    """One broker; `start` after `stop` is a restart, on the same ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.ports = {version: free_port() for version in VERSIONS}

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command that starts it."""

    def access(self, user: str = CLIENT, version: int = 5) -> Access:
        """Return how a user gets in with a version of MQTT."""
        return Access(self.ports[version])

    def start(self) -> Broker:
        """Start it, and wait until it listens."""
        with self.log.open("ab") as log:
            self.process = process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        until(lambda: process.poll() is not None or self._listens(), "it listens")
        assert process.poll() is None, self.log.read_text()
        return self

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal and wait for the end. Idempotent."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            process.wait(DEADLINE)

    def reload(self) -> None:
        """Let mosquitto read its passwords and ACL again, and wait until it does.

        A client that connects a moment before may never get an answer.
        """
        assert self.process is not None
        earlier = self.log.read_text().count(RELOADING)
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.log.read_text().count(RELOADING) > earlier, "it reloads")

    def _listens(self) -> bool:
        return all(listens(port) for port in self.ports.values())

    def freeze(self) -> None:
        """Let it answer nothing, with its connections open."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def publish(
        self,
        topic: str,
        payload: str | bytes,
        *options: str,
        user: str = CLIENT,
        version: int = 5,
    ) -> None:
        """Publish one message with mosquitto_pub, QoS 1."""
        done = subprocess.run(
            [
                *(require("mosquitto_pub"), *self.access(user, version).options()),
                *("-V", VERSIONS[version], "-q", "1", "-t", topic, "-s", *options),
            ],
            input=payload.encode() if isinstance(payload, str) else payload,
            capture_output=True,
            timeout=DEADLINE,
        )
        assert done.returncode == 0, done.stderr

    @contextmanager
    def subscribe(
        self, *topics: str, user: str = AGENT, client: str = "", version: int = 5
    ) -> Iterator[Subscription]:
        """Read topics with mosquitto_sub within the block."""
        options = [*self.access(user, version).options(), "-V", VERSIONS[version]]
        if client:
            options += ["-i", client]
        subscription = Subscription(self.folder, topics, options)
        try:
            yield subscription
        finally:
            subscription.close()


@dataclass(frozen=True)
class Published:
    """One message that mosquitto_sub wrote."""

    retained: bool
    topic: str
    payload: bytes


class Subscription:
    """One mosquitto_sub, and the messages it has read."""

    def __init__(
        self, folder: Path, topics: Iterable[str], options: Iterable[str]
    ) -> None:
        self._out = folder / f"subscribed-{random.randrange(2**32):08x}"
        filters = [word for topic in topics for word in ("-t", topic)]
        with self._out.open("wb") as out:
            self._process = subprocess.Popen(
                [
                    # Its output to a file is buffered in blocks of 4 KiB.
                    *("stdbuf", "-oL", require("mosquitto_sub")),
                    *(*options, "-q", "1", "-d", *filters),
                    # Hexadecimal, so that any payload is one line.
                    *("-F", "message %r %t %x"),
                ],
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            until(lambda: self._find_logged("Subscribed (mid"), "a subscription")
        except AssertionError:
            self.close()
            raise AssertionError(self._out.read_text()) from None

    @property
    def messages(self) -> list[Published]:
        """All messages so far."""
        *whole, _ = self._out.read_text().split("\n")
        result = [line.split(" ", 3) for line in whole if line.startswith("message ")]
        return [
            Published(retained == "1", topic, bytes.fromhex(payload))
            for _, retained, topic, payload in result
        ]

    def wait(self, count: int = 1) -> list[Published]:
        """Wait for a number of messages; return them."""
        until(lambda: len(self.messages) >= count, f"{count} messages")
        return self.messages

    def close(self) -> None:
        # SIGTERM would not end one that is not connected yet.
        self._process.kill()
        self._process.wait(DEADLINE)

    def _find_logged(self, text: str) -> bool:
        assert self._process.poll() is None, self._out.read_text()
        return text in self._out.read_text()


class Mosquitto(Broker):
    """Debian's mosquitto, with one listener for both versions."""

    def __init__(
        self,
        folder: Path,
        *lines: str,
        passwords: Mapping[str, str] | None = None,
        acl: Path | None = None,
        tls: bool = False,
        certificates: bool = False,
    ) -> None:
        """Write its files.

        Args:
            folder: for them, and for its data.
            lines: of its configuration, besides.
            passwords: by user; without them everybody may in.
            acl: the file with the permissions of users.
            tls: listen with TLS alone.
            certificates: ask for a certificate, whose common name is the user.
        """
        super().__init__(folder)
        self.port = self.ports[5]
        self.ports = dict.fromkeys(VERSIONS, self.port)
        self.passwords = dict(passwords or {})
        self.authority = Authority(folder) if tls or certificates else None
        self._certificates = certificates
        self._issued: dict[str, tuple[str, str]] = {}
        anonymous = "false" if passwords or certificates else "true"
        config = [
            f"listener {self.port} {HOST}",
            # Else root drops to one who may not read these files.
            f"user {getpass.getuser()}",
            f"allow_anonymous {anonymous}",
            "log_type all",
            "persistence true",
            f"persistence_location {folder}/",
            *lines,
        ]
        for user, password in self.passwords.items():
            self.set_password(user, password)
        if passwords:
            config.append(f"password_file {folder}/passwords")
        if acl is not None:
            shutil.copyfile(acl, folder / "acl")
            (folder / "acl").chmod(0o600)
            config.append(f"acl_file {folder}/acl")
        if self.authority is not None:
            certificate, key = self.authority.server(HOST, "localhost")
            config += [f"cafile {self.authority.ca}"]
            config += [f"certfile {certificate}", f"keyfile {key}"]
        if certificates:
            config += ["require_certificate true", "use_identity_as_username true"]
        (folder / "mosquitto.conf").write_text("\n".join(config) + "\n")

    def command(self) -> list[str]:
        return [require("mosquitto"), "-c", str(self.folder / "mosquitto.conf")]

    def set_password(self, user: str, password: str) -> None:
        """Add a user to the password file, or give it another password."""
        self.passwords[user] = password
        file = self.folder / "passwords"
        new = [] if file.exists() else ["-c"]
        subprocess.run(
            [require("mosquitto_passwd"), *new, "-b", str(file), user, password],
            check=True,
            capture_output=True,
        )
        if self.process is not None:
            self.reload()

    def access(self, user: str = CLIENT, version: int = 5) -> Access:
        password = self.passwords.get(user, "")
        authority = self.authority
        if self._certificates and user not in self._issued:
            assert authority is not None
            self._issued[user] = authority.user(user)
        certificate, key = self._issued.get(user, ("", ""))
        return Access(
            self.port,
            user=user if password else "",
            password=password,
            ca=authority.ca if authority is not None else "",
            certificate=certificate,
            key=key,
        )


class Rumqttd(Broker):
    """rumqttd, in the wheel `iotcore`: one port for each version, keeps nothing."""

    LISTENER = """
        [v{version}.1]
        name = "v{version}"
        listen = "{host}:{port}"
        next_connection_delay_ms = 1
        [v{version}.1.connections]
        connection_timeout_ms = 5000
        max_payload_size = 5000000
        max_inflight_count = 200
        dynamic_filters = true
    """
    ROUTER = """
        id = 0
        [router]
        id = 0
        max_connections = 1000
        max_outgoing_packet_count = 200
        max_segment_size = 104857600
        max_segment_count = 10
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        listeners = (
            self.LISTENER.format(version=version, host=HOST, port=port)
            for version, port in self.ports.items()
        )
        (folder / "rumqttd.toml").write_text("\n".join([self.ROUTER, *listeners]))

    def command(self) -> list[str]:
        if importlib.util.find_spec("iotcore") is None:
            absent("iotcore is not installed (PyPI's package iotcore)")
        return [
            *(sys.executable, "-m", "iotcore"),
            *("--config", str(self.folder / "rumqttd.toml")),
        ]


def _make(kind: str, folder: Path, *lines: str) -> Broker:
    settings: dict[str, Any] = {}
    match kind:
        case "rumqttd":
            return Rumqttd(folder)
        case "mosquitto-password":
            settings = {"passwords": PASSWORDS, "acl": ACL}
        case "mosquitto-tls":
            settings = {"passwords": PASSWORDS, "acl": ACL, "tls": True}
        case "mosquitto-mtls":
            settings = {"acl": ACL, "certificates": True}
    return Mosquitto(folder, *lines, **settings)


@contextmanager
def run_broker(kind: str = "mosquitto", *lines: str) -> Iterator[Broker]:
    """Run a broker of one of `KINDS` in a short folder of its own.

    Args:
        kind: of the broker.
        lines: further lines of mosquitto's configuration.
    """
    with tempfile.TemporaryDirectory(prefix="kwb-") as folder:
        broker = _make(kind, Path(folder), *lines)
        try:
            yield broker.start()
        finally:
            broker.stop(signal.SIGKILL)


def listens(port: int) -> bool:
    """Return whether somebody accepts connections on a port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0

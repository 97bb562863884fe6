"""The configuration of receivers that send email."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.utils import parseaddr
from typing import Final, Literal

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.notify.policy import FollowUp
from kaywatch_agent.notify.receiver_config import RateText, ReceiverConfig
from kaywatch_agent.notify.secret import Secret
from kaywatch_agent.settings.reader import ErrorCollector

__all__ = ["EmailConfig"]

Tls = Literal["starttls", "tls", "none"]

PORTS: Final[dict[Tls, int]] = {"starttls": 587, "tls": 465, "none": 25}
MAX_RECIPIENTS: Final = 100  # that every server accepts: RFC 5321, section 4.5.3.1.8
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

_HOST: Final = re.compile(r"[A-Za-z0-9.-]+|[0-9A-Fa-f:.]+")
# Neither quoted nor international local parts: few servers accept them.
_ADDRESS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.-]+")


@dataclass(frozen=True, kw_only=True)
class EmailConfig(ReceiverConfig):
    """Email, through an SMTP server.

    Attributes:
        host: the name of the SMTP server.
        port: its port; by default 587, with `tls` 465, with `none` 25.
        tls: `starttls` or `tls` for a connection that is encrypted after a command, or
            from its beginning; `none` for a server that cannot encrypt.
        username: the name to log in with; by default without a login.
        password: the password.
        from_: the sender, such as `kaywatch <kaywatch@example.org>`.
        to: the addresses of the recipients.
    """

    max_alerts = 50

    # Microsoft 365 accepts 30 a minute from one sender.
    rate: RateText = "30/m"
    host: str
    port: int = 0
    tls: Tls = "starttls"
    username: str = ""
    password: Secret | None = None
    from_: str
    to: tuple[str, ...]

    def checks(self) -> list[Callable[[], None]]:
        """Return what validates the keys."""
        own = [self._check_server, self._check_login, self._check_addresses]
        return [*super().checks(), self._reject_keys, *own]

    def urls_to_reach(self) -> Iterable[str]:
        """Return none: a mail server has a host and a port."""
        return ()

    @property
    def follow_up(self) -> FollowUp:
        """Later messages about an alert are in the thread of the first one."""
        return "thread"

    @property
    def server_port(self) -> int:
        """The port to connect to."""
        return self.port or PORTS[self.tls]

    @property
    def sender(self) -> str:
        """The address of the sender, without a name."""
        return parseaddr(self.from_)[1]

    def _reject_keys(self) -> None:
        self.reject_keys("Email", "headers", "proxy")

    def _check_server(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise ConfigError(
                self.path + "host",
                f"{self.host!r}: expected a name such as smtp.example.org; the port is"
                " a key of its own",
            )
        if not 0 <= self.port < 65_536:
            raise ConfigError(
                self.path + "port", f"{self.port}: expected a port such as 587"
            )

    def _check_login(self) -> None:
        if bool(self.username) != (self.password is not None):
            missing, other = ("password", "username")
            if not self.username:
                missing, other = other, missing
            fix = "password_file" if missing == "password" else missing
            raise ConfigError(
                self.path + missing, f"missing, but {other} is set; set {fix}"
            )
        if self.username and self.tls == "none" and self.host not in LOOPBACK:
            raise ConfigError(
                self.path + "tls",
                '"none" would send the password unencrypted; use "starttls" or "tls"',
            )

    def _check_addresses(self) -> None:
        problems = ErrorCollector()
        if not _ADDRESS.fullmatch(self.sender) or not self.from_.isprintable():
            problems.add(
                self.path + "from",
                f"{self.from_!r}: expected an address such as"
                ' "kaywatch <kaywatch@example.org>"',
            )
        if not 1 <= len(self.to) <= MAX_RECIPIENTS:
            problems.add(
                self.path + "to",
                f"{len(self.to)} addresses: expected 1 to {MAX_RECIPIENTS}",
            )
        for number, address in enumerate(self.to):
            if not _ADDRESS.fullmatch(address):
                problems.add(
                    f"{self.path}to[{number}]",
                    f"{address!r}: expected an address such as ops@example.org",
                )
        problems.raise_all()

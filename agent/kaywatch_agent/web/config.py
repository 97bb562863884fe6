"""What can be set of HTTP (`[http]`): where, who may, and how much at once."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from typing import Final

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.runtime.sockets import MAX_PATH, check_mode, group_number
from kaywatch_agent.web.routes import ROUTES

__all__ = ["HttpConfig", "is_loopback", "located"]

MAX_PORT: Final = 65_535
UNIX: Final = "unix:"


@dataclass(frozen=True)
class HttpConfig:
    """Where HTTP is served, and to whom (`[http]`).

    Attributes:
        listen: `host:port`, or `unix:/path`; port 0 takes a free one. An IPv6 host is
            in brackets.
        mode: the permissions of a UNIX socket, in octal digits.
        group: the group that it belongs to, by name or number; by default the agent's.
        hosts: names that requests may give as their host, besides addresses, localhost
            and names without a dot; `*` for any.
        read_tokens_file: tokens that may read, one a line; with any tokens at all, who
            has none may ask for what is `public` only.
        admin_tokens_file: tokens that may also change something.
        read_tokens_credential: the same as a credential of systemd's.
        admin_tokens_credential: likewise.
        public: paths that need no token.
        tls_certificate_file: the certificate and its chain, in PEM.
        tls_key_file: its key.
        tls_key_credential: the same as a credential of systemd's.
        insecure_public_listener: whether to listen off this host without a token, or
            without TLS, all the same.
        connections: at most; of more, those that wait longest for a request go.
        streams: event streams at most.
    """

    listen: str = "127.0.0.1:9477"
    mode: str = "0660"
    group: str = ""
    hosts: tuple[str, ...] = ()
    read_tokens_file: str = ""
    admin_tokens_file: str = ""
    read_tokens_credential: str = ""
    admin_tokens_credential: str = ""
    public: tuple[str, ...] = ("/health",)
    tls_certificate_file: str = ""
    tls_key_file: str = ""
    tls_key_credential: str = ""
    insecure_public_listener: bool = False
    connections: int = 256
    streams: int = 100

    def __post_init__(self) -> None:
        self._check_listen()
        check_mode(self.mode)
        if self.group:
            group_number("group", self.group)
        self._check_files()
        for name in ("connections", "streams"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: at least 1")
        unknown = set(self.public) - {route.path for route in ROUTES}
        if unknown:
            raise ValueError(f"public: no path {min(unknown)!r}; see docs/http.md")
        if not self.unix_path and not is_loopback(self.address[0]):
            self.refuse_exposure(self.listen)

    def _check_files(self) -> None:
        for key in ("read_tokens", "admin_tokens", "tls_key"):
            if getattr(self, f"{key}_file") and getattr(self, f"{key}_credential"):
                raise ValueError(f"{key}_file and {key}_credential: give one of them")
        has_key = bool(self.tls_key_file or self.tls_key_credential)
        if bool(self.tls_certificate_file) is not has_key:
            raise ValueError("tls_certificate_file and tls_key_file go together")

    def _check_listen(self) -> None:
        if self.listen.startswith(UNIX):
            path = self.unix_path
            if not path.startswith("/") or len(os.fsencode(path)) > MAX_PATH:
                raise ValueError(
                    f'listen = "{self.listen}": expected an absolute path of at most'
                    f' {MAX_PATH} bytes, as "unix:/run/kaywatch/http.sock"'
                )
            return
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isascii() or not port.isdigit():
            raise ValueError(
                f'listen = "{self.listen}": expected host:port, as "127.0.0.1:9477",'
                ' or "unix:/run/kaywatch/http.sock"'
            )
        if int(port) > MAX_PORT:
            raise ValueError(f"listen: port {port} is over {MAX_PORT}")

    @property
    def unix_path(self) -> str:
        """The path of the UNIX socket; empty for TCP."""
        return self.listen.removeprefix(UNIX) if self.listen.startswith(UNIX) else ""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.listen.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)

    @property
    def guarded(self) -> bool:
        """Whether tokens are asked for."""
        return bool(self.read_tokens or self.admin_tokens)

    @property
    def tls(self) -> bool:
        """Whether it is HTTPS."""
        return bool(self.tls_certificate_file)

    @property
    def read_tokens(self) -> str:
        """The path of the tokens that may read; empty for none."""
        return located("http.", "read_tokens", self)

    @property
    def admin_tokens(self) -> str:
        """The path of the tokens that may change something; empty for none."""
        return located("http.", "admin_tokens", self)

    @property
    def tls_key(self) -> str:
        """The path of the certificate's key; empty for none."""
        return located("http.", "tls_key", self)

    def refuse_exposure(self, where: str) -> None:
        """Refuse to be reached from other hosts without a token and TLS.

        Raises:
            ValueError: unless the configuration says that this is meant.
        """
        if self.insecure_public_listener or (self.guarded and self.tls):
            return
        missing = [
            text
            for there, text in (
                (self.guarded, "a token (http.admin_tokens_file)"),
                (self.tls, "TLS (http.tls_certificate_file, http.tls_key_file)"),
            )
            if not there
        ]
        raise ValueError(
            f"listen: {where} can be reached from other hosts without"
            f" {' and '.join(missing)}; give that, or listen on 127.0.0.1, or, behind"
            " something that guards it, set http.insecure_public_listener = true"
        )


def located(path: str, name: str, section: object) -> str:
    """Return the path of a secret that is given as a file or as a credential.

    Raises:
        ConfigError: there are no credentials.
    """
    credential: str = getattr(section, f"{name}_credential")
    if not credential:
        return str(getattr(section, f"{name}_file"))
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder is None:
        raise ConfigError(
            f"{path}{name}_credential",
            "no CREDENTIALS_DIRECTORY; is LoadCredential= set?",
        )
    return os.path.join(folder, credential)


def is_loopback(host: str) -> bool:
    """Whether only this host can reach an address; names other than localhost, no."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host == "localhost"
    return address.is_loopback

"""The settings of the HTTP server (`[http]`): addresses, access and limits."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from typing import Final

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.runtime.sockets import MAX_PATH, check_mode, group_number

__all__ = ["HttpConfig", "is_loopback"]

MAX_PORT: Final = 65_535
UNIX: Final = "unix:"
DEFAULT_PUBLIC: Final = ("/health",)


@dataclass(frozen=True)
class HttpConfig:
    """The HTTP server: its address, access and limits (`[http]`).

    Attributes:
        listen: `host:port`, or `unix:/path`; port 0 selects a free one. An IPv6 host is
            in brackets.
        mode: the permissions of a UNIX socket, in octal digits.
        group: the group of a UNIX socket, by name or number; by default the agent's.
        hosts: host names that requests may have, besides addresses, localhost and names
            without a dot; `*` allows any.
        read_tokens_file: tokens that allow reading, one per line. If there are tokens
            of either kind, requests without a token may read `public` paths only.
        admin_tokens_file: tokens that allow reading and changes.
        read_tokens_credential: `read_tokens_file` as a systemd credential.
        admin_tokens_credential: `admin_tokens_file` as a systemd credential.
        public: paths that need no token, besides those of the web page, which contain
            no data.
        tls_certificate_file: the certificate and its chain, in PEM.
        tls_key_file: the certificate's key.
        tls_key_credential: `tls_key_file` as a systemd credential.
        insecure_public_listener: whether to listen on addresses that other hosts can
            reach, even without tokens or TLS.
        connections: the maximum number of connections; beyond it, the one that has been
            idle longest is closed.
        streams: the maximum number of event streams.
        classic_histograms: whether a scrape with native histograms, which is one in
            Prometheus's protobuf format, has classic buckets as well. Scrapes in text
            always have classic buckets.
    """

    listen: str = "127.0.0.1:9477"
    mode: str = "0660"
    group: str = ""
    hosts: tuple[str, ...] = ()
    read_tokens_file: str = ""
    admin_tokens_file: str = ""
    read_tokens_credential: str = ""
    admin_tokens_credential: str = ""
    public: tuple[str, ...] = DEFAULT_PUBLIC
    tls_certificate_file: str = ""
    tls_key_file: str = ""
    tls_key_credential: str = ""
    insecure_public_listener: bool = False
    connections: int = 256
    streams: int = 100
    classic_histograms: bool = False

    def __post_init__(self) -> None:
        self._check_listen()
        check_mode(self.mode)
        if self.group:
            group_number("group", self.group)
        self._check_files()
        for name in ("connections", "streams"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at least 1")
        if self.public != DEFAULT_PUBLIC:
            self._check_public()
        if not self.unix_path and not is_loopback(self.address[0]):
            self.check_exposure(self.listen)

    def _check_public(self) -> None:
        # This imports the server, aiohttp included: 0.3 s for `kaywatch check`, which
        # systemd runs before each start.
        from kaywatch_agent.web.routes import ENDPOINTS

        unknown = set(self.public) - {endpoint.path for endpoint in ENDPOINTS}
        if unknown:
            raise ValueError(f"public: unknown path {min(unknown)!r}; see docs/http.md")

    def _check_files(self) -> None:
        for key in ("read_tokens", "admin_tokens", "tls_key"):
            if getattr(self, f"{key}_file") and getattr(self, f"{key}_credential"):
                raise ValueError(f"{key}_file and {key}_credential: set only one")
        has_key = bool(self.tls_key_file or self.tls_key_credential)
        if bool(self.tls_certificate_file) is not has_key:
            raise ValueError("tls_certificate_file and tls_key_file: set both or none")

    def _check_listen(self) -> None:
        if self.listen.startswith(UNIX):
            path = self.unix_path
            if not path.startswith("/") or len(os.fsencode(path)) > MAX_PATH:
                raise ValueError(
                    f'listen = "{self.listen}": expected an absolute path of at most'
                    f' {MAX_PATH} bytes, such as "unix:/run/kaywatch/http.sock"'
                )
            return
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isascii() or not port.isdigit():
            raise ValueError(
                f'listen = "{self.listen}": expected host:port, such as'
                ' "127.0.0.1:9477", or "unix:/run/kaywatch/http.sock"'
            )
        if int(port) > MAX_PORT:
            raise ValueError(f"listen: port {port} is greater than {MAX_PORT}")

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
    def has_tokens(self) -> bool:
        """Whether requests need a token."""
        return bool(self.read_tokens or self.admin_tokens)

    @property
    def tls(self) -> bool:
        """Whether connections use TLS."""
        return bool(self.tls_certificate_file)

    @property
    def read_tokens(self) -> str:
        """The path of the tokens that allow reading; empty for none."""
        return self._secret_path("read_tokens")

    @property
    def admin_tokens(self) -> str:
        """The path of the tokens that allow changes; empty for none."""
        return self._secret_path("admin_tokens")

    @property
    def tls_key(self) -> str:
        """The path of the certificate's key; empty for none."""
        return self._secret_path("tls_key")

    def _secret_path(self, name: str) -> str:
        credential: str = getattr(self, f"{name}_credential")
        if not credential:
            return str(getattr(self, f"{name}_file"))
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if folder is None:
            raise ConfigError(
                f"http.{name}_credential",
                "CREDENTIALS_DIRECTORY is not set; add LoadCredential= to the unit",
            )
        return os.path.join(folder, credential)

    def check_exposure(self, address: str) -> None:
        """Check that an address which other hosts can reach is protected.

        Raises:
            ValueError: there are no tokens or no TLS, and the configuration does not
                allow that.
        """
        if self.insecure_public_listener or (self.has_tokens and self.tls):
            return
        missing = [
            text
            for present, text in (
                (self.has_tokens, "tokens (http.admin_tokens_file)"),
                (self.tls, "TLS (http.tls_certificate_file, http.tls_key_file)"),
            )
            if not present
        ]
        raise ValueError(
            f"listen: other hosts can reach {address} without {' and '.join(missing)};"
            " set that, or listen on 127.0.0.1, or, behind a proxy that protects the"
            " agent, set http.insecure_public_listener = true"
        )


def is_loopback(host: str) -> bool:
    """Return whether only this host can reach an address or `localhost`."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host == "localhost"
    return address.is_loopback

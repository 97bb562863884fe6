"""The keys of requests to a receiver or a heartbeat's URL."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.notify.request_options import RequestOptions
from kaywatch_agent.settings.reader import Duration, ErrorCollector, check_url
from kaywatch_agent.units import parse_duration

__all__ = ["RequestConfig"]

# Requests take longer only to a receiver that hangs, and messages wait meanwhile.
MIN_TIMEOUT: Final = 0.1
MAX_TIMEOUT: Final = 60.0
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# kaywatch sets them from the body, and a receiver's signature depends on them.
_OWN_HEADERS: Final = frozenset({"content-length", "transfer-encoding", "host"})


@dataclass(frozen=True, kw_only=True)
class RequestConfig:
    """How requests are sent.

    Attributes:
        timeout: how long a request may take.
        headers: sent with each request, such as `{ Authorization = "Bearer ..." }`.
        proxy: the URL of an HTTP proxy, or `environment` for HTTPS_PROXY and NO_PROXY.
        ca: a file of trusted CA certificates; by default those of the system.
    """

    timeout: Duration = "15s"
    headers: dict[str, str] = field(default_factory=dict)
    proxy: str = ""
    ca: str = ""

    @property
    def path(self) -> str:
        """The prefix of its keys in error messages."""
        return ""

    def request_options(self) -> RequestOptions:
        """Return how its requests are sent."""
        return RequestOptions(
            parse_duration(self.timeout), self.headers, self.proxy, self.ca
        )

    def check_requests(self) -> None:
        """Validate the keys of this class.

        Raises:
            ConfigError: all errors.
        """
        problems = ErrorCollector()
        if not MIN_TIMEOUT <= parse_duration(self.timeout) <= MAX_TIMEOUT:
            text = f'"{self.timeout}": expected a duration from 100ms to 60s'
            problems.add(self.path + "timeout", text)
        if self.proxy not in ("", "environment"):
            try:
                check_url(self.path + "proxy", self.proxy)
            except ConfigError:
                # Without the value: it may contain a password.
                text = 'expected a URL such as http://host:3128, or "environment"'
                problems.add(self.path + "proxy", text)
        for name, value in self.headers.items():
            valid = _HEADER.fullmatch(name) and value.isascii() and value.isprintable()
            if not valid or name.lower() in _OWN_HEADERS:
                text = "invalid or reserved header: expected printable ASCII characters"
                problems.add(f"{self.path}headers.{name}", text)
        with problems.collect():
            _check_certificates(self.path + "ca", self.ca)
        problems.raise_all()


def _check_certificates(key: str, file: str) -> None:
    """Raise ConfigError unless a file, if there is one, contains certificates."""
    if not file:
        return
    if not Path(file).is_file():
        raise ConfigError(key, f"no such file: {file}")
    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:  # a subclass for invalid certificates
        reason = (error.strerror or "unreadable").lower()
        if isinstance(error, ssl.SSLError):
            reason = "no valid certificate"
        text = f"{file}: {reason}; expected the PEM format"
        raise ConfigError(key, text) from None

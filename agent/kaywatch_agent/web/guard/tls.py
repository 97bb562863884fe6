"""TLS for HTTP: the certificate is loaded again when its files change."""

from __future__ import annotations

import ssl
from typing import Final

import structlog

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.web.guard.files import FileWatch

__all__ = ["Tls"]

CHECK_SECONDS: Final = 10.0

log = structlog.get_logger("kaywatch.agent")


class Tls:
    """The TLS context of a server whose certificate may be renewed at any time."""

    def __init__(self, certificate: str, key: str) -> None:
        """Load the files.

        Raises:
            ConfigError: the files cannot be read, or do not belong together.
        """
        self._files = (certificate, key)
        self._watch = FileWatch(self._files, CHECK_SECONDS)
        self.context = self._load()

    def refresh(self, now: float, *, force: bool = False) -> None:
        """Load the files again if they changed; open connections are not affected.

        Args:
            now: monotonic seconds.
            force: check the files even if they were checked a moment ago.
        """
        if not self._watch.changed(now, force=force):
            return
        try:
            # First into an unused context: of a pair that is being replaced, one half
            # may be new and the other old, and that must not take effect.
            self._load()
            self.context.load_cert_chain(*self._files)
        except (ConfigError, OSError, ssl.SSLError) as error:
            log.error("certificate not reloaded", problem=str(error))  # noqa: TRY400
        else:
            log.info("certificate reloaded")

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            # Without the argument, OpenSSL asks for a pass phrase on the terminal.
            context.load_cert_chain(*self._files, password="")
        except ssl.SSLError as error:
            reason = error.reason or "unusable"
            raise _config_error(
                f"cannot use the certificate with its key: {reason}"
            ) from None
        except OSError as error:
            reason = (error.strerror or "unreadable").lower()
            raise _config_error(
                f"cannot read the certificate or its key: {reason}"
            ) from None
        return context


def _config_error(text: str) -> ConfigError:
    return ConfigError("http.tls_certificate_file", text)

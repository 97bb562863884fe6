"""TLS for HTTP: from files, which are read again when they change."""

from __future__ import annotations

import os
import ssl
from typing import Final

import structlog

from kaywatch_agent.errors import ConfigError

__all__ = ["Tls"]

LOOK_SECONDS: Final = 10.0

log = structlog.get_logger("kaywatch.agent")


class Tls:
    """A server's TLS, whose certificate may be renewed at any time."""

    def __init__(self, certificate: str, key: str) -> None:
        """Read the files.

        Raises:
            ConfigError: they can't be read, or don't belong together.
        """
        self._files = (certificate, key)
        self._stamp = self._present()
        self._looked = 0.0
        self.context = self._made()

    def look(self, now: float, force: bool = False) -> None:
        """Read the files again if they changed: for connections from then on.

        Args:
            now: monotonic seconds.
            force: also when they were looked at a moment ago.
        """
        if now - self._looked < LOOK_SECONDS and not force:
            return
        self._looked = now
        stamp = self._present()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            # First into one that nobody uses: a pair of which only one half has been
            # written yet must not be loaded.
            self._made()
            self.context.load_cert_chain(*self._files)
        except (ConfigError, OSError, ssl.SSLError) as error:
            log.error("certificate not read again", problem=str(error))  # noqa: TRY400
        else:
            log.info("certificate read again")

    def _made(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A key with a pass phrase would have us wait at a terminal.
        try:
            context.load_cert_chain(*self._files, password="")
        except ssl.SSLError as error:
            why = error.reason or "they can't be used"
            raise ConfigError(
                "http.tls_certificate_file", f"with its key: {why}"
            ) from (None)
        except OSError as error:
            why = (error.strerror or "unreadable").lower()
            raise ConfigError(
                "http.tls_certificate_file", f"can't read it or its key: {why}"
            ) from None
        return context

    def _present(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_stamp, self._files))


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino

"""Tokens: who has one may read, or also change something.

They are in files, one a line, so that a new one can be added before the old one goes.
A file that changes is read again; one that is wrong then changes nothing. What is kept
of a token is its digest, and all are compared, each in constant time: how long it takes
tells nothing of how near a guess was.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import stat
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import structlog

from kaywatch_agent.errors import ConfigError

__all__ = ["Role", "Tokens", "given_token"]

MIN_LENGTH: Final = 16  # `openssl rand -hex 16` has 32, and 128 bits
MAX_LENGTH: Final = 512
MAX_TOKENS: Final = 100
MAX_BYTES: Final = 65_536
LOOK_SECONDS: Final = 1.0

log = structlog.get_logger("kaywatch.agent")

_Stamp = tuple[int, int, int]


class Role(StrEnum):
    """What a token is good for."""

    READ = "read"
    ADMIN = "admin"  # reads, and changes


class Tokens:
    """All tokens, by role."""

    def __init__(self, files: Mapping[Role, str]) -> None:
        """Read them.

        Args:
            files: the path of each role's file; an empty one for none.

        Raises:
            ConfigError: one can't be read, or holds what is no token.
        """
        self._files = {role: path for role, path in files.items() if path}
        self._known: dict[Role, list[bytes]] = {}
        self._stamps: dict[Role, _Stamp | None] = {}
        self._looked = 0.0
        for role, path in self._files.items():
            self._stamps[role] = _stamp(path)
            self._known[role] = _read(role, path)

    def __bool__(self) -> bool:
        """Whether any are asked for."""
        return bool(self._files)

    def look(self, now: float) -> None:
        """Read again what has changed, if it was not looked at lately.

        Args:
            now: monotonic seconds.
        """
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        for role, path in self._files.items():
            stamp = _stamp(path)
            if stamp == self._stamps[role]:
                continue
            self._stamps[role] = stamp
            try:
                self._known[role] = _read(role, path)
            except ConfigError as error:
                # Those of before hold: nobody is locked out by half a file.
                log.error("tokens not read again", problem=str(error))  # noqa: TRY400
            else:
                log.info("tokens read again", role=role, tokens=len(self._known[role]))

    def role_of(self, token: str) -> Role | None:
        """Return what a token is good for, None if it is none."""
        digest = _digest(token)
        found: Role | None = None
        for role in (Role.READ, Role.ADMIN):
            for known in self._known.get(role, ()):
                if hmac.compare_digest(digest, known):
                    found = role
        return found


def given_token(authorization: str) -> str | None:
    """Return the token of an Authorization header: `Bearer TOKEN`, or a password.

    Browsers ask their user for the latter, whatever the name (RFC 7617).
    """
    scheme, _, rest = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip() or None
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(rest.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return None
        return pair.partition(":")[2] or None
    return None


# -- inside --------------------------------------------------------------------------


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _stamp(path: str) -> _Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(role: Role, path: str) -> list[bytes]:
    key = f"http.{role}_tokens_file"
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IROTH:
                log.warning("everybody can read the tokens: chmod o-r", file=path)
            text = file.read(MAX_BYTES).decode("ascii")
    except UnicodeDecodeError:
        raise ConfigError(key, f"{path}: a token is of letters, digits, -_.~+/=") from (
            None
        )
    except OSError as error:
        why = (error.strerror or "unreadable").lower()
        raise ConfigError(key, f"can't read {path}: {why}") from None
    tokens = []
    for number, line in enumerate(text.splitlines(), 1):
        token = line.strip()
        if token and not token.startswith("#"):
            _check(key, f"{path}, line {number}", token)
            tokens.append(_digest(token))
    if not tokens:
        raise ConfigError(key, f"{path} has no token; `openssl rand -hex 32` makes one")
    if len(tokens) > MAX_TOKENS:
        raise ConfigError(key, f"{path}: more than {MAX_TOKENS} tokens")
    return tokens


def _check(key: str, where: str, token: str) -> None:
    """Refuse what is no token, without saying what it is."""
    if not MIN_LENGTH <= len(token) <= MAX_LENGTH:
        raise ConfigError(
            key, f"{where}: a token has {MIN_LENGTH} to {MAX_LENGTH} characters"
        )
    # The characters of RFC 6750, 2.1, are these.
    if not token.replace("=", "").translate(_PLAIN).isalnum():
        raise ConfigError(key, f"{where}: a token is of letters, digits, -_.~+/=")


_PLAIN: Final = str.maketrans(dict.fromkeys("-_.~+/"))

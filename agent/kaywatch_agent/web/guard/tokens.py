"""Tokens: each allows reading, or changes as well.

Tokens are in files, one per line, so that a new one can be added before the old one is
removed. A file that changes is read again; an invalid one leaves the tokens as they
were. Only digests of tokens are kept. A request's token is compared with all of them,
each in constant time: the duration reveals nothing about a guess.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import stat
from enum import StrEnum
from typing import Final

import structlog

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.web.guard.files import FileWatch

__all__ = ["Role", "Tokens", "parse_token"]

MIN_LENGTH: Final = 16  # `openssl rand -hex 16` prints 32 characters with 128 bits
MAX_LENGTH: Final = 512
MAX_TOKENS: Final = 100
MAX_BYTES: Final = 65_536
CHECK_SECONDS: Final = 1.0

# Besides letters and digits, and `=` (RFC 6750, section 2.1).
_PUNCTUATION: Final = str.maketrans(dict.fromkeys("-_.~+/"))

log = structlog.get_logger("kaywatch.agent")


class Role(StrEnum):
    """The access that a token grants."""

    READ = "read"
    ADMIN = "admin"  # reading and changes


class Tokens:
    """The digests of all tokens, by role."""

    def __init__(self, read: str, admin: str) -> None:
        """Read the tokens.

        Args:
            read: the path of the tokens that allow reading; empty for none.
            admin: the path of the tokens that allow reading and changes.

        Raises:
            ConfigError: a file cannot be read, or has an invalid token.
        """
        files = ((read, Role.READ), (admin, Role.ADMIN))
        self._roles = {path: role for path, role in files if path}
        self._watch = FileWatch(self._roles, CHECK_SECONDS)
        self._digests = {role: _read(role, path) for path, role in self._roles.items()}

    def __bool__(self) -> bool:
        """Whether requests need a token."""
        return bool(self._roles)

    def refresh(self, now: float) -> None:
        """Read changed files again, unless they were checked a moment ago.

        Args:
            now: monotonic seconds.
        """
        for path in self._watch.changed(now):
            role = self._roles[path]
            try:
                self._digests[role] = _read(role, path)
            except ConfigError as error:
                # The previous tokens stay valid: a file that is being written must not
                # lock anyone out.
                log.error("tokens not reloaded", problem=str(error))  # noqa: TRY400
            else:
                log.info("tokens reloaded", role=role, tokens=len(self._digests[role]))

    def role_of(self, token: str) -> Role | None:
        """Return the role of a token; None for an unknown token."""
        digest = _digest(token)
        match: Role | None = None
        for role in (Role.READ, Role.ADMIN):
            for candidate in self._digests.get(role, ()):
                if hmac.compare_digest(digest, candidate):
                    match = role
        return match


def parse_token(authorization: str) -> str | None:
    """Return the token of an Authorization header: `Bearer TOKEN`, or a password.

    Browsers ask their user for name and password (RFC 7617); the name is ignored.
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


def _read(role: Role, path: str) -> list[bytes]:
    key = f"http.{role}_tokens_file"
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IROTH:
                log.warning("every user can read the tokens: chmod o-r", file=path)
            text = file.read(MAX_BYTES).decode("ascii")
    except UnicodeDecodeError:
        raise _invalid_character(key, path) from None
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        raise ConfigError(key, f"cannot read {path}: {reason}") from None
    tokens = []
    for number, line in enumerate(text.splitlines(), 1):
        token = line.strip()
        if token and not token.startswith("#"):
            _check(key, f"{path}, line {number}", token)
            tokens.append(_digest(token))
    if not tokens:
        raise ConfigError(key, f"{path} has no token; create one: openssl rand -hex 32")
    if len(tokens) > MAX_TOKENS:
        raise ConfigError(key, f"{path}: more than {MAX_TOKENS} tokens")
    return tokens


def _check(key: str, place: str, token: str) -> None:
    """Raise an error for an invalid token; the error does not contain the token."""
    if not MIN_LENGTH <= len(token) <= MAX_LENGTH:
        raise ConfigError(
            key, f"{place}: a token has {MIN_LENGTH} to {MAX_LENGTH} characters"
        )
    if not token.replace("=", "").translate(_PUNCTUATION).isalnum():
        raise _invalid_character(key, place)


def _invalid_character(key: str, place: str) -> ConfigError:
    return ConfigError(key, f"{place}: a token consists of letters, digits, -_.~+/=")

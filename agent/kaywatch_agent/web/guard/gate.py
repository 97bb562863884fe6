"""Who may ask: the host that is meant, the site that sends, and the token.

Strategy: every request passes all three, before anything else is looked at.

A page that somebody's browser shows must not be able to read or change anything here.
It can't by a name of its own that leads to this address (DNS rebinding): that is no
host of ours. It can't by ours: no answer allows another site to read it, what changes
something has to be JSON, which a form can't send, and browsers say who sends.
Sources: Fetch, "CORS-preflighted requests"; W3C, Fetch Metadata Request Headers; OWASP,
Cross-Site Request Forgery Prevention Cheat Sheet.
"""

from __future__ import annotations

import ipaddress
import time
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from kaywatch_agent.web.config import HttpConfig
from kaywatch_agent.web.guard.tokens import Role, Tokens, given_token
from kaywatch_agent.web.problems import MAX_SHOWN, Problem

__all__ = ["HEADERS", "Gate"]

READING: Final = ("GET", "HEAD", "OPTIONS")
JSON_TYPE: Final = "application/json"

# What a browser may do with an answer: show it, and nothing else.
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}

CHALLENGE: Final = 'Bearer realm="kaywatch", Basic realm="kaywatch", charset="UTF-8"'


class Gate:
    """Lets requests in."""

    def __init__(self, config: HttpConfig) -> None:
        """Read the tokens.

        Raises:
            ConfigError: they can't be read.
        """
        self._hosts = frozenset(host.lower() for host in config.hosts)
        by_socket = bool(config.unix_path) and not self._hosts
        self._any_host = by_socket or "*" in self._hosts
        self._public = frozenset(config.public)
        files = {Role.READ: config.read_tokens, Role.ADMIN: config.admin_tokens}
        self._tokens = Tokens(files)
        self._writable = bool(config.admin_tokens) or not self._tokens

    def check(self, request: web.Request) -> None:
        """Let a request pass.

        Raises:
            Problem: it may not, and why.
        """
        _check_frame(request)
        self._check_host(request)
        self._check_site(request)
        self._check_token(request)
        self._check_form(request)

    # -- the host --------------------------------------------------------------------

    def _check_host(self, request: web.Request) -> None:
        given = request.headers.getall(hdrs.HOST, [])
        if len(given) > 1 or (not given and request.version >= (1, 1)):
            text = f"{len(given)} Host headers"
            raise Problem(400, "bad_host", text, "send one (RFC 9112, 3.2)")
        if given and not self._any_host and not self._is_host(given[0]):
            raise Problem(
                403,
                "unknown_host",
                f"this is not {given[0][:MAX_SHOWN]!r}",
                "ask by address, or as localhost; names of this agent are listed in"
                " http.hosts",
            )

    def _is_host(self, given: str) -> bool:
        """Whether a name is one that nobody else can lead to us by his DNS."""
        try:
            parts = urlsplit(f"//{given}")
            host = (parts.hostname or "").rstrip(".")
            parts.port  # noqa: B018 - raises for what is none
        except ValueError:
            return False
        if parts.netloc != given or "@" in given or not host:
            return False
        return "." not in host or host in self._hosts or _is_own(host)

    # -- the site --------------------------------------------------------------------

    def _check_site(self, request: web.Request) -> None:
        headers = request.headers
        reading = request.method in READING
        site = headers.get("Sec-Fetch-Site", "none")
        # A link that somebody follows shows a page, which its site can't look into.
        followed = (
            reading
            and headers.get("Sec-Fetch-Mode") == "navigate"
            and headers.get("Sec-Fetch-Dest", "document") == "document"
        )
        origin = headers.get(hdrs.ORIGIN)
        foreign = site not in ("none", "same-origin") and not followed
        if not reading and origin is not None and not self._is_ours(origin, request):
            foreign = True
        if foreign:
            raise Problem(
                403,
                "other_site",
                f"a page of {(origin or 'another site')[:MAX_SHOWN]!r} sent this",
                "only pages of the agent itself may; programs send neither Origin nor"
                " Sec-Fetch-Site",
            )

    def _is_ours(self, origin: str, request: web.Request) -> bool:
        """Whether an origin is this agent, by a name that it goes by."""
        try:
            parts = urlsplit(origin)
            host = parts.hostname or ""
        except ValueError:
            return False
        # Behind a proxy the host of the request may be another.
        same = parts.netloc == request.host or host in self._hosts
        return same and (self._any_host or self._is_host(parts.netloc))

    def _check_form(self, request: web.Request) -> None:
        """Refuse what a form could have sent, also where no body is looked at."""
        there = request.match_info.http_exception is None
        if there and request.method == "POST" and request.content_type != JSON_TYPE:
            raise Problem(
                415,
                "not_json",
                f"Content-Type: {request.content_type[:MAX_SHOWN]!r}",
                f"send JSON, with Content-Type: {JSON_TYPE}",
            )

    # -- the token -------------------------------------------------------------------

    def _check_token(self, request: web.Request) -> None:
        tokens = self._tokens
        reading = request.method in READING
        resource = request.match_info.route.resource
        if not tokens or (
            reading and resource is not None and resource.canonical in self._public
        ):
            return
        tokens.look(time.monotonic())
        given = request.headers.getall(hdrs.AUTHORIZATION, [])
        token = given_token(given[0]) if len(given) == 1 else None
        if token is None:
            raise _unauthorized("no_token", "a token is needed here")
        role = tokens.role_of(token)
        if role is None:
            raise _unauthorized("wrong_token", "this token is not known")
        if not reading and role is not Role.ADMIN:
            raise Problem(
                403,
                "read_only",
                "this token may read, and change nothing",
                "use one of http.admin_tokens_file"
                if self._writable
                else "set http.admin_tokens_file for tokens that may",
            )


def _check_frame(request: web.Request) -> None:
    """Refuse what a proxy before us could understand otherwise than we do.

    Most of it the parser refuses: two lengths, a length and chunks, folded lines.
    """
    if request.version not in ((1, 0), (1, 1)):
        text = f"HTTP/{request.version.major}.{request.version.minor}"
        raise Problem(505, "http_version", text, "speak HTTP/1.1 or HTTP/1.0")
    problem = ""
    coding = request.headers.get(hdrs.TRANSFER_ENCODING)
    if not request.raw_path.startswith("/"):
        problem = "the target is no path: this is no proxy"
    elif coding is not None and request.version < (1, 1):
        problem = "Transfer-Encoding is not of HTTP/1.0 (RFC 9112, 6.1)"
    elif coding is not None and coding.lower() != "chunked":
        problem = f"Transfer-Encoding: {coding[:MAX_SHOWN]!r}: only chunked is known"
    if problem:
        raise Problem(400, "malformed", problem)


def _unauthorized(code: str, message: str) -> Problem:
    return Problem(
        401,
        code,
        message,
        "send Authorization: Bearer TOKEN; the command line takes it from"
        " KAYWATCH_TOKEN_FILE or KAYWATCH_TOKEN",
        {"WWW-Authenticate": CHALLENGE},
    )


def _is_own(host: str) -> bool:
    """Whether it is an address: what a browser shows for it is of that address."""
    if host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

"""Access control: the host of a request, the site that sent it, and its token.

Strategy: every request passes all checks before anything else is done with it.

A page that is open in somebody's browser must not read or change anything here. Under a
name of its own that resolves to this address (DNS rebinding), its requests have an
unknown host. Under one of ours, no response allows another site to read it; changes
need JSON, which a form cannot send; and browsers report the site that sends a request.
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
from kaywatch_agent.web.guard.tokens import Role, Tokens, parse_token
from kaywatch_agent.web.problems import MAX_SHOWN, Problem
from kaywatch_agent.web.routes import ENDPOINTS

__all__ = ["SECURITY_HEADERS", "AccessControl"]

READ_METHODS: Final = ("GET", "HEAD", "OPTIONS")
JSON_TYPE: Final = "application/json"

# A browser may show a response, and do nothing else with it.
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}

CHALLENGE: Final = 'Bearer realm="kaywatch", Basic realm="kaywatch", charset="UTF-8"'


class AccessControl:
    """Decides which requests are allowed."""

    def __init__(self, config: HttpConfig) -> None:
        """Read the tokens.

        Raises:
            ConfigError: the tokens cannot be read.
        """
        self._hosts = frozenset(host.lower() for host in config.hosts)
        # No DNS name resolves to a UNIX socket.
        unix_only = bool(config.unix_path) and not self._hosts
        self._any_host = unix_only or "*" in self._hosts
        built_in = (endpoint.path for endpoint in ENDPOINTS if endpoint.is_public)
        self._public = frozenset((*config.public, *built_in))
        self._tokens = Tokens(config.read_tokens, config.admin_tokens)
        self._has_admins = bool(config.admin_tokens)

    def check(self, request: web.Request) -> None:
        """Raise an error unless a request is allowed.

        Raises:
            Problem: 400, 401, 403, 415 or 505.
        """
        _check_framing(request)
        self._check_host(request)
        self._check_site(request)
        self._check_token(request)
        _check_content_type(request)

    # -- the host --------------------------------------------------------------------

    def _check_host(self, request: web.Request) -> None:
        hosts = request.headers.getall(hdrs.HOST, [])
        if len(hosts) > 1 or (not hosts and request.version >= (1, 1)):
            text = f"{len(hosts)} Host headers"
            raise Problem(400, "bad_host", text, "send one (RFC 9112, section 3.2)")
        if hosts and not self._any_host and not self._is_own_host(hosts[0]):
            raise Problem(
                403,
                "unknown_host",
                f"{hosts[0][:MAX_SHOWN]!r} is not a name of this agent",
                "use an address or localhost, or add the name to http.hosts",
            )

    def _is_own_host(self, name: str) -> bool:
        """Return whether no DNS server of others can resolve this name to this host."""
        try:
            parts = urlsplit(f"//{name}")
            host = (parts.hostname or "").rstrip(".")
            parts.port  # noqa: B018 - raises ValueError for an invalid port
        except ValueError:
            return False
        if parts.netloc != name or "@" in name or not host:
            return False
        return "." not in host or host in self._hosts or _is_address(host)

    # -- the site --------------------------------------------------------------------

    def _check_site(self, request: web.Request) -> None:
        headers = request.headers
        reads = request.method in READ_METHODS
        site = headers.get("Sec-Fetch-Site", "none")
        # Another site may link to a page of ours, because it cannot read the page.
        followed_link = (
            reads
            and headers.get("Sec-Fetch-Mode") == "navigate"
            and headers.get("Sec-Fetch-Dest", "document") == "document"
        )
        origin = headers.get(hdrs.ORIGIN)
        foreign = site not in ("none", "same-origin") and not followed_link
        if not reads and origin is not None:
            foreign = foreign or not self._is_own_origin(origin, request)
        if foreign:
            raise Problem(
                403,
                "other_site",
                f"the request comes from {(origin or 'another site')[:MAX_SHOWN]!r}",
                "only the agent's own pages may send it; programs send neither Origin"
                " nor Sec-Fetch-Site",
            )

    def _is_own_origin(self, origin: str, request: web.Request) -> bool:
        """Return whether an origin is this agent, under one of its names."""
        try:
            parts = urlsplit(origin)
            host = parts.hostname or ""
        except ValueError:
            return False
        # Behind a proxy, the request may have another host than the origin.
        same = parts.netloc == request.host or host in self._hosts
        return same and (self._any_host or self._is_own_host(parts.netloc))

    # -- the token -------------------------------------------------------------------

    def _check_token(self, request: web.Request) -> None:
        tokens = self._tokens
        reads = request.method in READ_METHODS
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else ""
        if not tokens or (reads and path in self._public):
            return
        tokens.refresh(time.monotonic())
        values = request.headers.getall(hdrs.AUTHORIZATION, [])
        token = parse_token(values[0]) if len(values) == 1 else None
        if token is None:
            raise _unauthorized("no_token", "a token is required")
        role = tokens.role_of(token)
        if role is None:
            raise _unauthorized("wrong_token", "unknown token")
        if not reads and role is not Role.ADMIN:
            raise Problem(
                403,
                "read_only",
                "this token allows reading only",
                "use a token of http.admin_tokens_file"
                if self._has_admins
                else "set http.admin_tokens_file to allow changes",
            )


def _check_framing(request: web.Request) -> None:
    """Reject requests that a proxy in front of us could delimit in another way.

    The parser rejects most of them: two lengths, a length with chunks, overflow lines.
    """
    if request.version not in ((1, 0), (1, 1)):
        text = f"unsupported HTTP/{request.version.major}.{request.version.minor}"
        raise Problem(505, "http_version", text, "use HTTP/1.1 or HTTP/1.0")
    problem = ""
    coding = request.headers.get(hdrs.TRANSFER_ENCODING)
    if not request.raw_path.startswith("/"):
        problem = "the target is not a path, and this is not a proxy"
    elif coding is not None and request.version < (1, 1):
        problem = "Transfer-Encoding does not exist in HTTP/1.0 (RFC 9112, section 6.1)"
    elif coding is not None and coding.lower() != "chunked":
        problem = f"Transfer-Encoding: {coding[:MAX_SHOWN]!r}: only chunked is known"
    if problem:
        raise Problem(400, "malformed", problem)


def _check_content_type(request: web.Request) -> None:
    """Reject requests that a form could send, even if the endpoint ignores the body."""
    is_known = request.match_info.http_exception is None
    if is_known and request.method == "POST" and request.content_type != JSON_TYPE:
        raise Problem(
            415,
            "not_json",
            f"Content-Type: {request.content_type[:MAX_SHOWN]!r}",
            f"send JSON, with Content-Type: {JSON_TYPE}",
        )


def _unauthorized(code: str, message: str) -> Problem:
    return Problem(
        401,
        code,
        message,
        "send Authorization: Bearer TOKEN; the command line reads the token from"
        " KAYWATCH_TOKEN_FILE or KAYWATCH_TOKEN",
        {"WWW-Authenticate": CHALLENGE},
    )


def _is_address(host: str) -> bool:
    """Return whether a host is an address: its origin belongs to that address."""
    if host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

"""What is sent to us: read within limits, checked, and not from another site.

There is no access control. So a page that somebody's browser shows must not be able to
change anything here: a form can't send JSON, and what a script sends names its origin.
Sources: Fetch, "CORS-preflighted requests"; OWASP, Cross-Site Request Forgery
Prevention Cheat Sheet, "Using Standard Headers to Verify Origin".
"""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from msgspec import Struct

from kaywatch_agent.web.problems import MAX_SHOWN, Problem

__all__ = ["MAX_BODY", "read_body", "refuse_other_sites"]

# Twenty matchers of a thousand characters each, and a comment, twice over.
MAX_BODY: Final = 64 * 1024

JSON_TYPE: Final = "application/json"


def refuse_other_sites(request: web.Request) -> None:
    """Refuse what another site has a browser send.

    Raises:
        Problem: 403.
    """
    site = request.headers.get("Sec-Fetch-Site", "none")
    origin = request.headers.get("Origin")
    same = site in ("none", "same-origin")
    if not same or (origin is not None and not _ours(origin, request)):
        raise Problem(
            403,
            "other_site",
            f"a page of {(origin or 'another site')[:MAX_SHOWN]!r} sent this",
            "only pages of the agent itself may change something; programs send"
            " neither Origin nor Sec-Fetch-Site",
        )


async def read_body(request: web.Request, kind: type[Struct] | None) -> Struct | None:
    """Return what was sent, checked; None where nothing is expected.

    Raises:
        Problem: 400, 413 or 415, saying what is wrong.
    """
    if kind is None:
        return None
    if request.content_type != JSON_TYPE:
        raise Problem(
            415,
            "not_json",
            f"Content-Type: {request.content_type[:MAX_SHOWN]!r}",
            f"send JSON, with Content-Type: {JSON_TYPE}",
        )
    data = await _read(request)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        path = str(error)
        raise Problem(400, "bad_body", path, "see /openapi.json") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, "no_json", f"no JSON: {error}", "") from None


# -- inside --------------------------------------------------------------------------


async def _read(request: web.Request) -> bytes:
    length = request.content_length
    data = b"" if length is None or length <= MAX_BODY else b" " * (MAX_BODY + 1)
    if not data:
        data = await request.content.read(MAX_BODY + 1)
        while len(data) <= MAX_BODY and not request.content.at_eof():
            data += await request.content.read(MAX_BODY + 1 - len(data))
    if len(data) > MAX_BODY:
        raise Problem(
            413, "too_large", f"more than {MAX_BODY} bytes were sent", "send less"
        )
    return data


def _ours(origin: str, request: web.Request) -> bool:
    """Whether an origin is this agent, by a name that nobody else can point to us.

    A name that another site owns may lead to 127.0.0.1 by its DNS: so it is an address,
    localhost, or a name without a dot.
    """
    try:
        parts = urlsplit(origin)
        host = parts.hostname or ""
    except ValueError:
        return False
    return parts.netloc == request.host and (_is_address(host) or "." not in host)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

"""Request bodies: read within limits of size and time, and validated."""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar

import msgspec
from aiohttp import StreamReader, web
from msgspec import Struct

from kaywatch_agent.web.problems import MAX_SHOWN, Problem

__all__ = ["MAX_BODY", "decode", "read_body"]

S = TypeVar("S", bound=Struct)

# Twice the size of 20 matchers of 1,000 characters each, and a comment.
MAX_BODY: Final = 64 * 1024

BODY_SECONDS: Final = 10.0


async def read_body(request: web.Request, kind: type[Struct] | None) -> Struct | None:
    """Return the validated body; None if the endpoint has none.

    Raises:
        Problem: 400, 408, 413 or 415.
    """
    if kind is None:
        return None
    coding = request.headers.get("Content-Encoding", "identity")
    if coding.lower() != "identity":
        # A compressed body may be a thousand times as large as it looks.
        raise Problem(
            415,
            "packed",
            f"unsupported Content-Encoding: {coding[:MAX_SHOWN]!r}",
            "send the body uncompressed; it has at most 64 kB",
        )
    return decode(await _read(request), kind)


def decode(data: bytes, kind: type[S]) -> S:
    """Return the validated body.

    Raises:
        Problem: 400.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise Problem(400, "bad_body", str(error), "see /openapi.json") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, "no_json", f"invalid JSON: {error}") from None


# -- inside --------------------------------------------------------------------------


async def _read(request: web.Request) -> bytes:
    length = request.content_length or 0
    data = b""
    if length <= MAX_BODY:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                data = await _read_limited(request.content)
        except TimeoutError:
            text = f"the body was not complete within {BODY_SECONDS:.0f} s"
            raise Problem(408, "slow_body", text, "send it at once") from None
        except (web.RequestPayloadError, ConnectionError):
            raise Problem(400, "malformed", "the body is incomplete") from None
    if max(length, len(data)) > MAX_BODY:
        raise Problem(
            413,
            "too_large",
            f"the body has more than {MAX_BODY} bytes",
            "send a smaller one",
        )
    return data


async def _read_limited(content: StreamReader) -> bytes:
    """Return a body; of one that is too large, one byte more than is allowed."""
    data = b""
    while len(data) <= MAX_BODY and not content.at_eof():
        data += await content.read(MAX_BODY + 1 - len(data))
    return data

"""What is sent to us: read within limits of size and time, and checked."""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar

import msgspec
from aiohttp import StreamReader, web
from msgspec import Struct

from kaywatch_agent.web.problems import MAX_SHOWN, Problem

__all__ = ["MAX_BODY", "decoded", "read_body"]

S = TypeVar("S", bound=Struct)

# Twenty matchers of a thousand characters each, and a comment, twice over.
MAX_BODY: Final = 64 * 1024

BODY_SECONDS: Final = 10.0


async def read_body(request: web.Request, kind: type[Struct] | None) -> Struct | None:
    """Return what was sent, checked; None where nothing is expected.

    Raises:
        Problem: 400, 413 or 415, saying what is wrong.
    """
    if kind is None:
        return None
    packed = request.headers.get("Content-Encoding", "identity")
    if packed.lower() != "identity":
        # What is packed may be a thousand times as large as it looks.
        raise Problem(
            415,
            "packed",
            f"Content-Encoding: {packed[:MAX_SHOWN]!r}",
            "send it as it is; it has 64 kB at most",
        )
    return decoded(await _read(request), kind)


def decoded(data: bytes, kind: type[S]) -> S:
    """Return what was sent, checked.

    Raises:
        Problem: 400, saying what is wrong.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        path = str(error)
        raise Problem(400, "bad_body", path, "see /openapi.json") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, "no_json", f"no JSON: {error}", "") from None


# -- inside --------------------------------------------------------------------------


async def _read(request: web.Request) -> bytes:
    length = request.content_length or 0
    data = b""
    if length <= MAX_BODY:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                data = await _some(request.content)
        except TimeoutError:
            text = f"no whole body in {BODY_SECONDS:.0f} s"
            raise Problem(408, "slow_body", text, "send it at once") from None
        except (web.RequestPayloadError, ConnectionError):
            # Or its sender has left; then nobody hears of it.
            raise Problem(400, "malformed", "the body ends in the middle") from None
    if max(length, len(data)) > MAX_BODY:
        raise Problem(
            413, "too_large", f"more than {MAX_BODY} bytes were sent", "send less"
        )
    return data


async def _some(content: StreamReader) -> bytes:
    """Return a body, of a large one little more than is allowed."""
    data = b""
    while len(data) <= MAX_BODY and not content.at_eof():
        data += await content.read(MAX_BODY + 1 - len(data))
    return data

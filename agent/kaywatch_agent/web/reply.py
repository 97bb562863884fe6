"""A whole answer as bytes, and how it is sent without holding up the loop."""

from __future__ import annotations

import asyncio
import zlib
from typing import Final, NamedTuple

import msgspec
from aiohttp import web

from kaywatch_agent.web.api import schema
from kaywatch_agent.web.problems import Problem

__all__ = ["GZIP", "JSON", "Reply", "as_json", "refusal", "send", "write"]

JSON: Final = "application/json; charset=utf-8"

# What is handed to the transport at once; it buffers as much before it says stop.
SLICE: Final = 65_536

# zlib's code for its largest window in gzip's wrapping.
GZIP: Final = 16 + zlib.MAX_WBITS

# A reader that takes nothing for so long is hung up on: it holds a whole answer.
STALL_SECONDS: Final = 60.0

_encoder = msgspec.json.Encoder()


class Reply(NamedTuple):
    """An answer, ready to be sent."""

    content_type: str
    chunks: list[bytes]
    status: int = 200
    encoding: str = ""

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return sum(map(len, self.chunks))

    def compressed(self) -> Reply:
        """Return the same, compressed if that is worth while.

        A scrape of 10,000 series has 37 MB, which take 70 ms to compress to 2 MB, and
        more than that to send and read.
        """
        if self.size <= SLICE or self.encoding:
            return self
        gzip = zlib.compressobj(level=1, wbits=GZIP)
        packed = [gzip.compress(chunk) for chunk in self.chunks]
        return self._replace(chunks=[*packed, gzip.flush()], encoding="gzip")


def as_json(value: object, status: int = 200) -> Reply:
    """Return a value as JSON; what is no number there becomes null."""
    return Reply(JSON, [_encoder.encode(value)], status)


def refusal(problem: Problem) -> web.Response:
    """Return the answer that a problem is."""
    error = schema.Error(code=problem.code, message=problem.message, hint=problem.hint)
    reply = as_json(schema.ErrorAnswer(error=error), problem.status)
    return _whole(reply, dict(problem.headers))


async def send(request: web.Request, reply: Reply) -> web.StreamResponse:
    """Send an answer, a large one in slices between which others get their turn."""
    if reply.size <= SLICE or request.method == "HEAD":
        return _whole(reply, {})
    response = web.StreamResponse(status=reply.status, headers=_headers(reply))
    response.content_length = reply.size
    await response.prepare(request)
    for chunk in reply.chunks:
        view = memoryview(chunk)
        for start in range(0, len(view), SLICE):
            if not await write(request, response, view[start : start + SLICE]):
                return response
            await asyncio.sleep(0)
    return response


async def write(
    request: web.Request, response: web.StreamResponse, data: bytes | memoryview
) -> bool:
    """Write a part of an answer; return False when the reader is gone, or made so."""
    transport = request.transport
    try:
        async with asyncio.timeout(STALL_SECONDS):
            await response.write(data)
    except (TimeoutError, asyncio.CancelledError) as error:
        # Aborted rather than closed: that would wait for the reader to read.
        if transport is not None:
            transport.abort()
        if isinstance(error, asyncio.CancelledError):
            raise
        return False
    except ConnectionError:
        return False
    return True


def _whole(reply: Reply, headers: dict[str, str]) -> web.Response:
    return web.Response(
        body=b"".join(reply.chunks),
        status=reply.status,
        headers={**_headers(reply), **headers},
    )


def _headers(reply: Reply) -> dict[str, str]:
    headers = {"Content-Type": reply.content_type, "Vary": "Accept, Accept-Encoding"}
    return headers | ({"Content-Encoding": reply.encoding} if reply.encoding else {})

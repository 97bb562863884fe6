"""A complete response as bytes, and sending it without blocking the event loop."""

from __future__ import annotations

import asyncio
import zlib
from typing import Final, NamedTuple

import msgspec
from aiohttp import web

from kaywatch_agent.web.api import schema
from kaywatch_agent.web.problems import Problem

__all__ = [
    "GZIP",
    "JSON",
    "EncodedResponse",
    "error_response",
    "html_response",
    "json_response",
    "send",
    "write",
]

JSON: Final = "application/json; charset=utf-8"
HTML: Final = "text/html; charset=utf-8"

# Bytes handed to the transport at once; its own buffer is as large by default.
SLICE: Final = 65_536

# zlib's window size of 2^15 bytes, plus 16 for a gzip header.
GZIP: Final = 16 + zlib.MAX_WBITS

# A client that reads nothing for this long is disconnected: until then it keeps a
# complete response in memory.
STALL_SECONDS: Final = 60.0

_encoder = msgspec.json.Encoder()


class EncodedResponse(NamedTuple):
    """A response that is ready to be sent; one with an ETag may be cached."""

    content_type: str
    chunks: list[bytes]
    status: int = 200
    encoding: str = ""
    etag: str = ""

    @property
    def size(self) -> int:
        """The number of bytes of the body."""
        return sum(map(len, self.chunks))

    def compress(self) -> EncodedResponse:
        """Return the response compressed by gzip, unless it is small.

        A scrape of 10,000 series has 37 MB. Compressing them to 2 MB takes 70 ms, less
        than it takes to send and read them.
        """
        if self.size <= SLICE or self.encoding:
            return self
        gzip = zlib.compressobj(level=1, wbits=GZIP)
        packed = [gzip.compress(chunk) for chunk in self.chunks]
        return self._replace(chunks=[*packed, gzip.flush()], encoding="gzip")


def json_response(value: object, status: int = 200) -> EncodedResponse:
    """Return a value as JSON; NaN and infinite numbers become null."""
    return EncodedResponse(JSON, [_encoder.encode(value)], status)


def html_response(text: str) -> EncodedResponse:
    """Return a page."""
    return EncodedResponse(HTML, [text.encode()])


def error_response(problem: Problem) -> web.Response:
    """Return the response that reports a problem."""
    error = schema.Error(code=problem.code, message=problem.message, hint=problem.hint)
    response = json_response(schema.ErrorResponse(error=error), problem.status)
    return _whole(response, dict(problem.headers))


async def send(request: web.Request, response: EncodedResponse) -> web.StreamResponse:
    """Send a response; a large one in slices, between which other tasks run."""
    if response.etag and response.etag in _parse_etags(request):
        return web.Response(status=304, headers=_headers(response))
    if response.size <= SLICE or request.method == "HEAD":
        return _whole(response, {})
    stream = web.StreamResponse(status=response.status, headers=_headers(response))
    stream.content_length = response.size
    try:
        await stream.prepare(request)
    except ConnectionError:  # the client left before the first byte
        return stream
    for chunk in response.chunks:
        view = memoryview(chunk)
        for start in range(0, len(view), SLICE):
            if not await write(request, stream, view[start : start + SLICE]):
                return stream
            await asyncio.sleep(0)
    return stream


async def write(
    request: web.Request, stream: web.StreamResponse, data: bytes | memoryview
) -> bool:
    """Write a part of a response.

    Returns:
        False if the client has left, or was disconnected because it did not read.
    """
    transport = request.transport
    try:
        async with asyncio.timeout(STALL_SECONDS):
            await stream.write(data)
    except (TimeoutError, asyncio.CancelledError) as error:
        # Closing would wait until the client has read everything.
        if transport is not None:
            transport.abort()
        if isinstance(error, asyncio.CancelledError):
            raise
        return False
    except ConnectionError:
        return False
    return True


def _whole(response: EncodedResponse, headers: dict[str, str]) -> web.Response:
    return web.Response(
        body=b"".join(response.chunks),
        status=response.status,
        headers={**_headers(response), **headers},
    )


def _headers(response: EncodedResponse) -> dict[str, str]:
    headers = {
        "Content-Type": response.content_type,
        "Vary": "Accept, Accept-Encoding",
    }
    if response.encoding:
        headers["Content-Encoding"] = response.encoding
    if response.etag:
        headers["ETag"] = response.etag
        headers["Cache-Control"] = "no-cache"  # ask each time whether it has changed
    return headers


def _parse_etags(request: web.Request) -> set[str]:
    """Return what the client has; a proxy that compresses marks an ETag as weak."""
    texts = request.headers.get("If-None-Match", "").split(",")
    return {text.strip().removeprefix("W/") for text in texts}

"""Server-sent events: sends the data of subscriptions, and ends streams at the stop.

Source: WHATWG HTML, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Protocol, cast

from aiohttp import web

from kaywatch_agent.web.problems import Problem
from kaywatch_agent.web.responses import write

__all__ = ["Chunk", "Streams", "Subscription", "encode_event"]

RETRY_MILLISECONDS: Final = 2_000
KEEPALIVE_SECONDS: Final = 15.0
GRACE_SECONDS: Final = 1.0


class RequestProtocol(Protocol):
    """The part of a request's protocol that a stream uses."""

    on_lost: Callable[[], None] | None


class Chunk(NamedTuple):
    """Bytes to write at once, and how many events they count as."""

    data: bytes
    events: int = 1


KEEPALIVE: Final = Chunk(b": keep-alive\n\n", 0)


def encode_event(name: str, data: bytes, number: int | None = None) -> bytes:
    """Return an event as it is on the wire; `data` has no newlines."""
    head = b"" if number is None else b"id: %d\n" % number
    return b"%sevent: %s\ndata: %s\n\n" % (head, name.encode(), data)


class Subscription(ABC):
    """One subscriber; a subclass has the queue of data that is not sent yet."""

    def __init__(self) -> None:
        self._ready = asyncio.Event()
        self._closed = False

    def wake(self) -> None:
        """Report that `take` has something to return."""
        self._ready.set()

    def close(self) -> None:
        """End the stream."""
        self._closed = True
        self.wake()

    @abstractmethod
    def take(self, limit: int) -> Chunk | None:
        """Return the next chunk, of at most `limit` events; None if there is none."""

    async def next(self, limit: int) -> Chunk | None:
        """Return the next chunk, a comment after a long silence, or None at the end."""
        while not self._closed:
            # Cleared before the look, so that an event that comes after it wakes us.
            self._ready.clear()
            chunk = self.take(limit)
            if chunk is not None:
                return chunk
            try:
                async with asyncio.timeout(KEEPALIVE_SECONDS):
                    await self._ready.wait()
            except TimeoutError:
                return KEEPALIVE
        return None


class Streams:
    """All open streams."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: dict[Subscription, asyncio.Transport | None] = {}
        self._closed = False
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Return the number of open streams."""
        return len(self._open)

    async def serve(
        self, request: web.Request, subscription: Subscription, limit: int | None
    ) -> web.StreamResponse:
        """Respond with events until there were `limit` of them, or until the end.

        Raises:
            Problem: 503 when there are too many streams.
        """
        if len(self._open) >= self.limit:
            raise Problem(
                503,
                "too_many_streams",
                f"{self.limit} streams are open, which is the maximum (http.streams)",
                "close one, or poll /api/v1/nodes?window=1m",
                {"Retry-After": "10"},
            )
        response = web.StreamResponse()
        response.headers["Content-Type"] = "text/event-stream; charset=utf-8"
        response.headers["X-Accel-Buffering"] = "no"  # or nginx would buffer events
        # ConnectionError: the subscriber left before the first byte.
        with self._opened(request, subscription), contextlib.suppress(ConnectionError):
            await response.prepare(request)
            if request.method != "HEAD":
                await _send_events(request, response, subscription, limit)
        return response

    async def close(self) -> None:
        """End all streams; abort connections whose peers do not read the end."""
        self._closed = True
        for subscription in self._open:
            subscription.close()
        if not await self._wait_closed(GRACE_SECONDS):
            for transport in self._open.values():
                if transport is not None:
                    transport.abort()
            await self._wait_closed(GRACE_SECONDS)

    @contextlib.contextmanager
    def _opened(
        self, request: web.Request, subscription: Subscription
    ) -> Iterator[None]:
        """Count a stream as open within the block.

        A subscriber that leaves makes room at once, not at the next keep-alive.
        """
        connection = cast(RequestProtocol, request.protocol)
        connection.on_lost = subscription.close
        self._open[subscription] = request.transport
        self._changed.set()
        if self._closed:
            subscription.close()
        try:
            yield
        finally:
            connection.on_lost = None
            del self._open[subscription]
            self._changed.set()

    async def _wait_closed(self, seconds: float) -> bool:
        """Wait until no stream is open; return whether that is so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._open:
                    self._changed.clear()
                    await self._changed.wait()
        return not self._open


async def _send_events(
    request: web.Request,
    response: web.StreamResponse,
    subscription: Subscription,
    limit: int | None,
) -> None:
    if not await write(request, response, b"retry: %d\n\n" % RETRY_MILLISECONDS):
        return
    remaining = sys.maxsize if limit is None else limit
    while remaining > 0:
        chunk = await subscription.next(remaining)
        if chunk is None or not await write(request, response, chunk.data):
            return
        remaining -= chunk.events

"""One call of an SDK, and the iterator that watches its stream's events go by.

A stream keeps its type: only what it iterates over within is replaced. A call is
recorded when its stream ends, fails, is closed, or is dropped.
"""

from __future__ import annotations

import sys
from typing import Any

from kaywatch._llm.calls import Call
from kaywatch._llm.usage import Tally
from kaywatch._wrappers import warn_once

__all__ = ["AsyncWatched", "SdkCall", "Watched"]


class SdkCall(Call):
    """A call that an SDK makes.

    Attributes:
        tally: of its stream's events, once it has a stream.
    """

    __slots__ = ("tally",)

    def __init__(self, model: str) -> None:
        self.tally: Tally | None = None
        super().__init__(model)

    def saw(self, event: Any) -> None:
        """Take in an event of the stream, which goes on to the application."""
        tally = self.tally
        if tally is None:
            return
        try:
            self.touch()
            if tally.take(event) and self.first_token_seconds is None:
                self.first_token_seconds = self.seconds
        except Exception:  # noqa: BLE001 - the application goes on without us
            warn_once("a stream's event")

    def failed(self, error: BaseException) -> None:
        """Record that it failed now."""
        try:
            self.touch()
            self._end(error)
        except Exception:  # noqa: BLE001
            warn_once("an LLM call that failed")

    def finish(self) -> None:
        """Record it, if it isn't yet, with what is known of it."""
        try:
            self._end(None)
        except Exception:  # noqa: BLE001
            warn_once("the end of an LLM call")

    def _end(self, error: BaseException | None) -> None:
        tally = self.tally
        if tally is None:
            self.end(None, error=error)
        else:
            self.served = tally.served
            self.end(tally.usage, complete=tally.complete, error=error)

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.finish()


class Watched:
    """The events of a stream, passed on as they are.

    Args:
        events: what the stream would iterate over.
        call: is told of each.
    """

    def __init__(self, events: Any, call: SdkCall) -> None:
        self._events = events
        self._call = call

    def __iter__(self) -> Watched:
        return self

    def __next__(self) -> Any:
        try:
            event = next(self._events)
        except StopIteration:
            self._call.touch()
            self._call.finish()
            raise
        except BaseException as error:
            self._call.failed(error)
            raise
        self._call.saw(event)
        return event

    def __getattr__(self, name: str) -> Any:
        return getattr(self._events, name)  # `close` and the like, as of a generator


class AsyncWatched:
    """The same, of an asynchronous stream."""

    def __init__(self, events: Any, call: SdkCall) -> None:
        self._events = events
        self._call = call

    def __aiter__(self) -> AsyncWatched:
        return self

    async def __anext__(self) -> Any:
        try:
            event = await self._events.__anext__()
        except StopAsyncIteration:
            self._call.touch()
            self._call.finish()
            raise
        except BaseException as error:
            self._call.failed(error)
            raise
        self._call.saw(event)
        return event

    def __getattr__(self, name: str) -> Any:
        return getattr(self._events, name)

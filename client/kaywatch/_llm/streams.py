"""One call of an SDK, and the iterator that reads the events of its stream.

A stream keeps its type: only the iterator within it is replaced. A call is recorded
when its stream ends, fails, is closed or dropped, or when the process exits.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from kaywatch._exit_recorder import ExitRecorder
from kaywatch._llm.calls import Call
from kaywatch._llm.usage import Tally
from kaywatch._wrappers import warn_once

__all__ = ["ObservedEvents", "SdkCall", "unread_calls"]


class SdkCall(Call):
    """A call that an SDK makes.

    Attributes:
        tally: the usage that the answer has reported so far.
        is_observed: whether the events of its stream are read.
    """

    __slots__ = ("__weakref__", "is_observed", "tally")

    def __init__(self, model: str, tally: Tally) -> None:
        self.tally = tally
        self.is_observed = False
        super().__init__(model)

    def read_event(self, event: Any) -> None:
        """Read an event of the stream on its way to the application."""
        try:
            self.touch()
            if self.tally.read_event(event) and self.first_token_seconds is None:
                self.first_token_seconds = self.seconds
        except Exception:  # noqa: BLE001 - the application continues without us
            warn_once("an event of an LLM stream")

    def finish(self, error: BaseException | None = None) -> None:
        """Record the call with its usage so far, unless it is recorded already."""
        try:
            if error is not None:
                self.touch()
            tally = self.tally
            self.served_model = tally.model
            self.end(tally.usage, is_complete=tally.is_complete, error=error)
        except Exception:  # noqa: BLE001 - as above
            warn_once("the end of an LLM call")

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.finish()


# Calls whose answer is not read yet; the application may hold some to the end.
unread_calls: Final = ExitRecorder(SdkCall.finish)


class ObservedEvents:
    """The events of a plain or asynchronous stream, passed on unchanged.

    Args:
        events: the iterator of the stream.
        call: reads each event.
    """

    def __init__(self, events: Any, call: SdkCall) -> None:
        self._events = events
        self._call = call

    def __iter__(self) -> ObservedEvents:
        return self

    def __aiter__(self) -> ObservedEvents:
        return self

    def __next__(self) -> Any:
        try:
            event = next(self._events)
        except BaseException as error:
            self._stop(error)
            raise
        self._call.read_event(event)
        return event

    async def __anext__(self) -> Any:
        try:
            event = await self._events.__anext__()
        except BaseException as error:
            self._stop(error)
            raise
        self._call.read_event(event)
        return event

    def _stop(self, error: BaseException) -> None:
        self._call.touch()
        is_end = isinstance(error, (StopIteration, StopAsyncIteration))
        if is_end and self._call.tally.usage is not None:
            self._call.tally.is_complete = True
        self._call.finish(None if is_end else error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._events, name)  # a generator's `close` and the like

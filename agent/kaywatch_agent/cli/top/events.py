"""Listens to an agent's events, through its restarts.

Strategy: a thread reads, and waits when the bounded queue is full; then the agent
counts what it left out. So whoever takes from the queue can also look after other
things, such as a pipe that nobody reads any more.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from kaywatch.errors import AgentRefused, KaywatchError, QueryError
from kaywatch.query import connect, headers, refusal, unreachable

__all__ = ["Back", "Events", "Gone", "Happened"]

PATH: Final = "/api/v1/events"
WAITING: Final = 1_000

# The agent says something every 15 s, if only that it is there.
SILENCE_SECONDS: Final = 40.0
AGAIN_SECONDS: Final = 0.5


class Happened(NamedTuple):
    """An event."""

    name: str
    data: dict[str, Any]


class Gone(NamedTuple):
    """The agent is not there any more; it is looked for."""


class Back(NamedTuple):
    """It is there again."""


Item = Happened | Gone | Back
Parameters = Mapping[str, Sequence[str] | str | int | float | None]


class Events:
    """The events of one agent, as they come."""

    def __init__(self, url: str, parameters: Parameters) -> None:
        """Say where and which; `read` begins.

        Args:
            url: the agent's.
            parameters: those of /api/v1/events, several of a name as a sequence.
        """
        self._url = url
        given = {k: v for k, v in parameters.items() if v not in (None, (), [], False)}
        self._target = f"{PATH}?{urlencode(given, doseq=True)}"
        self._queue: queue.Queue[Item | KaywatchError] = queue.Queue(WAITING)

    def read(self, pause: float) -> Iterator[Item | None]:
        """Yield what happens; None after each `pause` in which nothing does.

        Raises:
            KaywatchError: the agent isn't there to begin with, or refuses.
        """
        lines = self._open()
        reading = threading.Thread(target=self._listen, args=(lines,), daemon=True)
        reading.start()
        while True:
            try:
                item = self._queue.get(timeout=pause)
            except queue.Empty:
                yield None
                continue
            if isinstance(item, KaywatchError):
                raise item
            yield item

    # -- in the thread ---------------------------------------------------------------

    def _listen(self, lines: http.client.HTTPResponse) -> None:
        while True:
            # An error is an end like any other: it is said below.
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                self._pass_on(lines)
            self._queue.put(Gone())
            try:
                lines = self._reopen()
            except KaywatchError as error:
                self._queue.put(error)
                return
            self._queue.put(Back())

    def _pass_on(self, lines: http.client.HTTPResponse) -> None:
        name = ""
        for line in lines:
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                self._queue.put(Happened(name, json.loads(value)))

    def _reopen(self) -> http.client.HTTPResponse:
        while True:
            time.sleep(AGAIN_SECONDS)
            try:
                return self._open()
            except AgentRefused as error:
                if error.status < 500:
                    raise
            except QueryError:
                pass  # it is still not there

    def _open(self) -> http.client.HTTPResponse:
        connection, prefix = connect(self._url, SILENCE_SECONDS)
        try:
            connection.request("GET", prefix + self._target, headers=headers())
            response = connection.getresponse()
            if response.status == 200:
                return response
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(self._url, error) from None
        connection.close()
        problem = f"{self._url}{PATH}: HTTP {response.status}; is that an agent?"
        raise refusal(response.status, body) or QueryError(problem)

"""Reads the agent's event stream, and reconnects when the agent restarts."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from kaywatch.errors import AgentRefused, QueryError
from kaywatch.query import connect, headers, refusal, unreachable

__all__ = ["Parameters", "StreamEvent", "follow"]

PATH: Final = "/api/v1/events"

# The agent sends a comment every 15 s when there are no events.
SILENCE_SECONDS: Final = 40.0
RETRY_SECONDS: Final = 0.5

Parameters = Mapping[str, Sequence[str] | str | int | float | None]


class StreamEvent(NamedTuple):
    """One event: `execution`, `run`, `missed` or `subscribed`, with its data."""

    name: str
    data: dict[str, Any]


def follow(
    url: str, parameters: Parameters, notify: Callable[[str], None]
) -> Iterator[StreamEvent]:
    """Yield events as they happen, without end.

    Events are read at the caller's pace. A slow caller fills the socket's buffers; then
    the agent skips and counts events.

    Args:
        url: where the agent serves HTTP.
        parameters: filters of /api/v1/events; several values of a filter are a
            sequence.
        notify: called with a sentence when the connection is lost or restored.

    Raises:
        KaywatchError: no agent answers at the start, or it rejects the request.
    """
    used = {k: v for k, v in parameters.items() if v not in (None, (), [], False)}
    target = f"{PATH}?{urlencode(used, doseq=True, errors='surrogateescape')}"
    response = _open(url, target)
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            yield from _read(response)
        notify(f"the agent at {url} does not answer; waiting for it")
        response = _reopen(url, target)
        notify("the agent answers again; executions that ended before may be missing")


def _read(response: http.client.HTTPResponse) -> Iterator[StreamEvent]:
    name = ""
    for line in response:
        field, _, value = line.decode().rstrip("\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield StreamEvent(name, json.loads(value))


def _reopen(url: str, target: str) -> http.client.HTTPResponse:
    while True:
        time.sleep(RETRY_SECONDS)
        try:
            return _open(url, target)
        except AgentRefused as error:
            if error.status < 500:
                raise
        except QueryError:
            pass  # still no answer


def _open(url: str, target: str) -> http.client.HTTPResponse:
    connection, prefix = connect(url, SILENCE_SECONDS)
    try:
        connection.request("GET", prefix + target, headers=headers())
        response = connection.getresponse()
        if response.status == 200:
            return response
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise unreachable(url, error) from None
    connection.close()
    problem = f"{url}{PATH}: HTTP {response.status}; check that it is an agent"
    raise refusal(response.status, body) or QueryError(problem)

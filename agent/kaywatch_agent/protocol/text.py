"""Rows in JSON, as a shell publishes them, become the message that msgpack would be."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from kaywatch.wire import ErrorCode
from kaywatch_agent.protocol.columns import BAD_INPUT
from kaywatch_agent.protocol.messages import Rejected

__all__ = ["MAX_TEXT", "message_of_json"]

# Each row becomes objects before it is looked at; some 10,000 of them in 20 ms.
MAX_TEXT: Final = 1024 * 1024

# Of the whole, when they are beside the keys of a single row.
_SHARED: Final = ("service", "sent")


def message_of_json(text: bytes) -> bytes | Rejected:
    """Return a batch of rows as msgpack.

    Args:
        text: a row, a list of rows, or a map with them under `events`; `service` is
            that of all rows.
    """
    if len(text) > MAX_TEXT:
        return Rejected(
            ErrorCode.BAD_JSON, f"{len(text)} bytes of JSON; at most {MAX_TEXT}"
        )
    try:
        found = msgspec.json.decode(text)
        return msgspec.msgpack.encode(_batch(found))
    except BAD_INPUT as error:
        return Rejected(ErrorCode.BAD_JSON, f"no row in JSON: {error}")


def _batch(found: Any) -> dict[str, Any]:
    if isinstance(found, list):
        return {"type": "batch", "events": found}
    if not isinstance(found, dict):
        raise ValueError("expected a map, or a list of maps")  # noqa: TRY004
    batch = {key: found.pop(key) for key in _SHARED if key in found}
    events = found.pop("events", None)
    return {**batch, "type": "batch", "events": [found] if events is None else events}

"""Convert rows in JSON, as published by shells, to a message in msgpack."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from kaywatch.wire import ErrorCode
from kaywatch_agent.protocol.columns import BAD_INPUT
from kaywatch_agent.protocol.messages import Rejected

__all__ = ["MAX_TEXT", "message_of_json"]

# All rows are decoded before any is checked: some 10,000 of them in 20 ms.
MAX_TEXT: Final = 1024 * 1024

# Keys of the batch, which a message of a single row has among the keys of the row.
_SHARED: Final = ("service", "sent")


def message_of_json(text: bytes) -> bytes | Rejected:
    """Return a batch of rows as msgpack.

    Args:
        text: a row, a list of rows, or a map with a list of rows under `events`.
            `service` applies to all rows.
    """
    if len(text) > MAX_TEXT:
        return Rejected(
            ErrorCode.BAD_JSON, f"{len(text)} bytes of JSON; at most {MAX_TEXT}"
        )
    try:
        return msgspec.msgpack.encode(_batch(msgspec.json.decode(text)))
    except BAD_INPUT as error:
        return Rejected(ErrorCode.BAD_JSON, f"no row in JSON: {error}")


def _batch(rows: Any) -> dict[str, Any]:
    if isinstance(rows, list):
        return {"type": "batch", "events": rows}
    if not isinstance(rows, dict):
        raise ValueError("expected a map, or a list of maps")  # noqa: TRY004
    batch = {key: rows.pop(key) for key in _SHARED if key in rows}
    events = rows.pop("events", None)
    return {**batch, "type": "batch", "events": [rows] if events is None else events}

"""Removes texts that may contain user data from captured messages.

Names and numbers stay. Strategy: only keys that are listed here are kept, so unknown
keys of clients cannot leak into a bug report. Binary columns contain only numbers and
indexes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from kaywatch.wire import EXECUTION_COLUMNS, PHASE_COLUMNS, POINT_COLUMNS, RUN_COLUMNS

__all__ = ["MessageRedactor"]

_MESSAGE_KEYS: Final = (
    *("type", "v", "client", "service", "pid", "start", "sdk", "seq", "sent"),
    *("recorded", "drops", "in_flight", "loops", "looped"),
)
_TABLE_KEYS: Final = ("strings", "series", "points", "errors")

_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "executions": (*EXECUTION_COLUMNS, *PHASE_COLUMNS),
    "points": tuple(POINT_COLUMNS),
    "runs": tuple(RUN_COLUMNS),
}
_ITEM_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "topologies": ("graph", "nodes", "edges", "start"),
    "failures": (
        *("time", "node", "type", "graph", "phase", "attempts", "outcome", "run"),
    ),
    "events": (
        *("node", "seconds", "graph", "outcome", "attempts", "action", "error"),
        *("phase", "prep", "exec", "wait", "items", "metric", "value", "kind"),
        *("end", "time"),
    ),
}

# The values of labels and tags are usually names (`model=m1`), but may be any text.
_NAME: Final = re.compile(r"[A-Za-z0-9_.:/+-]{1,40}")
# Bounds the memory of a capture that runs for days; later texts share one replacement.
MAX_MASKED: Final = 100_000

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode


class MessageRedactor:
    """Redacts the messages of one capture; equal texts get equal replacements."""

    def __init__(self) -> None:
        self._masks: dict[str, str] = {}
        self._changes: dict[str, Callable[[Any], Any]] = {
            # A replay does not need the host, whose name may identify a user.
            "host": lambda _: "redacted",
            "tags": self._mask_values,
            # A client repeats its table in each batch, as every batch is self-
            # contained.
            "table": lru_cache(maxsize=256)(self._redact_table),
        }

    def redact(self, message: bytes) -> bytes | None:
        """Return the message without user data, or None if it is malformed."""
        try:
            sections = {}
            for key, value in _decode(message).items():
                if key in _MESSAGE_KEYS:
                    sections[key] = value
                elif key in _COLUMNS:
                    sections[key] = _select(value, _COLUMNS[key])
                elif key in _ITEM_KEYS:
                    keys = _ITEM_KEYS[key]
                    sections[key] = [self._redact_item(item, keys) for item in value]
                elif key in self._changes:
                    sections[key] = self._changes[key](value)
            return _encode(sections)
        except (ValueError, TypeError, AttributeError, RecursionError):
            return None

    def _redact_item(
        self, item: dict[str, Any], keys: tuple[str, ...]
    ) -> dict[str, Any]:
        selected = _select(item, keys)
        if "labels" in item:
            selected["labels"] = self._mask_values(item["labels"])
        if item.get("message"):
            selected["message"] = f"redacted ({len(item['message'])} characters)"
        return selected

    def _redact_table(self, encoded: bytes) -> bytes:
        table = _select(_decode(encoded), _TABLE_KEYS)
        if "points" in table:
            table["points"] = [
                [*key, self._mask_values(labels)] for *key, labels in table["points"]
            ]
        return _encode(table)

    def _mask_values(self, labels: dict[str, str]) -> dict[str, str]:
        return {key: self._mask(value) for key, value in labels.items()}

    def _mask(self, text: str) -> str:
        """Return the text if it looks like a name, and a replacement otherwise."""
        if _NAME.fullmatch(text):
            return text
        if text not in self._masks and len(self._masks) >= MAX_MASKED:
            return "redacted"
        return self._masks.setdefault(text, f"redacted-{len(self._masks) + 1}")


def _select(item: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key in keys}

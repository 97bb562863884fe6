"""A message without what may be payload: names stay, texts go.

Strategy: what is not known to be harmless is left out, so a key that some client adds
is not in a bug report by accident. Binary columns hold numbers and indexes alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Final

import msgspec

from kaywatch.wire import EXECUTION_COLUMNS, PHASE_COLUMNS, POINT_COLUMNS, RUN_COLUMNS

__all__ = ["Redaction"]

Raws = dict[str, msgspec.Raw]
Change = Callable[[Any], Any]

_PLAIN_KEYS: Final = frozenset(
    {
        "type",
        "v",
        "client",
        "service",
        "pid",
        "start",
        "sdk",
        "seq",
        "sent",
        "recorded",
        "drops",
        "in_flight",
        "loops",
        "looped",
    }
)
_COLUMNS: Final = {
    "executions": {*EXECUTION_COLUMNS, *PHASE_COLUMNS},
    "points": {*POINT_COLUMNS},
    "runs": {*RUN_COLUMNS},
}
_FAILURE: Final = frozenset(
    {"time", "node", "type", "graph", "phase", "attempts", "outcome", "run"}
)
_ROW: Final = frozenset(
    {
        "node",
        "seconds",
        "graph",
        "outcome",
        "attempts",
        "action",
        "error",
        "phase",
        "prep",
        "exec",
        "wait",
        "items",
        "metric",
        "value",
        "kind",
        "end",
        "time",
    }
)
_TOPOLOGY: Final = frozenset({"graph", "nodes", "edges", "start"})

# The values of labels and tags are names as a rule (`model=m1`), and may be anything.
_NAME: Final = re.compile(r"[A-Za-z0-9_.:/+-]{1,40}")
MAX_MASKED: Final = 100_000

_raws: Final = msgspec.msgpack.Decoder(Raws)
_encode: Final = msgspec.msgpack.Encoder().encode


class Redaction:
    """Redacts the messages of one capture; equal texts get equal numbers."""

    def __init__(self) -> None:
        self._masked: dict[str, str] = {}
        self._table = lru_cache(maxsize=256)(self._read_table)
        self._changes: dict[str, Change] = {
            "host": lambda _: "redacted",
            "tags": self._values,
            "table": self._table,
            "failures": self._failures,
            "topologies": lambda found: [_only(item, _TOPOLOGY) for item in found],
            "events": lambda found: [self._row(item) for item in found],
        }
        for name, known in _COLUMNS.items():
            self._changes[name] = partial(_only, known=known)

    def message(self, message: bytes) -> bytes | None:
        """Return the message redacted, None if it can't be."""
        try:
            found = _raws.decode(message)
            kept: dict[str, Any] = {}
            for key, value in found.items():
                if key in _PLAIN_KEYS:
                    kept[key] = value
                elif key in self._changes:
                    kept[key] = self._changes[key](msgspec.msgpack.decode(value))
            return _encode(kept)
        except (msgspec.MsgspecError, ValueError, TypeError, AttributeError):
            return None
        except RecursionError:
            return None

    def mask(self, text: str) -> str:
        """Return a text that may be payload, or another in its place."""
        if _NAME.fullmatch(text):
            return text
        if text not in self._masked and len(self._masked) >= MAX_MASKED:
            return "redacted"
        return self._masked.setdefault(text, f"redacted-{len(self._masked) + 1}")

    def _values(self, labels: dict[str, str]) -> dict[str, str]:
        return {key: self.mask(value) for key, value in labels.items()}

    def _read_table(self, encoded: bytes) -> bytes:
        table = _only(
            msgspec.msgpack.decode(encoded), {"strings", "series", "points", "errors"}
        )
        if "points" in table:
            table["points"] = [
                [*key, self._values(labels)] for *key, labels in table["points"]
            ]
        return _encode(table)

    def _failures(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {
                **_only(failure, _FAILURE),
                "message": f"redacted ({len(failure.get('message', ''))} characters)",
            }
            for failure in found
        ]

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        kept = _only(row, _ROW)
        if "labels" in row:
            kept["labels"] = self._values(row["labels"])
        return kept


def _only(found: dict[str, Any], known: frozenset[str] | set[str]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key in known}

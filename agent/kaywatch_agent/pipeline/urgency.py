"""Detect batches that rules should evaluate before the next tick."""

from __future__ import annotations

from collections.abc import Callable, Collection

from kaywatch_agent.protocol.messages import Encoded

__all__ = ["UrgencyDetector"]


class UrgencyDetector:
    """Detects batches with failures, or with values of metrics that rules use.

    The sections are not decoded yet, so their bytes are searched for names. A batch
    that only seems urgent costs one evaluation at most.
    """

    def __init__(self, watched: Callable[[], Collection[bytes]]) -> None:
        """Start without batches.

        Args:
            watched: returns the names of the custom metrics that rules use.
        """
        self._watched = watched
        self._is_urgent = False

    def inspect(self, encoded: Encoded) -> None:
        """Search a batch for failures and for the names of metrics."""
        if self._is_urgent:
            return
        rows = bytes(encoded.events)
        self._is_urgent = (
            bool(encoded.failures)
            or b"error" in rows
            or bool(encoded.points and self._names_watched(encoded.table))
            or bool(rows and self._names_watched(rows))
        )

    def take(self) -> bool:
        """Return whether any batch since the last call was urgent."""
        is_urgent, self._is_urgent = self._is_urgent, False
        return is_urgent

    def _names_watched(self, text: bytes) -> bool:
        return any(name in text for name in self._watched())

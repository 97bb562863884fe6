"""The interface of a client library in the benchmark."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Client"]


class Client:
    """A library, configured as users would configure it.

    This module imports little, because imports of the libraries are measured.

    Attributes:
        records: for each node, a function that records one duration in seconds, with
            labels bound in advance where possible.
        settle: sends pending events, and waits if the library can.
    """

    def __init__(
        self,
        records: list[Callable[[float], object]],
        settle: Callable[[], object] = lambda: None,
    ) -> None:
        self.records = records
        self.settle = settle

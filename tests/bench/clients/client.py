"""The interface of a client library in the benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Client"]


@dataclass(frozen=True)
class Client:
    """A library, configured as users would configure it.

    Attributes:
        records: for each node, a function that records one duration in seconds, with
            labels bound in advance where possible.
        settle: sends pending events, and waits if the library can.
    """

    records: list[Callable[[float], object]]
    settle: Callable[[], object] = lambda: None

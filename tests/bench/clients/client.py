"""What the benchmark asks of a client library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Client"]


@dataclass(frozen=True)
class Client:
    """A library as its users would set it up.

    Attributes:
        records: a call for each node that records one duration in seconds, with all
            that can be bound beforehand.
        settle: sends what is pending, and waits where the library can.
    """

    records: list[Callable[[float], object]]
    settle: Callable[[], object] = lambda: None

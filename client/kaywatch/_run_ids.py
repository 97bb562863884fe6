"""The ids of the runs of one process."""

from __future__ import annotations

import os
from itertools import count

__all__ = ["RunIds"]


class RunIds:
    """The ids of this process's runs.

    Attributes:
        prefix: begins each of them; other processes have another.
    """

    def __init__(self) -> None:
        self.prefix = os.urandom(4).hex()
        self._numbers = count(1)

    def next_number(self) -> int:
        """Return a number for a run, unique in this process."""
        return next(self._numbers)

    def text(self, number: int) -> str:
        """Return the id of the run with that number, empty for 0."""
        return f"{self.prefix}-{number}" if number else ""

    def renew(self) -> None:
        """Use another prefix, in the child of a fork."""
        self.prefix = os.urandom(4).hex()

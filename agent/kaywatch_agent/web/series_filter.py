"""Selects series by kind and name, without a call of Python for each series."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.model.series import Kind, SeriesKey

__all__ = ["SeriesColumns", "SeriesFilter"]

Names = str | Collection[str]
_NAMES: Final = ("service", "graph", "node")


@dataclass(frozen=True, kw_only=True)
class SeriesFilter:
    """Matches series whose kind and names are as given; None stands for any.

    Attributes:
        kinds: the kinds.
        service, graph, node: one name, or several of which each matches.
    """

    kinds: Collection[Kind] | None = None
    service: Names | None = None
    graph: Names | None = None
    node: Names | None = None

    def __call__(self, key: SeriesKey) -> bool:
        """Return whether a series matches."""
        return (
            (self.kinds is None or key.kind in self.kinds)
            and _is_in(key.service, self.service)
            and _is_in(key.graph, self.graph)
            and _is_in(key.node, self.node)
        )


class SeriesColumns:
    """The kinds and names of all series in columns of numbers."""

    def __init__(self, keys: Sequence[SeriesKey]) -> None:
        self._kinds = np.array([key.kind for key in keys], np.int64)
        self._numbers: dict[str, dict[str, int]] = {name: {} for name in _NAMES}
        self._columns: dict[str, NDArray[np.int64]] = {}
        for name, numbers in self._numbers.items():
            column = [
                numbers.setdefault(getattr(key, name), len(numbers)) for key in keys
            ]
            self._columns[name] = np.array(column, np.int64)

    def is_of(self, kind: Kind) -> NDArray[np.bool_]:
        """Return which series are of a kind, by row."""
        is_of: NDArray[np.bool_] = self._kinds == kind
        return is_of

    def select(self, matches: SeriesFilter) -> NDArray[np.bool_]:
        """Return which series match, by row."""
        included = np.ones(len(self._kinds), np.bool_)
        if matches.kinds is not None:
            included &= np.isin(self._kinds, [int(kind) for kind in matches.kinds])
        for name in _NAMES:
            wanted: Names | None = getattr(matches, name)
            if wanted is None:
                continue
            numbers = self._numbers[name]
            # One more than there are names, so that a name of no series has a place.
            is_wanted = np.zeros(len(numbers) + 1, np.bool_)
            names = [wanted] if isinstance(wanted, str) else wanted
            is_wanted[[numbers.get(each, -1) for each in names]] = True
            included &= is_wanted[self._columns[name]]
        return included


def _is_in(name: str, wanted: Names | None) -> bool:
    if wanted is None:
        return True
    return name == wanted if isinstance(wanted, str) else name in wanted

"""Encodes the labels of groups of series, for all metrics of these groups.

Strategy: the labels of a series are sorted by name, and those of a group are the same
in each of its metrics. So they are encoded once, and split where a metric inserts its
name and its own labels. The tables consist of tuples of bytes, which the garbage
collector does not traverse again and again: a full collection pauses all threads.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

from kaywatch_agent.export.encoding import encode_label, exported_name, merge_labels
from kaywatch_agent.model.series import Labels

__all__ = ["GroupLabels"]

NAME: Final = "__name__"

Names = tuple[str, ...]
Parts = Sequence[bytes]


class GroupLabels:
    """The encoded labels of some groups."""

    def __init__(self, groups: Sequence[Labels], more: Mapping[str, str]) -> None:
        """Encode nothing yet.

        Args:
            groups: the labels of each group.
            more: labels of all series.
        """
        self._groups = groups
        self._more = more
        self._encoded: list[tuple[Names, Parts]] | None = None
        self._parts: dict[Names, list[Parts]] = {}

    def all(self, name: str, labels: Labels = ()) -> Iterator[bytes]:
        """Yield the encoded labels of a metric of each group.

        Args:
            name: of the metric.
            labels: of the metric, in addition to those of the group.
        """
        names, between = self._between(name, labels)
        parts = self._split(names)
        if len(between) == 1:
            (only,) = between
            return (before + only + after for before, after in parts)
        if len(between) == 2:
            first, second = between
            return (a + first + b + second + c for a, b, c in parts)
        return (_join(each, between) for each in parts)

    def of(self, name: str, labels: Labels) -> Callable[[int], bytes]:
        """Return what returns the encoded labels of a metric of one group."""
        names, between = self._between(name, labels)
        parts = self._split(names)
        return lambda group: _join(parts[group], between)

    # -- inside ------------------------------------------------------------------------

    def _between(self, name: str, labels: Labels) -> tuple[Names, Parts]:
        """Return the sorted names of a metric's own labels, and these, encoded."""
        pairs = {exported_name(label, self._more): value for label, value in labels}
        pairs[NAME] = name
        names = tuple(sorted(pairs))
        values = ((label, pairs[label]) for label in names)
        return names, [encode_label(pair) if pair[1] else b"" for pair in values]

    def _split(self, names: Names) -> list[Parts]:
        """Return the labels of each group, split where labels are inserted."""
        if names not in self._parts:
            self._parts[names] = [
                tuple([b"".join(encoded[part]) for part in _slices(own, names)])
                for own, encoded in self._encode()
            ]
        return self._parts[names]

    def _encode(self) -> list[tuple[Names, Parts]]:
        """Return the sorted labels of each group: their names, and these encoded."""
        if self._encoded is None:
            self._encoded = []
            for group in self._groups:
                pairs = sorted(merge_labels(group, self._more).items())
                names = tuple([label for label, _ in pairs])
                self._encoded.append((names, tuple(map(encode_label, pairs))))
        return self._encoded


@lru_cache(maxsize=1_000)  # most groups have the same names
def _slices(own: Names, names: Names) -> list[slice]:
    """Return the labels before, between and after the names to insert."""
    slices, start = [], 0
    for name in names:
        slices.append(slice(start, bisect_left(own, name)))
        # A metric's own label takes the place of one of its group.
        start = bisect_right(own, name)
    return [*slices, slice(start, None)]


def _join(parts: Parts, between: Parts) -> bytes:
    pieces = [piece for pair in zip(parts, between, strict=False) for piece in pair]
    return b"".join(pieces) + parts[-1]

"""The values of one metric, and what they were computed from, by group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from kaywatch_agent.rules.departures import Departure
from kaywatch_agent.rules.result import Floats, Ints
from kaywatch_agent.rules.windows import Group
from kaywatch_agent.units import quantity

__all__ = ["MetricValues"]


class MetricValues(NamedTuple):
    """The values of a metric, and what they were computed from, by group.

    Attributes:
        groups: the groups.
        values: NaN where the value is unknown.
        executions: the executions that the value is about.
        errors: how many of them failed.
        notes: what is behind a value, where something is known.
        usual: what a value is relative to, where it is.
        slowest: returns the longest durations in seconds, for metrics of durations.
        departed: what went away with processes.
    """

    groups: list[Group]
    values: Floats
    executions: Ints | int = 0
    errors: Ints | int = 0
    notes: Mapping[Group, str] = {}
    usual: Mapping[Group, float] = {}
    slowest: Callable[[], list[float | None]] | None = None
    departed: Mapping[Group, tuple[Departure, ...]] = {}

    def notes_of(self, groups: Iterable[Group]) -> list[str]:
        """Return what is behind the values of groups; empty if nothing is known."""
        if self.slowest is None:
            return [self.notes.get(group, "") for group in groups]
        slowest = dict(zip(self.groups, self.slowest(), strict=True))
        return [quantity(slowest[group], "seconds") for group in groups]

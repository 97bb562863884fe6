"""The values of one metric, and what they were computed from, by group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

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
    """

    groups: list[Group]
    values: Floats
    executions: Ints | int = 0
    errors: Ints | int = 0
    notes: Mapping[Group, str] = {}
    usual: Mapping[Group, float] = {}
    slowest: Callable[[], list[float | None]] | None = None

    def note(self, group: Group) -> str:
        """Return what is behind a group's value; empty if nothing is known."""
        if self.slowest is None:
            return self.notes.get(group, "")
        return quantity(self.slowest()[self.groups.index(group)], "seconds")

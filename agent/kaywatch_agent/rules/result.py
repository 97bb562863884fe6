"""The result of one evaluation of a rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.rules.departures import Departure
from kaywatch_agent.rules.rule import Rule
from kaywatch_agent.rules.state import ConditionStatus
from kaywatch_agent.rules.windows import Group

__all__ = ["BREACH", "STATUSES", "Bools", "Floats", "Ints", "RuleResult", "make_result"]

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# The statuses by the codes in a result.
# Codes in an array, because a rule may have thousands of groups each second.
STATUSES: Final = (
    ConditionStatus.UNKNOWN,
    ConditionStatus.CLEAR,
    ConditionStatus.BAND,
    ConditionStatus.BREACH,
)
UNKNOWN, CLEAR, BAND, BREACH = range(4)


@dataclass
class RuleResult:
    """The result of one evaluation of a rule; arrays and lists are by group.

    Attributes:
        labels: the names of the groups' labels.
        groups: the values of the labels.
        codes: the statuses, as indexes of STATUSES.
        value: the value of the metric that is shown.
        threshold: what it is compared with.
        executions, errors: in the window.
        forgotten: groups whose alerts end.
        notes: further details, by the group's number.
        metrics: all values that were used, by metric.
        usual: what the value is relative to, by group, where it is known.
        compared: the value and what it was compared with in words, likewise.
        departed: what went away last, of what would be a breach.
    """

    labels: tuple[str, ...]
    groups: list[Group]
    codes: NDArray[np.int8]
    value: Floats
    threshold: Floats
    executions: Ints
    errors: Ints
    forgotten: set[Group] = field(default_factory=set)
    notes: dict[int, str] = field(default_factory=dict)
    metrics: Mapping[str, Floats] = field(default_factory=dict)
    usual: Mapping[Group, float] = field(default_factory=dict)
    compared: Mapping[Group, str] = field(default_factory=dict)
    departed: Mapping[Group, Departure] = field(default_factory=dict)

    @property
    def unknown_count(self) -> int:
        """How many groups have too little data."""
        return int(np.count_nonzero(self.codes == UNKNOWN))

    @property
    def breaching(self) -> list[int]:
        """The numbers of the groups that breach."""
        numbers: list[int] = (self.codes == BREACH).nonzero()[0].tolist()
        return numbers


def make_result(
    rule: Rule,
    groups: list[Group],
    *,
    breach: Bools,
    value: Floats,
    threshold: float | Floats,
    unknown: Bools | bool = False,
    band: Bools | bool = False,
    executions: Ints | int = 0,
    errors: Ints | int = 0,
    labels: tuple[str, ...] | None = None,
) -> RuleResult:
    """Return a result; UNKNOWN overrides BREACH, BREACH overrides BAND; else CLEAR."""
    size = len(groups)
    # Most rules have few groups: np.select and np.broadcast_to take longer.
    codes = np.full(size, CLEAR, np.int8)
    codes[band] = BAND
    codes[breach] = BREACH
    codes[unknown] = UNKNOWN
    return RuleResult(
        rule.per if labels is None else labels,
        groups,
        codes,
        value,
        np.full(size, threshold, np.float64),
        np.full(size, executions, np.int64),
        np.full(size, errors, np.int64),
    )

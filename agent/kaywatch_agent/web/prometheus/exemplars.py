"""Exemplars: failures whose run is known, as examples of what a value counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from kaywatch_agent.model.records import FailureRecord
from kaywatch_agent.model.series import ErrorKey, Labels, SeriesKey
from kaywatch_agent.web.prometheus.exposition import Exemplar

__all__ = ["FailureExemplars", "node_labels"]

# Longer labels, names and values together, are rejected by Prometheus.
MAX_LABELS: Final = 128


class FailureExemplars(NamedTuple):
    """The latest failures of nodes.

    Attributes:
        durations: by group.
        errors: by group and number of the error; the value is 1.
    """

    durations: Mapping[int, Exemplar]
    errors: Mapping[tuple[int, int], Exemplar]

    @classmethod
    def of(
        cls,
        failures: Iterable[FailureRecord],
        groups: Mapping[Labels, int],
        errors: Sequence[ErrorKey],
    ) -> FailureExemplars:
        """Select failures.

        Args:
            failures: the latest ones.
            groups: the numbers of nodes by their labels.
            errors: all errors, by number.
        """
        durations: dict[int, Exemplar] = {}
        by_error: dict[tuple[int, int], Exemplar] = {}
        numbers = {error: number for number, error in enumerate(errors)}
        for failure in sorted(failures, key=lambda each: each.time):
            labels = _run_labels(failure)
            group = groups.get(node_labels(failure))
            if group is None or not failure.run or _length(labels) > MAX_LABELS:
                continue
            if failure.seconds:
                durations[group] = Exemplar(labels, failure.seconds, failure.time)
            number = numbers.get(ErrorKey(failure.type, failure.phase))
            if number is not None:
                by_error[group, number] = Exemplar(labels, 1.0, failure.time)
        return cls(durations, by_error)


def node_labels(subject: SeriesKey | FailureRecord) -> Labels:
    """Return the labels of a node."""
    return (
        ("service", subject.service),
        ("graph", subject.graph),
        ("node", subject.node),
    )


def _run_labels(failure: FailureRecord) -> Labels:
    run = ("run", failure.run)
    # The name by which Grafana links an exemplar to a store of traces by default.
    trace = ("trace_id", failure.trace_id)
    both = (run, trace)
    return both if failure.trace_id and _length(both) <= MAX_LABELS else (run,)


def _length(labels: Labels) -> int:
    return sum(len(text) for label in labels for text in label)

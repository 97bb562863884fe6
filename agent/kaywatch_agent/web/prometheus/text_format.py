"""Prometheus's text format 0.0.4 and OpenMetrics 1.0.0.

The two differ here in four points only. In OpenMetrics a counter's family is named
without `_total`, a family whose name ends with a unit declares it, values may have an
exemplar, and the end is marked.

Sources: prometheus.io/docs/instrumenting/exposition_formats, and the OpenMetrics 1.0
specification, "Text format" and "MetricFamily name".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Final

import numpy as np

from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.model.series import Labels
from kaywatch_agent.web.prometheus.exposition import (
    CLASSIC_EXPONENTS,
    Chunks,
    Exemplar,
    SampleFamily,
    SeriesTable,
    Value,
    classic_bucket,
)

__all__ = ["TextExposition", "escape", "format_number", "samples"]

UNITS: Final = ("seconds", "bytes")

# Joining and encoding 500 histograms of 23 lines each holds the interpreter for 2 ms.
SAMPLES_PER_CHUNK: Final = 500

# Integral floats are written as integers up to here. From 1e21 on, repr has fewer
# digits than the integer, whose further digits are noise.
MAX_INTEGRAL: Final = 1e21

# Stands for the labels of a group in the lines of a `_Template`.
LABELS: Final = "\0"

_UNSAFE: Final = re.compile(r'[\\"\n]')
_ESCAPES: Final = {"\\": r"\\", '"': r"\"", "\n": r"\n"}


class TextExposition:
    """Writes families as text."""

    def __init__(self, *, openmetrics: bool, gzip: bool = False) -> None:
        self.openmetrics = openmetrics
        self._chunks = Chunks(gzip=gzip)

    def groups(self, table: SeriesTable) -> TextGroups:
        """Return what writes the families of some groups."""
        return TextGroups(self, table)

    def samples(self, family: SampleFamily) -> None:
        """Write a family."""
        lines = samples(family.name, family.values, family.labels)
        self.family(family.name, family.type, family.help, lines)

    def family(self, name: str, type: str, help: str, lines: Iterable[str]) -> None:
        """Write one family.

        Args:
            name: its name; a counter's ends with `_total`.
            type: counter, gauge, histogram or summary.
            help: a sentence.
            lines: its formatted samples, without a final newline each; an item may
                have several lines.
        """
        family = name
        if self.openmetrics and type == "counter":
            family = name.removesuffix("_total")
        head = [f"# HELP {family} {help}", f"# TYPE {family} {type}"]
        unit = family.rpartition("_")[2]
        if self.openmetrics and unit in UNITS:
            head.append(f"# UNIT {family} {unit}")
        self._write(head)
        remaining = iter(lines)
        while part := list(islice(remaining, SAMPLES_PER_CHUNK)):
            self._write(part)

    def chunks(self) -> list[bytes]:
        """End the exposition, and return it."""
        if self.openmetrics:
            self._write(["# EOF"])
        return self._chunks.end()

    def _write(self, lines: list[str]) -> None:
        self._chunks.write(("\n".join(lines) + "\n").encode())


class TextGroups:
    """Writes families of some groups of series."""

    def __init__(self, exposition: TextExposition, table: SeriesTable) -> None:
        self._exposition = exposition
        self._stats = table.stats
        # Only OpenMetrics has them.
        is_shown = exposition.openmetrics
        self._exemplars = table.exemplars if is_shown else {}
        self._error_exemplars = table.error_exemplars if is_shown else {}
        self._labels = [_format_labels(labels) for labels in table.labels]

    def counter(self, name: str, help: str, values: Iterable[Value]) -> None:
        """Write a counter with one value per group."""
        self._write(name, "counter", help, values)

    def gauge(self, name: str, help: str, values: Iterable[Value]) -> None:
        """Write a gauge with one value per group."""
        self._write(name, "gauge", help, values)

    def split(
        self, name: str, help: str, label: str, columns: Mapping[str, Iterable[Value]]
    ) -> None:
        """Write a counter with a column for each value of `label`."""
        template = _Template(
            f'{name}{{{LABELS},{label}="{value}"}} %s' for value in columns
        )
        formatted = (_format_values(values) for values in columns.values())
        lines = (
            template.format(labels, values)
            for labels, *values in zip(self._labels, *formatted, strict=True)
            if None not in values
        )
        self._exposition.family(name, "counter", help, lines)

    def counted(
        self, name: str, help: str, dimension: Dimension, label: Callable[[int], Labels]
    ) -> None:
        """Write a counter of a dimension; `label` returns the labels of a number."""
        formatted = cache(lambda number: _format_labels(label(number)))
        exemplars = self._error_exemplars if dimension is Dimension.ERROR else {}
        lines = (
            f"{name}{{{self._labels[group]},{formatted(fact)}}} {count}"
            f"{_format_exemplar(exemplars.get((group, fact)))}"
            for group, fact, count in self._stats.counted(dimension)
        )
        self._exposition.family(name, "counter", help, lines)

    def histogram(self, name: str, help: str) -> None:
        """Write the distribution of the values."""
        bounds = [repr(2.0**exponent) for exponent in CLASSIC_EXPONENTS]
        # Prometheus stores le="1" and le="1.0" as different series, and OpenMetrics
        # needs the latter: both formats have it, so that no series changes with them.
        template = _Template(
            [f'{name}_bucket{{{LABELS},le="{bound}"}} %s' for bound in bounds]
            + [
                f'{name}_bucket{{{LABELS},le="+Inf"}} %s',
                f"{name}_count{{{LABELS}}} %s",
                f"{name}_sum{{{LABELS}}} %s",
            ]
        )
        stats = self._stats
        below = stats.counts_at_most(np.exp2(CLASSIC_EXPONENTS))
        lines = (
            self._with_exemplar(
                group, template.format(labels, (*counts, count, count, total))
            )
            for group, (labels, count, total, counts) in enumerate(
                zip(
                    self._labels,
                    stats.executions.tolist(),
                    _format_values(stats.total.tolist()),
                    zip(*below.T.tolist(), strict=True),
                    strict=True,
                )
            )
            if total is not None
        )
        self._exposition.family(name, "histogram", help, lines)

    def summary(self, name: str, help: str) -> None:
        """Write the count and the sum of the values.

        A sum of values that may be negative can decrease, which neither a counter nor
        the sum of a summary may (OpenMetrics 1.0, "Summary"): it is left out.
        """
        lines = (
            f"{name}_count{{{labels}}} {count}"
            + (f"\n{name}_sum{{{labels}}} {total}" if (least or 0) >= 0 else "")
            for labels, count, total, least in zip(
                self._labels,
                self._stats.executions.tolist(),
                _format_values(self._stats.total.tolist()),
                self._stats.leasts(),
                strict=True,
            )
            if total is not None
        )
        self._exposition.family(name, "summary", help, lines)

    def _with_exemplar(self, group: int, lines: str) -> str:
        """Return the lines of a histogram, with the exemplar after its own bucket."""
        exemplar = self._exemplars.get(group)
        if exemplar is None:
            return lines
        buckets = lines.split("\n")
        buckets[classic_bucket(exemplar.value)] += _format_exemplar(exemplar)
        return "\n".join(buckets)

    def _write(self, name: str, type: str, help: str, values: Iterable[Value]) -> None:
        lines = (
            f"{name}{{{labels}}} {value}"
            for labels, value in zip(self._labels, _format_values(values), strict=True)
            if value is not None
        )
        self._exposition.family(name, type, help, lines)


class _Template:
    """The lines of one group: its labels and a value in each.

    Formatting a group of 23 lines takes a quarter of the time of `str.format`, which
    parses the template each time.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        """Prepare lines.

        Args:
            lines: each with `LABELS` and then `%s`, for the value.
        """
        self._parts = "\n".join(lines).split(LABELS)

    def format(self, labels: str, values: Sequence[object]) -> str:
        """Return the lines with the labels of a group, and one value for each line."""
        return labels.replace("%", "%%").join(self._parts) % (*values,)


def escape(text: str) -> str:
    """Return a label's value as it is written between quotes."""
    if _UNSAFE.search(text) is None:
        return text
    return _UNSAFE.sub(lambda match: _ESCAPES[match[0]], text)


def format_number(value: float) -> str:
    """Return a finite number; an integral one without fraction and exponent."""
    if value.is_integer() and abs(value) < MAX_INTEGRAL:
        return str(int(value))
    return repr(value)


def samples(
    name: str, values: Mapping[tuple[str, ...], float], labels: tuple[str, ...]
) -> Iterator[str]:
    """Yield the lines of a family.

    Args:
        name: its name.
        values: by the values of the labels; NaN and infinite ones are left out.
        labels: the names of the labels.
    """
    for key, value in sorted(values.items()):
        if math.isfinite(value):
            text = _format_labels(zip(labels, key, strict=True))
            yield f"{name}{f'{{{text}}}' if text else ''} {format_number(value)}"


def _format_exemplar(exemplar: Exemplar | None) -> str:
    """Return an exemplar in the form of OpenMetrics, after a value; empty for none."""
    if exemplar is None:
        return ""
    labels, value = _format_labels(exemplar.labels), format_number(exemplar.value)
    return f" # {{{labels}}} {value} {exemplar.time:.3f}"


def _format_labels(labels: Iterable[tuple[str, str]]) -> str:
    """Return labels as they are written between braces."""
    return ",".join(f'{name}="{escape(value)}"' for name, value in labels)


def _format_values(values: Iterable[Value]) -> Iterator[str | int | None]:
    """Yield numbers as they are written; None for a missing or infinite one."""
    for value in values:
        if isinstance(value, int):
            yield value
        elif value is None or not math.isfinite(value):
            yield None
        else:
            yield format_number(value)

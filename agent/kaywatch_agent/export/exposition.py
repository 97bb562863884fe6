"""A snapshot: the current values of all metrics, and the births and ends of series."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import repeat
from typing import Any, Final, NamedTuple

import numpy as np

from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.native_histogram import (
    BucketSpans,
    NativeHistogram,
    native_histograms,
)
from kaywatch_agent.export.encoding import (
    SERIES_PER_REQUEST,
    STALE,
    encode_exemplar,
    encode_histogram,
    encode_labels,
    encode_request,
    encode_sample,
    key_of,
    pack_value,
    sample_around,
    write_requests,
)
from kaywatch_agent.export.group_labels import GroupLabels
from kaywatch_agent.model.series import Labels
from kaywatch_agent.web.prometheus.exposition import (
    CLASSIC_EXPONENTS,
    Exemplar,
    SampleFamily,
    SeriesTable,
    Value,
    classic_bucket,
)

__all__ = ["HistogramFormat", "PreviousSnapshot", "RemoteWriteExposition"]

# A series that was born longer ago than this begins here: a default Prometheus rejects
# samples that are an hour older than its newest one.
MAX_BIRTH_AGE: Final = 600_000  # ms

# A failure is exported once it is durable, which may be after the next snapshot. An
# exemplar that is sent again is stored once.
EXEMPLAR_DELAY: Final = 60_000  # ms

EMPTY_HISTOGRAM: Final = NativeHistogram(
    5, 0, BucketSpans([], [], []), BucketSpans([], [], [])
)


class HistogramFormat(NamedTuple):
    """How histograms are sent.

    Attributes:
        native: as native ones; otherwise as classic ones.
        max_buckets: how many buckets a native one may have.
    """

    native: bool
    max_buckets: int


class PreviousSnapshot(NamedTuple):
    """What was sent last.

    Attributes:
        time: of its samples, Unix milliseconds.
        keys: of its series.
        series: returns these series, to find the ones that ended.
        has_same_format: whether a series that was not sent did not exist; with other
            labels, filters or histograms, its total may be old.
    """

    time: int
    keys: set[int]
    series: Callable[[], Iterable[Any]]
    has_same_format: bool = True


class RemoteWriteExposition:
    """Collects the current values of all metrics.

    Attributes:
        time: of the samples, Unix milliseconds.
        keys: of the collected series.
    """

    def __init__(
        self,
        time: int,
        labels: Mapping[str, str],
        is_sent: Callable[[str], bool],
        histograms: HistogramFormat,
        previous: PreviousSnapshot | None,
    ) -> None:
        """Start with nothing.

        Args:
            time: of the samples, Unix milliseconds.
            labels: of all series.
            is_sent: returns whether a metric is sent, by its name.
            histograms: how histograms are sent.
            previous: the series that are known to the server; None if none are.
        """
        self.time = time
        self.keys: set[int] = set()
        self.is_sent = is_sent
        self.histograms = histograms
        self.labels = labels
        self._previous = previous
        self._known = set() if previous is None else previous.keys
        self._before, self._after = sample_around(time)
        self._births: list[bytes] = []
        self._values: list[bytes] = []
        self._requests: list[bytes] = []

    def groups(self, table: SeriesTable) -> RemoteWriteGroups:
        """Return what writes the families of some groups."""
        return RemoteWriteGroups(self, table)

    def samples(self, family: SampleFamily) -> None:
        """Write a family."""
        if not self.is_sent(family.name):
            return
        created = family.created if family.type == "counter" else None
        for key, value in family.values.items():
            labels = zip(family.labels, key, strict=True)
            self.add(encode_labels(family.name, labels, self.labels), value, created)

    def add(
        self,
        labels: bytes,
        value: Value,
        created: float | None,
        exemplar: Exemplar | None = None,
    ) -> None:
        """Add a sample of a counter or gauge; a counter was created at a time."""
        if value is None or not math.isfinite(value):
            return
        key = key_of(labels)
        self.keys.add(key)
        if created is not None and key not in self._known and value:
            birth = self._birth(created)
            if birth is not None:
                self._births.append(encode_sample(labels, 0.0, birth))
        sample = labels + self._before + pack_value(value) + self._after
        if exemplar is not None:
            sample += self._exemplar(exemplar)
        self._keep(sample)

    def add_histogram(
        self, labels: bytes, created: float, native: NativeHistogram,
        count: int, total: float, exemplar: Exemplar | None,
    ) -> None:  # fmt: skip
        """Add a native histogram."""
        if not math.isfinite(total):
            return
        key = key_of(labels)
        self.keys.add(key)
        if key not in self._known and count:
            birth = self._birth(created)
            if birth is not None:
                empty = encode_histogram(labels, EMPTY_HISTOGRAM, 0, 0.0, birth)
                self._births.append(empty)
        sample = encode_histogram(labels, native, count, total, self.time)
        if exemplar is not None:
            sample += self._exemplar(exemplar)
        self._keep(sample)

    def births(self) -> list[bytes]:
        """Return the requests with the zeros of new counters.

        They have to be sent, once and for all, before the values: a server rejects
        a sample that is older than another one of its series.
        """
        return list(write_requests(self._births))

    def chunks(self) -> list[bytes]:
        """Return the requests with values, and then with the ends of series."""
        rest = (self._values, self._ends())
        return [
            *self._requests,
            *(request for part in rest for request in write_requests(part)),
        ]

    # -- inside ------------------------------------------------------------------------

    def _keep(self, sample: bytes) -> None:
        """Add an encoded series to the next request.

        Freeing 100,000 of them at once would pause all threads.
        """
        self._values.append(sample)
        if len(self._values) == SERIES_PER_REQUEST:
            self._requests.append(encode_request(self._values))
            self._values = []

    def _birth(self, created: float) -> int | None:
        """Return when a new series was zero; None if that is not to be sent."""
        previous = self._previous
        born = int(created * 1000)
        if previous is not None:
            if born <= previous.time and not previous.has_same_format:
                return None
            # It was not there, so it was zero; it may have ended then.
            born = max(born, previous.time + 1, self.time - MAX_BIRTH_AGE)
        elif born < self.time - MAX_BIRTH_AGE:
            return None
        return min(born, self.time - 1)

    def _exemplar(self, exemplar: Exemplar) -> bytes:
        """Return an encoded exemplar, if it may be new since the previous snapshot."""
        since = 0 if self._previous is None else self._previous.time - EXEMPLAR_DELAY
        return encode_exemplar(exemplar) if exemplar.time * 1000 > since else b""

    def _ends(self) -> list[bytes]:
        """Return the ends of the series that were sent last, and exist no longer."""
        previous = self._previous
        # Unlike a comparison of sets, this lets other threads run meanwhile.
        if previous is None or all(key in self.keys for key in previous.keys):
            return []
        ends: dict[int, bytes] = {}
        for series in previous.series():
            del series.samples[:], series.histograms[:], series.exemplars[:]
            encoded = series.SerializeToString()
            key = key_of(encoded)
            if key not in self.keys:
                ends[key] = encode_sample(encoded, STALE, self.time)
        return list(ends.values())


class RemoteWriteGroups:
    """Writes families of some groups of series."""

    def __init__(self, exposition: RemoteWriteExposition, table: SeriesTable) -> None:
        self._exposition = exposition
        self._table = table
        self._labels = GroupLabels(table.labels, exposition.labels)

    def counter(self, name: str, help: str, values: Iterable[Value]) -> None:  # noqa: ARG002
        """Write a counter with one value per group."""
        if self._exposition.is_sent(name):
            self._add_all(self._labels.all(name), values, self._table.created)

    def gauge(self, name: str, help: str, values: Iterable[Value]) -> None:  # noqa: ARG002
        """Write a gauge with one value per group."""
        if self._exposition.is_sent(name):
            self._add_all(self._labels.all(name), values, repeat(None))

    def split(
        self,
        name: str,
        help: str,  # noqa: ARG002
        label: str,
        columns: Mapping[str, Iterable[Value]],
    ) -> None:
        """Write a counter with a column for each value of `label`."""
        if self._exposition.is_sent(name):
            for column, values in columns.items():
                labels = self._labels.all(name, ((label, column),))
                self._add_all(labels, values, self._table.created)

    def counted(
        self,
        name: str,
        help: str,  # noqa: ARG002
        dimension: Dimension,
        label: Callable[[int], Labels],
    ) -> None:
        """Write a counter of a dimension; `label` returns the labels of a number."""
        if not self._exposition.is_sent(name):
            return
        created = self._table.created
        exemplars = self._table.error_exemplars if dimension is Dimension.ERROR else {}
        encode = cache(lambda number: self._labels.of(name, label(number)))
        for group, number, count in self._table.stats.counted(dimension):
            self._exposition.add(
                encode(number)(group),
                count,
                created[group],
                exemplars.get((group, number)),
            )

    def histogram(self, name: str, help: str) -> None:
        """Write the distribution of the values."""
        if not self._exposition.is_sent(name):
            return
        if not self._exposition.histograms.native:
            self._classic_buckets(name)
            self.summary(name, help)
            return
        stats = self._table.stats
        limit = self._exposition.histograms.max_buckets
        for group, (labels, created, native, count, total) in enumerate(
            zip(
                self._labels.all(name),
                self._table.created,
                native_histograms(stats, limit),
                stats.executions.tolist(),
                stats.total.tolist(),
                strict=True,
            )
        ):
            exemplar = self._table.exemplars.get(group)
            self._exposition.add_histogram(
                labels, created, native, count, total, exemplar
            )

    def summary(self, name: str, help: str) -> None:
        """Write the distribution of the values, of which some may be negative."""
        if self._exposition.histograms.native:
            self.histogram(name, help)
        elif self._exposition.is_sent(name):
            self._count_and_sum(name)

    # -- inside ------------------------------------------------------------------------

    def _add_all(
        self,
        labels: Iterable[bytes],
        values: Iterable[Value],
        created: Iterable[float | None],
    ) -> None:
        """Add a sample of each group."""
        add = self._exposition.add
        for encoded, value, since in zip(labels, values, created, strict=False):
            add(encoded, value, since)

    def _count_and_sum(self, name: str) -> None:
        stats, created = self._table.stats, self._table.created
        finite = np.isfinite(stats.total)
        # A sum of values that may be negative is no counter.
        positive = np.array([(least or 0) >= 0 for least in stats.leasts()], bool)
        counts = np.where(finite, stats.executions, np.nan)
        sums = np.where(finite & positive, stats.total, np.nan)
        for part, values in (("count", counts), ("sum", sums)):
            labels = self._labels.all(f"{name}_{part}")
            self._add_all(labels, values.tolist(), created)

    def _classic_buckets(self, name: str) -> None:
        stats, table = self._table.stats, self._table
        bounds = [*(repr(2.0**exponent) for exponent in CLASSIC_EXPONENTS), "+Inf"]
        below = stats.counts_at_most(np.exp2(CLASSIC_EXPONENTS))
        counts = np.column_stack([below, stats.executions]).astype(float)
        counts[~np.isfinite(stats.total)] = np.nan
        places = {
            group: classic_bucket(exemplar.value)
            for group, exemplar in table.exemplars.items()
        }
        add = self._exposition.add
        for number, bound in enumerate(bounds):
            labels = self._labels.all(f"{name}_bucket", (("le", bound),))
            shown = {
                group: table.exemplars[group]
                for group, place in places.items()
                if place == number
            }
            values = counts[:, number].tolist()
            for group, (encoded, value, created) in enumerate(
                zip(labels, values, table.created, strict=True)
            ):
                add(encoded, value, created, shown.get(group))

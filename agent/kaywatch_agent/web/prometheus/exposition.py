"""The formats of a scrape: their negotiation, and what writes each of them."""

from __future__ import annotations

import re
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.model.series import Labels
from kaywatch_agent.web.responses import GZIP

__all__ = [
    "CLASSIC_EXPONENTS",
    "OPENMETRICS",
    "PROTOBUF",
    "TEXT",
    "Chunks",
    "Exemplar",
    "Exposition",
    "Format",
    "GroupWriter",
    "SampleFamily",
    "SeriesTable",
    "Value",
    "classic_bucket",
    "label_names",
    "negotiate",
]

# A number of a sample. None, NaN and infinite numbers leave the sample out.
Value = float | int | None

# 1 ms to 512 s. Powers of two are bounds of our own buckets: counts are exact.
CLASSIC_EXPONENTS: Final = tuple(range(-10, 10))


@dataclass(frozen=True)
class Format:
    """One of the formats, and its name in an Accept header.

    Attributes:
        media_type: its name.
        parameters: those of its name, of which a request may leave out any.
        charset: the encoding of its text; empty for a binary format.
    """

    media_type: str
    parameters: tuple[tuple[str, str], ...]
    charset: str = ""

    @property
    def content_type(self) -> str:
        """The Content-Type header."""
        parameters = [*self.parameters, *([("charset", self.charset)] * self.is_text)]
        return "; ".join(
            [self.media_type, *(f"{name}={value}" for name, value in parameters)]
        )

    @property
    def is_text(self) -> bool:
        """Whether the format is text."""
        return bool(self.charset)

    def matches(self, media_type: str, values: Mapping[str, str]) -> bool:
        """Return whether a lower-case item of an Accept header names this format."""
        return media_type == self.media_type and all(
            values.get(name, value.lower()) == value.lower()
            for name, value in self.parameters
        )


TEXT: Final = Format("text/plain", (("version", "0.0.4"),), "utf-8")
OPENMETRICS: Final = Format(
    "application/openmetrics-text", (("version", "1.0.0"),), "utf-8"
)
PROTOBUF: Final = Format(
    "application/vnd.google.protobuf",
    (("proto", "io.prometheus.client.MetricFamily"), ("encoding", "delimited")),
)

_NOT_IN_NAME: Final = re.compile(r"[^a-zA-Z0-9_]")

# `le` and `quantile` belong to histograms and summaries.
_RESERVED: Final = frozenset({"service", "graph", "node", "metric", "le", "quantile"})


def negotiate(accept: str) -> Format:
    """Return the format that an Accept header prefers; the text format if in doubt."""
    best, best_quality = TEXT, 0.0
    for item in accept.split(","):
        media, *parameters = (part.strip().lower() for part in item.split(";"))
        values = dict(_pair(parameter) for parameter in parameters)
        for offered in (TEXT, OPENMETRICS, PROTOBUF):
            if offered.matches(media, values):
                quality = _quality(values.get("q", "1"))
                if quality > best_quality:
                    best, best_quality = offered, quality
    return best


def classic_bucket(value: float) -> int:
    """Return the number of the classic bucket that a value falls into."""
    return bisect_left(CLASSIC_EXPONENTS, value, key=lambda exponent: 2.0**exponent)


def label_names(
    labels: Iterable[tuple[str, str]], reserved: Iterable[str] = ()
) -> list[tuple[str, str]]:
    """Return a user's labels with valid and unique names.

    Characters other than letters, digits and `_` become `_`. Names that are reserved by
    us, by the formats (`le`, `quantile`) or by Prometheus (`__...`) get the prefix
    `label_`. A name that occurs a second time then gets a number as suffix.
    """
    own = {*_RESERVED, *reserved}
    taken = set(own)
    renamed = []
    for name, value in labels:
        clean = _NOT_IN_NAME.sub("_", name)
        if not clean or clean[0].isdigit() or clean.startswith("__") or clean in own:
            clean = f"label_{clean.lstrip('_')}"
        unique, times = clean, 1
        while unique in taken:
            times += 1
            unique = f"{clean}_{times}"
        taken.add(unique)
        renamed.append((unique, value))
    return renamed


class Exemplar(NamedTuple):
    """One event that a value counts.

    Attributes:
        labels: identify the event.
        value: of the event.
        time: when it happened, Unix seconds.
    """

    labels: Labels
    value: float
    time: float


class SeriesTable(NamedTuple):
    """Groups of series, as they are exported.

    Attributes:
        labels: of each group.
        stats: of each group.
        created: the last time when all counters of a group were zero, Unix seconds.
        exemplars: values of groups, by group.
        error_exemplars: errors of groups, by group and number of the error.
    """

    labels: Sequence[Labels]
    stats: GroupStats
    created: Sequence[float]
    exemplars: Mapping[int, Exemplar] = {}
    error_exemplars: Mapping[tuple[int, int], Exemplar] = {}


class SampleFamily(NamedTuple):
    """A family whose samples are known by the values of its labels.

    Attributes:
        name, type, help: of the family; a counter's name ends with `_total`.
        labels: the names of the labels.
        values: by the values of the labels.
        created: for counters, when all of them were zero, Unix seconds.
    """

    name: str
    type: str
    help: str
    labels: tuple[str, ...]
    values: Mapping[tuple[str, ...], float]
    created: float


class GroupWriter(Protocol):
    """Writes families of some groups of series; values are in the order of groups."""

    def counter(self, name: str, help: str, values: Iterable[Value]) -> None:
        """Write a counter with one value per group."""

    def gauge(self, name: str, help: str, values: Iterable[Value]) -> None:
        """Write a gauge with one value per group."""

    def split(
        self, name: str, help: str, label: str, columns: Mapping[str, Iterable[Value]]
    ) -> None:
        """Write a counter with a column for each value of `label`.

        A group without a value in any one column is left out.
        """

    def counted(
        self, name: str, help: str, dimension: Dimension, label: Callable[[int], Labels]
    ) -> None:
        """Write a counter of a dimension; `label` returns the labels of a number."""

    def histogram(self, name: str, help: str) -> None:
        """Write the distribution of the values."""

    def summary(self, name: str, help: str) -> None:
        """Write the count and the sum of the values, of which some may be negative."""


class Exposition(Protocol):
    """Writes families in one format."""

    def groups(self, table: SeriesTable) -> GroupWriter:
        """Return what writes the families of some groups."""

    def samples(self, family: SampleFamily) -> None:
        """Write a family."""

    def chunks(self) -> list[bytes]:
        """End the exposition, and return it."""


class Chunks:
    """Collects the parts of an exposition.

    Strategy: parts are compressed at once, so that a scrape of 10,000 series needs a
    few MB of memory, and not its uncompressed 37 MB.
    """

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = zlib.compressobj(level=1, wbits=GZIP) if gzip else None
        self._chunks: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Add a part."""
        if self._gzip is not None:
            data = self._gzip.compress(data)
        if data:
            self._chunks.append(data)

    def end(self) -> list[bytes]:
        """Return all parts."""
        if self._gzip is not None:
            self._chunks.append(self._gzip.flush())
        return self._chunks


def _pair(parameter: str) -> tuple[str, str]:
    name, _, value = parameter.partition("=")
    return name.strip(), value.strip().strip('"')


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0

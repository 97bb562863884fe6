"""Prometheus's text format 0.0.4 and OpenMetrics 1.0.0.

The two differ here in three points only. In OpenMetrics a counter's family is named
without `_total`, a family whose name ends with a unit declares it, and the end is
marked.

Sources: prometheus.io/docs/instrumenting/exposition_formats, and the OpenMetrics 1.0
specification, "Text format" and "MetricFamily name".
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from kaywatch_agent.web.responses import GZIP

__all__ = [
    "OPENMETRICS",
    "TEXT",
    "Exposition",
    "Format",
    "escape",
    "format_labels",
    "format_number",
    "label_names",
    "negotiate",
    "samples",
]


@dataclass(frozen=True)
class Format:
    """One of the formats, and its name in an Accept header."""

    media_type: str
    version: str
    openmetrics: bool

    @property
    def content_type(self) -> str:
        """The Content-Type header."""
        return f"{self.media_type}; version={self.version}; charset=utf-8"


TEXT: Final = Format("text/plain", "0.0.4", openmetrics=False)
OPENMETRICS: Final = Format("application/openmetrics-text", "1.0.0", openmetrics=True)

UNITS: Final = ("seconds", "bytes")

# Joining and encoding 500 histograms of 23 lines each holds the interpreter for 2 ms.
SAMPLES_PER_CHUNK: Final = 500

# Integral floats are written as integers up to here. From 1e21 on, repr has fewer
# digits than the integer, whose further digits are noise.
MAX_INTEGRAL: Final = 1e21

_UNSAFE: Final = re.compile(r'[\\"\n]')
_ESCAPES: Final = {"\\": r"\\", '"': r"\"", "\n": r"\n"}
_NOT_IN_NAME: Final = re.compile(r"[^a-zA-Z0-9_]")

# `le` and `quantile` belong to histograms and summaries.
_RESERVED: Final = frozenset({"service", "graph", "node", "metric", "le", "quantile"})


def negotiate(accept: str) -> Format:
    """Return the format that an Accept header prefers; the text format if in doubt."""
    best, best_quality = TEXT, 0.0
    for item in accept.split(","):
        media, *parameters = (part.strip().lower() for part in item.split(";"))
        values = dict(_pair(parameter) for parameter in parameters)
        for offered in (TEXT, OPENMETRICS):
            version = values.get("version", offered.version)
            if media == offered.media_type and version == offered.version:
                quality = _quality(values.get("q", "1"))
                if quality > best_quality:
                    best, best_quality = offered, quality
    return best


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


def format_labels(labels: Iterable[tuple[str, str]]) -> str:
    """Return labels as they are written between braces."""
    return ",".join(f'{name}="{escape(value)}"' for name, value in labels)


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


class Exposition:
    """Collects families as chunks of bytes.

    Strategy: lines come from iterators and are compressed at once, so that a scrape of
    10,000 series needs a few MB of memory, and not its uncompressed 37 MB.
    """

    def __init__(self, format: Format, *, gzip: bool = False) -> None:
        self._format = format
        self._gzip = zlib.compressobj(level=1, wbits=GZIP) if gzip else None
        self._chunks: list[bytes] = []

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
        if self._format.openmetrics and type == "counter":
            family = name.removesuffix("_total")
        head = [f"# HELP {family} {help}", f"# TYPE {family} {type}"]
        unit = family.rpartition("_")[2]
        if self._format.openmetrics and unit in UNITS:
            head.append(f"# UNIT {family} {unit}")
        self._write(head)
        remaining = iter(lines)
        while part := list(islice(remaining, SAMPLES_PER_CHUNK)):
            self._write(part)

    def chunks(self) -> list[bytes]:
        """End the exposition, and return it."""
        if self._format.openmetrics:
            self._write(["# EOF"])
        if self._gzip is not None:
            self._chunks.append(self._gzip.flush())
        return self._chunks

    def _write(self, lines: list[str]) -> None:
        data = ("\n".join(lines) + "\n").encode()
        if self._gzip is not None:
            data = self._gzip.compress(data)
        if data:
            self._chunks.append(data)


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
            text = format_labels(zip(labels, key, strict=True))
            yield f"{name}{f'{{{text}}}' if text else ''} {format_number(value)}"


def _pair(parameter: str) -> tuple[str, str]:
    name, _, value = parameter.partition("=")
    return name.strip(), value.strip().strip('"')


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0

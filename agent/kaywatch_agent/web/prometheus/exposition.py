"""Prometheus's text format 0.0.4 and OpenMetrics 1.0.0: how samples are written.

The two differ here in four points only: in OpenMetrics a counter's family is named
without `_total`, a family whose name ends in a unit declares it, no two families may
clash by their suffixes, and the end is marked.

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

from kaywatch_agent.web.reply import GZIP

__all__ = [
    "OPENMETRICS",
    "TEXT",
    "Exposition",
    "Format",
    "escape",
    "label_names",
    "labels_text",
    "negotiate",
    "number",
    "samples",
]


@dataclass(frozen=True)
class Format:
    """One of the formats, and how an Accept header names it."""

    media_type: str
    version: str
    openmetrics: bool

    @property
    def content_type(self) -> str:
        """The Content-Type header."""
        return f"{self.media_type}; version={self.version}; charset=utf-8"


TEXT: Final = Format("text/plain", "0.0.4", openmetrics=False)
OPENMETRICS: Final = Format("application/openmetrics-text", "1.0.0", openmetrics=True)

# Prometheus stores le="1" and le="1.0" as different series, and OpenMetrics wants the
# latter: so both formats write it, and a change of format breaks no series.
UNITS: Final = ("seconds", "bytes")
SAMPLES_PER_CHUNK: Final = 2_000

# Integral floats are written as integers up to here, where digits begin to be noise.
MAX_INTEGRAL: Final = 1e21

_UNSAFE: Final = re.compile(r'[\\"\n]')
_ESCAPES: Final = {"\\": r"\\", '"': r"\"", "\n": r"\n"}
_NO_LABEL: Final = re.compile(r"[^a-zA-Z0-9_]")

# `le` and `quantile` belong to histograms and summaries.
_RESERVED: Final = frozenset({"service", "graph", "node", "metric", "le", "quantile"})


def negotiate(accept: str) -> Format:
    """Return the format that an Accept header prefers; the plain one in doubt."""
    best, best_quality = TEXT, 0.0
    for item in accept.split(","):
        media, *parameters = (part.strip().lower() for part in item.split(";"))
        wanted = dict(_pair(parameter) for parameter in parameters)
        for offered in (TEXT, OPENMETRICS):
            version = wanted.get("version", offered.version)
            if media == offered.media_type and version == offered.version:
                quality = _quality(wanted.get("q", "1"))
                if quality > best_quality:
                    best, best_quality = offered, quality
    return best


def escape(text: str) -> str:
    """Return a label's value as it is written between quotes."""
    if _UNSAFE.search(text) is None:
        return text
    return _UNSAFE.sub(lambda match: _ESCAPES[match[0]], text)


def number(value: float) -> str:
    """Return a finite number; an integral one without fraction and exponent."""
    if value.is_integer() and abs(value) < MAX_INTEGRAL:
        return str(int(value))
    return repr(value)


def labels_text(labels: Iterable[tuple[str, str]]) -> str:
    """Return labels as they are written between braces."""
    return ",".join(f'{name}="{escape(value)}"' for name, value in labels)


def label_names(
    labels: Iterable[tuple[str, str]], reserved: Iterable[str] = ()
) -> list[tuple[str, str]]:
    """Return a user's labels under names that Prometheus takes.

    What is no letter, digit or `_` becomes `_`; a name that is taken by us, by the
    formats (`le`, `quantile`) or by Prometheus (`__...`) gets `label_` before it; a
    name that occurs twice by then gets a number after it.
    """
    ours = {*_RESERVED, *reserved}
    taken = set(ours)
    found = []
    for name, value in labels:
        clean = _NO_LABEL.sub("_", name)
        if not clean or clean[0].isdigit() or clean.startswith("__") or clean in ours:
            clean = f"label_{clean.lstrip('_')}"
        unique, times = clean, 1
        while unique in taken:
            times += 1
            unique = f"{clean}_{times}"
        taken.add(unique)
        found.append((unique, value))
    return found


class Exposition:
    """Writes families, and keeps what is written in chunks of bytes.

    Strategy: lines come from iterators and are packed as they come, so that a scrape
    of 10,000 series takes a few MB of memory and not the 37 that it has unpacked.
    """

    def __init__(self, format: Format, *, gzip: bool = False) -> None:
        self._format = format
        self._gzip = zlib.compressobj(level=1, wbits=GZIP) if gzip else None
        self._chunks: list[bytes] = []

    def family(self, name: str, type: str, help: str, lines: Iterable[str]) -> None:
        """Write one family.

        Args:
            name: its name; a counter's ends in `_total`.
            type: counter, gauge, histogram or summary.
            help: a sentence.
            lines: its samples, each written by the caller and without a newline; a
                sample may be several lines.
        """
        family = name
        if self._format.openmetrics and type == "counter":
            family = name.removesuffix("_total")
        head = [f"# HELP {family} {help}", f"# TYPE {family} {type}"]
        unit = family.rpartition("_")[2]
        if self._format.openmetrics and unit in UNITS:
            head.append(f"# UNIT {family} {unit}")
        self._write(head)
        rest = iter(lines)
        while part := list(islice(rest, SAMPLES_PER_CHUNK)):
            self._write(part)

    def chunks(self) -> list[bytes]:
        """Return all that was written, and end it."""
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
    """Yield the lines of a family whose values are known by their labels."""
    for names, value in sorted(values.items()):
        if math.isfinite(value):
            text = labels_text(zip(labels, names, strict=True))
            yield f"{name}{braced(text)} {number(value)}"


def braced(labels: str) -> str:
    """Return labels in braces, or nothing for none."""
    return f"{{{labels}}}" if labels else ""


def _pair(parameter: str) -> tuple[str, str]:
    name, _, value = parameter.partition("=")
    return name.strip(), value.strip().strip('"')


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0

"""The newest snapshot for a server: its series, and its format."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from kaywatch_agent.export.encoding import is_end, key_of, messages
from kaywatch_agent.export.exposition import PreviousSnapshot
from kaywatch_agent.export.spool import SnapshotDamaged, Spool

__all__ = ["NewestSnapshot"]

FILE: Final = "format.json"

log = structlog.get_logger("kaywatch.export")


class NewestSnapshot:
    """The newest snapshot; read from disk after a start.

    Its format is what decides which series it has: labels, filters, and whether
    histograms are native.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._file = spool.folder / FILE
        self._format = _read_format(self._file)
        self._keys: set[int] | None = None

    def read(self, format: Mapping[str, object]) -> PreviousSnapshot | None:
        """Return its series; None if there is none.

        Args:
            format: of the snapshot that follows.
        """
        time = self._spool.newest
        if time is None:
            return None
        read = partial(_read_series, self._spool, time)
        if self._keys is None:
            self._keys = set(map(_key, read()))
        is_same = self._format in (None, format)
        return PreviousSnapshot(time, self._keys, read, is_same)

    def replace(self, keys: set[int], format: Mapping[str, object]) -> None:
        """Remember the series and the format of a snapshot that is newer."""
        self._keys = keys
        if format != self._format:
            self._format = format
            # After a crash before this, some new series lack their zero at most.
            with contextlib.suppress(OSError):
                self._file.write_text(json.dumps(format))


def _read_format(file: Path) -> Mapping[str, object] | None:
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _read_series(spool: Spool, time: int) -> Iterator[Any]:
    """Yield the series of a snapshot that had not ended."""
    try:
        for request in spool.requests(time):
            for series in messages.WriteRequest.FromString(request).timeseries:
                if not is_end(series):
                    yield series
    except SnapshotDamaged as damage:
        log.warning("ends of series may be missing", problem=str(damage))


def _key(series: Any) -> int:
    labels = messages.TimeSeries(labels=series.labels)
    return key_of(labels.SerializeToString())

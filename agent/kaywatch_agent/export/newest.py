"""The newest snapshot for a server: its series, and the format of its histograms."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import structlog

from kaywatch_agent.export.encoding import is_end, key_of, messages
from kaywatch_agent.export.exposition import PreviousSnapshot, RemoteWriteExposition
from kaywatch_agent.export.spool import SnapshotDamaged, Spool

__all__ = ["NewestSnapshot"]

_BOUND: Final = "le"  # the label of classic buckets

log = structlog.get_logger("kaywatch.export")


class NewestSnapshot:
    """What is known of the newest snapshot; read from disk after a start.

    Attributes:
        native: whether it has native histograms; None without any histograms.
    """

    def __init__(self, spool: Spool) -> None:
        self.native: bool | None = None
        self._spool = spool
        self._keys: set[int] | None = None

    def read(self) -> PreviousSnapshot | None:
        """Return its series; None if there is none."""
        time = self._spool.newest
        if time is None:
            return None
        read = partial(_read_series, self._spool, time)
        if self._keys is None:
            self._keys = set()
            for series in read():
                self._note_format(series)
                labels = messages.TimeSeries(labels=series.labels)
                self._keys.add(key_of(labels.SerializeToString()))
        return PreviousSnapshot(time, self._keys, read)

    def replace(self, exposition: RemoteWriteExposition) -> None:
        """Remember a snapshot that is newer."""
        self.native, self._keys = exposition.histograms.native, exposition.keys

    def _note_format(self, series: Any) -> None:
        if series.histograms:
            self.native = True
        elif any(label.name == _BOUND for label in series.labels):
            self.native = False


def _read_series(spool: Spool, time: int) -> Iterator[Any]:
    """Yield the series of a snapshot that had not ended."""
    try:
        for request in spool.requests(time):
            for series in messages.WriteRequest.FromString(request).timeseries:
                if not is_end(series):
                    yield series
    except SnapshotDamaged as damage:
        log.warning("ends of series may be missing", problem=str(damage))

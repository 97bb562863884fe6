"""Decides whether a server gets native histograms or classic ones.

A server without native histograms answers 500 (Prometheus without the feature), or it
answers 204 and stores nothing (VictoriaMetrics before 1.100). Strategy: its query API
is asked for a counter and for a histogram of the same snapshot. If only the counter is
there, after two snapshots, then histograms are discarded.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

import structlog

from kaywatch_agent.export.client import QueryFailed, RemoteWriteClient, Unavailable
from kaywatch_agent.export.config import RemoteWriteConfig
from kaywatch_agent.export.sender import SentNames

__all__ = ["HistogramSupport", "NativeStatus", "stored_names"]

# After this many snapshots of which only the counters were found.
CONFIRMATIONS: Final = 2
# Its file is kept beside the snapshots: a restart must not send native histograms
# again, because the classic series would end, and begin a second time from zero.
FILE: Final = "classic"

log = structlog.get_logger("kaywatch.export")


class NativeStatus(StrEnum):
    """Whether a server stores native histograms, as far as that is known."""

    UNKNOWN = "unknown"
    STORED = "stored"
    REFUSED = "refused"
    DISCARDED = "discarded"  # accepted, and not stored
    UNVERIFIED = "unverified"  # its query API gives no answer


_NOTES: Final = {
    NativeStatus.REFUSED: "the server refuses native histograms",
    NativeStatus.DISCARDED: "the server accepts native histograms and discards them",
}
_LACKING: Final = frozenset(_NOTES)


class HistogramSupport:
    """The knowledge about one server, as stored on disk.

    Attributes:
        status: whether it stores native histograms.
        unverified: how many native histograms it accepted since, without verification.
    """

    def __init__(
        self, config: RemoteWriteConfig, folder: Path, client: RemoteWriteClient
    ) -> None:
        """Read what an earlier process found out.

        Args:
            config: of the server.
            folder: of its snapshots.
            client: asks its query API.
        """
        self.unverified = 0
        self.status = NativeStatus.UNKNOWN
        self._name = config.identity
        self._mode = config.histograms
        self._file = folder / FILE
        self._client = client
        self._labels = config.all_labels
        self._missing = 0
        if self._mode == "auto":
            with contextlib.suppress(OSError, ValueError):
                self.status = NativeStatus(self._file.read_text().strip())
        else:
            self._file.unlink(missing_ok=True)

    @property
    def native(self) -> bool:
        """Whether snapshots have native histograms."""
        if self._mode == "auto":
            return self.status not in _LACKING
        return self._mode == "native"

    @property
    def note(self) -> str:
        """Why classic histograms are sent; empty for native ones, or if configured."""
        if self._mode != "auto" or self.native:
            return ""
        return f"{_NOTES[self.status]}: classic ones are sent"

    @property
    def problem(self) -> str:
        """Why histograms are lost; empty if they are not."""
        if self._mode != "native" or self.status not in _LACKING:
            return ""
        return f'{_NOTES[self.status]}: set histograms = "classic"'

    def refuse(self) -> None:
        """Record that the server refused native histograms."""
        self._decide(NativeStatus.REFUSED)

    async def verify(self, names: SentNames) -> None:
        """Ask the server whether it stored a snapshot's histograms, unless known.

        Args:
            names: metrics of the snapshot that it accepted last.
        """
        if self.status is not NativeStatus.UNKNOWN or not names.native:
            return
        try:
            stored = await stored_names(
                self._client,
                [names.native, names.other],
                {**self._labels, "epoch": names.epoch},
            )
        except QueryFailed as error:
            log.info("cannot verify histograms", server=self._name, problem=str(error))
            self.status = NativeStatus.UNVERIFIED
            return
        except Unavailable:
            return
        if names.native in stored:
            self.status = NativeStatus.STORED
        elif names.other in stored:
            self._missing += 1
            if self._missing >= CONFIRMATIONS:
                self._decide(NativeStatus.DISCARDED)

    # -- inside ------------------------------------------------------------------------

    def _decide(self, status: NativeStatus) -> None:
        if self.status is status:
            return
        self.status = status
        log.warning(
            _NOTES[status],
            server=self._name,
            histograms="native" if self.native else "classic",
        )
        if self._mode == "auto":
            with contextlib.suppress(OSError):
                self._file.write_text(status)


async def stored_names(
    client: RemoteWriteClient, names: Collection[str], labels: Mapping[str, str]
) -> set[str]:
    """Return which of some metrics a server has.

    A histogram that the server converted counts as stored.

    Args:
        client: asks the server.
        names: of the metrics.
        labels: of the series.

    Raises:
        QueryFailed: its query API gives no answer.
        Unavailable: there was no response.
    """
    matchers = [f'__name__=~"({"|".join(names)})(_bucket|_count)?"']
    # A string in PromQL has the escapes of one in JSON.
    matchers += [f"{name}={json.dumps(value)}" for name, value in labels.items()]
    found = await client.query(f"count by (__name__) ({{{','.join(matchers)}}})")
    return {
        name
        for name in names
        if found.keys() & {name, f"{name}_bucket", f"{name}_count"}
    }

"""Prometheus remote write: starts and ends of series, and results of snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from kaywatch_agent.export.client import RemoteWriteClient
from kaywatch_agent.export.config import RemoteWriteConfig
from kaywatch_agent.export.exposition import HistogramFormat, RemoteWriteExposition
from kaywatch_agent.export.histogram_support import HistogramSupport, NativeStatus
from kaywatch_agent.export.metrics import ExportMetrics
from kaywatch_agent.export.newest import NewestSnapshot
from kaywatch_agent.export.sender import RejectReason, SnapshotSender
from kaywatch_agent.export.snapshot_export import SnapshotExport, metric_filter
from kaywatch_agent.export.spool import Spool
from kaywatch_agent.notify.http import HttpClient
from kaywatch_agent.web.prometheus import families
from kaywatch_agent.web.snapshot import AgentSnapshot

__all__ = ["RemoteWrite"]

_OF_NATIVE_STATUS: Final = {
    NativeStatus.REFUSED: RejectReason.NATIVE_DISABLED,
    NativeStatus.DISCARDED: RejectReason.NATIVE_DISCARDED,
}
_OF_NATIVE: Final = frozenset(_OF_NATIVE_STATUS.values())


class RemoteWrite(SnapshotExport[RemoteWriteConfig, SnapshotSender]):
    """Sends to one server.

    Attributes:
        histograms: whether it gets native ones.
    """

    def __init__(
        self,
        config: RemoteWriteConfig,
        spool: Spool,
        *,
        snapshot: Callable[[], AgentSnapshot],
        http: HttpClient,
        metrics: ExportMetrics,
        clock: Callable[[], float],
    ) -> None:
        """Send nothing yet; see `SnapshotExport`.

        Args:
            config: of the server.
            spool: keeps its snapshots.
            snapshot: returns the state of the agent.
            http: sends requests.
            metrics: counts, for all servers.
            clock: returns Unix seconds.
        """
        super().__init__(config, spool, snapshot=snapshot, metrics=metrics, clock=clock)
        self._client = RemoteWriteClient(config, http)
        self.histograms = HistogramSupport(config, spool.folder, self._client)
        self._newest = NewestSnapshot(spool)
        self._taken: tuple[set[int], dict[str, object]] = (set(), {})

    @property
    def problem(self) -> str:
        """Why the server does not get everything; empty if it does."""
        return "; ".join(filter(None, (super().problem, self.histograms.problem)))

    @property
    def note(self) -> str:
        """Why the server gets classic histograms; empty if it does not."""
        return self.histograms.note

    @property
    def native(self) -> bool | None:
        """Whether native histograms are sent."""
        return self.histograms.native

    # -- inside ------------------------------------------------------------------------

    def _encode(
        self, time: int, snapshot: AgentSnapshot
    ) -> Mapping[int, Iterable[bytes]]:
        epoch = str(int(snapshot.view.since))
        format = self._format()
        exposition = RemoteWriteExposition(
            time,
            {**self.config.all_labels, "epoch": epoch},
            metric_filter(self.config),
            HistogramFormat(bool(format["native"]), self.config.max_buckets),
            self._newest.read(format),
        )
        families.write(snapshot, exposition)
        snapshots = {time: exposition.chunks()}
        if births := exposition.births():
            snapshots[time - 1] = births
        self._taken = (exposition.keys, format)
        return snapshots

    def _kept(self) -> None:
        self._newest.replace(*self._taken)

    def _format(self) -> dict[str, object]:
        """Return what decides which series a snapshot has, as values of JSON."""
        return {
            "labels": self.config.all_labels,
            "include": list(self.config.include),
            "exclude": list(self.config.exclude),
            "native": self.histograms.native,
        }

    def _transfer(self, time: int) -> SnapshotSender:
        return SnapshotSender(
            self.spool.requests(time), self._client, drop_native=self._drop_native()
        )

    async def _finish(self, transfer: SnapshotSender, time: int) -> None:
        self._account(transfer, time)
        if self.spool.oldest is None:
            await self.histograms.verify(transfer.names)
        self._count_native()

    def _account(self, sender: SnapshotSender, time: int) -> None:
        """Count what became of a snapshot."""
        self.metrics.accepted.labels(self.name).add(sender.accepted)
        for reason, number in sender.dropped.items():
            self.metrics.dropped.labels(self.name, reason).add(number)
        self.histograms.unverified += sender.accepted_native
        if sender.native_refused:
            self.histograms.refuse()
        rejected: dict[str, int] = {
            reason: number
            for reason, number in sender.dropped.items()
            if reason not in _OF_NATIVE or self.config.histograms != "auto"
        }
        # The births of the next snapshot say nothing about its values.
        if rejected or self.spool.oldest != time + 1:
            self._reject(rejected)

    def _drop_native(self) -> RejectReason | None:
        """Return why native histograms of waiting snapshots are not sent, if so."""
        if self.histograms.native:
            return None
        return _OF_NATIVE_STATUS.get(self.histograms.status)

    def _count_native(self) -> None:
        """Count accepted native histograms, once it is known if they were stored."""
        status = self.histograms.status
        if status is NativeStatus.UNKNOWN:
            return
        number, self.histograms.unverified = self.histograms.unverified, 0
        if status is NativeStatus.DISCARDED:
            reason = RejectReason.NATIVE_DISCARDED
            self.metrics.dropped.labels(self.name, reason).add(number)
        else:
            self.metrics.accepted.labels(self.name).add(number)

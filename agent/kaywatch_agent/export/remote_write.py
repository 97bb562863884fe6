"""Sends all metrics to servers at an interval, exactly once each, through outages.

Strategy: one task takes snapshots of what is durable, and writes them to the spool; the
other sends the oldest snapshot until the server has it, and goes on with the next one.
Values are cumulative, so a snapshot that is not taken costs resolution and no count:
while the spool fills up, fewer are taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import cache
from itertools import count
from random import random
from typing import Final

import structlog

from kaywatch_agent.export.client import RemoteWriteClient, Unavailable
from kaywatch_agent.export.config import RemoteWriteConfig
from kaywatch_agent.export.exposition import HistogramFormat, RemoteWriteExposition
from kaywatch_agent.export.histogram_support import HistogramSupport, NativeStatus
from kaywatch_agent.export.metrics import RemoteWriteMetrics
from kaywatch_agent.export.newest import NewestSnapshot
from kaywatch_agent.export.sender import RejectReason, SnapshotSender
from kaywatch_agent.export.spool import SnapshotDamaged, Spool
from kaywatch_agent.notify.http import HttpClient
from kaywatch_agent.regex import Expression
from kaywatch_agent.units import parse_duration, parse_size
from kaywatch_agent.web.prometheus import families
from kaywatch_agent.web.snapshot import AgentSnapshot

__all__ = ["RemoteWrite"]

# Pauses after failed requests, in seconds: doubled each time.
FIRST_PAUSE: Final = 0.5
MAX_PAUSE: Final = 30.0

# The shares of `max_disk` in use from which on only each n-th snapshot is taken.
STRETCH: Final = ((1.0, 0), (0.9, 64), (0.75, 16), (0.5, 4), (0.0, 1))

_OF_NATIVE_STATUS: Final = {
    NativeStatus.REFUSED: RejectReason.NATIVE_DISABLED,
    NativeStatus.DISCARDED: RejectReason.NATIVE_DISCARDED,
}
_OF_NATIVE: Final = frozenset(_OF_NATIVE_STATUS.values())

log = structlog.get_logger("kaywatch.export")


class RemoteWrite:
    """Sends to one server.

    Attributes:
        config: of the server.
        spool: the snapshots that it does not have yet.
        rejected: the series of the last snapshot that it rejected, by reason.
        histograms: whether it gets native ones.
    """

    def __init__(
        self,
        config: RemoteWriteConfig,
        spool: Spool,
        *,
        snapshot: Callable[[], AgentSnapshot],
        http: HttpClient,
        metrics: RemoteWriteMetrics,
        clock: Callable[[], float],
    ) -> None:
        """Send nothing yet.

        Args:
            config: of the server.
            spool: keeps its snapshots.
            snapshot: returns the state of the agent.
            http: sends requests.
            metrics: counts, for all servers.
            clock: returns Unix seconds.
        """
        self.spool = spool
        self.rejected: Mapping[str, int] = {}
        self.config = config
        self._snapshot = snapshot
        self._client = RemoteWriteClient(config, http)
        self.histograms = HistogramSupport(config, spool.folder, self._client)
        self._clock = clock
        self._metrics = metrics
        self._newest = NewestSnapshot(spool)
        self._wake = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._problems: dict[str, str] = {}  # by the task that has it

    @property
    def name(self) -> str:
        """The name of the server."""
        return self.config.identity

    @property
    def problem(self) -> str:
        """Why the server does not get everything; empty if it does."""
        return "; ".join(
            filter(None, (*self._problems.values(), self.histograms.problem))
        )

    def lag(self) -> float:
        """Return the age of the oldest snapshot that the server does not have."""
        oldest = self.spool.oldest
        return 0.0 if oldest is None else max(0.0, self._clock() - oldest / 1000)

    def completeness(self) -> float | None:
        """Return the share of the series sent so far that the server accepted."""
        accepted = self._metrics.series.labels(self.name).value
        dropped = sum(
            value
            for (name, _), value in self._metrics.dropped.samples().items()
            if name == self.name
        )
        return accepted / (accepted + dropped) if accepted + dropped else None

    async def run(self) -> None:
        """Take snapshots and send them, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._run_snapshots(), name="snapshots")
                tasks.create_task(self._run_requests(), name="requests")
        finally:
            # Only then may another one use the spool.
            if self._writing is not None:
                await asyncio.wait([self._writing])

    async def _run_snapshots(self) -> None:
        """Take a snapshot at every interval, until cancelled."""
        seconds = parse_duration(self.config.interval)
        for turn in count(1):
            # On multiples of the interval, so that a restart keeps the rhythm.
            pause = seconds - self._clock() % seconds
            await asyncio.sleep(pause if pause > seconds / 10 else pause + seconds)
            if self._is_due(turn):
                await self.take()
            else:
                self._metrics.skipped.labels(self.name).add()

    async def _run_requests(self) -> None:
        """Send the snapshots in order, until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.send_all()
            except Exception as error:
                log.exception("remote write failed; retrying", server=self.name)
                self._problems["send"] = f"{type(error).__name__}: {error}"
                await asyncio.sleep(MAX_PAUSE)
                continue
            await self._wake.wait()

    async def take(self) -> None:
        """Write a snapshot of what is durable to the spool."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        time, newest = int(self._clock() * 1000), self.spool.newest
        if newest is not None and time - 1 <= newest:
            self._metrics.skipped.labels(self.name).add()
            self._problems["take"] = "the clock was set back"
            return
        work = asyncio.to_thread(self._take, time, self._snapshot())
        # A thread can't be cancelled: the next snapshot waits for it.
        self._writing = asyncio.create_task(work, name="remote write snapshot")
        try:
            await asyncio.shield(self._writing)
        except Exception as error:
            if not isinstance(error, OSError):
                log.exception("snapshot failed", server=self.name)
            self._problems["take"] = f"cannot write a snapshot: {error}"
            return
        self._problems["take"] = ""
        self._wake.set()

    async def send_all(self) -> None:
        """Send all snapshots, however long the server cannot be reached."""
        while (time := self.spool.oldest) is not None:
            sender = SnapshotSender(
                self.spool.requests(time), self._client, drop_native=self._drop_native()
            )
            pause = FIRST_PAUSE
            try:
                while not await self._send(sender):
                    await asyncio.sleep(max(pause * (0.5 + random() / 2), sender.after))
                    pause = min(pause * 2, MAX_PAUSE)
            except SnapshotDamaged as damage:
                log.warning("snapshot dropped", server=self.name, problem=str(damage))
                self._metrics.skipped.labels(self.name).add()
            self.spool.mark_sent(time)
            self._account(sender, time)
            if self.spool.oldest is None:
                await self.histograms.verify(sender.names)
            self._count_native()

    # -- inside ------------------------------------------------------------------------

    def _is_due(self, turn: int) -> bool:
        """Return whether to take a snapshot, though others may wait."""
        share = self.spool.size / parse_size(self.config.max_disk)
        every = next(every for least, every in STRETCH if share >= least)
        return every > 0 and turn % every == 0

    def _take(self, time: int, snapshot: AgentSnapshot) -> None:
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
        self.spool.add(snapshots)
        self._newest.replace(exposition.keys, format)

    def _format(self) -> dict[str, object]:
        """Return what decides which series a snapshot has, as values of JSON."""
        return {
            "labels": self.config.all_labels,
            "include": list(self.config.include),
            "exclude": list(self.config.exclude),
            "native": self.histograms.native,
        }

    async def _send(self, sender: SnapshotSender) -> bool:
        """Send the rest of a snapshot; return whether the server has answered all."""
        try:
            await sender.send()
        except Unavailable as error:
            self._metrics.failures.labels(self.name).add()
            problem = str(error)
            if not self._problems.get("send"):
                log.warning("remote write fails", server=self.name, problem=problem)
            self._problems["send"] = problem
            return False
        if self._problems.pop("send", ""):
            log.info("remote write works again", server=self.name)
        return True

    def _account(self, sender: SnapshotSender, time: int) -> None:
        """Count what became of a snapshot."""
        self._metrics.series.labels(self.name).add(sender.accepted)
        for reason, number in sender.dropped.items():
            self._metrics.dropped.labels(self.name, reason).add(number)
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
            self.rejected = rejected
            texts = (f"{number} {reason}" for reason, number in rejected.items())
            self._problems["drop"] = (
                f"series rejected: {', '.join(texts)}" if rejected else ""
            )

    def _drop_native(self) -> RejectReason | None:
        """Return why native histograms of waiting snapshots are not sent, if so."""
        if self.histograms.native:
            return None
        return _OF_NATIVE_STATUS.get(self.histograms.status)

    def _count_native(self) -> None:
        """Count the accepted native histograms, once their fate is known."""
        status = self.histograms.status
        if status is NativeStatus.UNKNOWN:
            return
        number, self.histograms.unverified = self.histograms.unverified, 0
        if status is NativeStatus.DISCARDED:
            reason = RejectReason.NATIVE_DISCARDED
            self._metrics.dropped.labels(self.name, reason).add(number)
        else:
            self._metrics.series.labels(self.name).add(number)


def metric_filter(config: RemoteWriteConfig) -> Callable[[str], bool]:
    """Return what decides by its name whether a metric is sent."""
    include = [Expression(pattern) for pattern in config.include]
    exclude = [Expression(pattern) for pattern in config.exclude]

    @cache
    def is_sent(name: str) -> bool:
        included = not include or any(each.fullmatch(name) for each in include)
        return included and not any(each.fullmatch(name) for each in exclude)

    return is_sent

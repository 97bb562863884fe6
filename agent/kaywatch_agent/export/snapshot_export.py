"""Sends all metrics to a server at an interval, through outages and restarts.

Strategy: one task takes snapshots of what is durable, and writes them to the spool; the
other sends the oldest snapshot until the server has it, and goes on with the next one.
Values are cumulative, so a snapshot that is not taken costs resolution and no count:
while the spool fills up, fewer are taken.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import count
from random import random
from typing import Final, Generic, Protocol, TypeVar

import structlog

from kaywatch_agent.export.client import Unavailable
from kaywatch_agent.export.config import TargetConfig
from kaywatch_agent.export.metrics import ExportMetrics
from kaywatch_agent.export.spool import SnapshotDamaged, Spool
from kaywatch_agent.regex import Expression
from kaywatch_agent.units import parse_duration, parse_size
from kaywatch_agent.web.snapshot import AgentSnapshot

__all__ = ["SnapshotExport", "Transfer", "metric_filter"]

# Pauses after failed requests, in seconds: doubled each time.
FIRST_PAUSE: Final = 0.5
MAX_PAUSE: Final = 30.0

# The shares of `max_disk` in use from which on only each n-th snapshot is taken.
STRETCH: Final = ((1.0, 0), (0.9, 64), (0.75, 16), (0.5, 4), (0.0, 1))

log = structlog.get_logger("kaywatch.export")


class Transfer(Protocol):
    """Sends one snapshot."""

    @property
    def after(self) -> float:
        """How long the server asks to wait after `Unavailable`, in seconds."""

    async def send(self) -> None:
        """Send the rest of the snapshot.

        Raises:
            Unavailable: the server cannot be reached, or cannot answer now.
            SnapshotDamaged: the snapshot cannot be read.
        """


ConfigT = TypeVar("ConfigT", bound=TargetConfig)
TransferT = TypeVar("TransferT", bound=Transfer)


class SnapshotExport(ABC, Generic[ConfigT, TransferT]):
    """Sends to one server.

    Attributes:
        config: of the server.
        spool: the snapshots that it does not have yet.
        rejected: what it rejected of the last snapshot, by reason.
        metrics: counts, for all servers of this kind.
    """

    def __init__(
        self,
        config: ConfigT,
        spool: Spool,
        *,
        snapshot: Callable[[], AgentSnapshot],
        metrics: ExportMetrics,
        clock: Callable[[], float],
    ) -> None:
        """Send nothing yet.

        Args:
            config: of the server.
            spool: keeps its snapshots.
            snapshot: returns the state of the agent.
            metrics: counts, for all servers of this kind.
            clock: returns Unix seconds.
        """
        self.config = config
        self.spool = spool
        self.rejected: Mapping[str, int] = {}
        self.metrics = metrics
        self._snapshot = snapshot
        self._clock = clock
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
        return "; ".join(filter(None, self._problems.values()))

    @property
    def note(self) -> str:
        """Information that is not a problem; empty for none."""
        return ""

    @property
    def native(self) -> bool | None:
        """Whether native histograms are sent; None if there are no others."""
        return None

    def lag(self) -> float:
        """Return the age of the oldest snapshot that the server does not have."""
        oldest = self.spool.oldest
        return 0.0 if oldest is None else max(0.0, self._clock() - oldest / 1000)

    def completeness(self) -> float | None:
        """Return the share of what was sent so far that the server accepted."""
        accepted = self.metrics.accepted.labels(self.name).value
        dropped = sum(
            value
            for (name, _), value in self.metrics.dropped.samples().items()
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
            # Another export may only use the spool after that.
            if self._writing is not None:
                await asyncio.wait([self._writing])

    async def take(self) -> None:
        """Write a snapshot of what is durable to the spool."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        time, newest = int(self._clock() * 1000), self.spool.newest
        if newest is not None and time - 1 <= newest:
            self.metrics.skipped.labels(self.name).add()
            self._problems["take"] = "the clock was set back"
            return
        work = asyncio.to_thread(self._take, time, self._snapshot())
        # A thread cannot be cancelled: the next snapshot waits for it.
        self._writing = asyncio.create_task(work, name="export snapshot")
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
        """Send all snapshots, however long the server is unreachable."""
        while (time := self.spool.oldest) is not None:
            transfer = self._transfer(time)
            pause = FIRST_PAUSE
            try:
                while not await self._send(transfer):
                    wait = max(pause * (0.5 + random() / 2), transfer.after)
                    await asyncio.sleep(wait)
                    pause = min(pause * 2, MAX_PAUSE)
            except SnapshotDamaged as damage:
                log.warning("snapshot dropped", server=self.name, problem=str(damage))
                self.metrics.skipped.labels(self.name).add()
            self.spool.mark_sent(time)
            await self._finish(transfer, time)

    # -- of each kind of server --------------------------------------------------------

    @abstractmethod
    def _encode(
        self, time: int, snapshot: AgentSnapshot
    ) -> Mapping[int, Iterable[bytes]]:
        """Return the messages of a snapshot, by the time of their samples.

        It runs in a thread.

        Args:
            time: of the snapshot, Unix milliseconds.
            snapshot: the state of the agent.
        """

    def _kept(self) -> None:
        """Note that the last result of `_encode` is durable; runs in the thread."""

    @abstractmethod
    def _transfer(self, time: int) -> TransferT:
        """Return what sends a snapshot of the spool."""

    @abstractmethod
    async def _finish(self, transfer: TransferT, time: int) -> None:
        """Count the results of a snapshot that the server has answered."""

    def _reject(self, rejected: Mapping[str, int]) -> None:
        """Set what was rejected of the last snapshot."""
        self.rejected = rejected
        texts = (f"{number} {reason}" for reason, number in rejected.items())
        problem = f"series rejected: {', '.join(texts)}" if rejected else ""
        self._problems["drop"] = problem

    # -- inside ------------------------------------------------------------------------

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
                self.metrics.skipped.labels(self.name).add()

    async def _run_requests(self) -> None:
        """Send the snapshots in order, until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.send_all()
            except Exception as error:
                log.exception("export failed; retrying", server=self.name)
                self._problems["send"] = f"{type(error).__name__}: {error}"
                await asyncio.sleep(MAX_PAUSE)
                continue
            await self._wake.wait()

    def _is_due(self, turn: int) -> bool:
        """Return whether to take a snapshot, though others may wait."""
        share = self.spool.size / parse_size(self.config.max_disk)
        every = next(every for least, every in STRETCH if share >= least)
        return every > 0 and turn % every == 0

    def _take(self, time: int, snapshot: AgentSnapshot) -> None:
        self.spool.add(self._encode(time, snapshot))
        self._kept()

    async def _send(self, transfer: Transfer) -> bool:
        """Send the rest of a snapshot; return whether the server has answered all."""
        try:
            await transfer.send()
        except Unavailable as error:
            self.metrics.failures.labels(self.name).add()
            problem = str(error)
            if not self._problems.get("send"):
                log.warning("export fails", server=self.name, problem=problem)
            self._problems["send"] = problem
            return False
        if self._problems.pop("send", ""):
            log.info("export works again", server=self.name)
        return True


def metric_filter(config: TargetConfig) -> Callable[[str], bool]:
    """Return a function that decides by a metric's name whether it is sent."""
    include = [Expression(pattern) for pattern in config.include]
    exclude = [Expression(pattern) for pattern in config.exclude]

    @cache
    def is_sent(name: str) -> bool:
        included = not include or any(each.fullmatch(name) for each in include)
        return included and not any(each.fullmatch(name) for each in exclude)

    return is_sent

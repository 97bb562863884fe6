"""Batches wait here for the tick, and are then aggregated together.

Joining batches saves most of their cost: a lone batch of 50 events costs 120 us, one of
many 30 us, and a lone row 127 us instead of 14.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeVar

import structlog

from kaywatch.wire import ErrorCode
from kaywatch_agent.aggregate.aggregator import Aggregator
from kaywatch_agent.aggregate.event_stream import BatchSource, EventStream
from kaywatch_agent.model.client import EVENT_CODES, Client
from kaywatch_agent.model.series import ClientState
from kaywatch_agent.pipeline.flow_control import FlowControl
from kaywatch_agent.pipeline.session import Reply, Session
from kaywatch_agent.protocol.batches import NO_DETAILS, BatchReader, JoinedBatches
from kaywatch_agent.protocol.columns import Checked
from kaywatch_agent.protocol.messages import Batch, Details, Events
from kaywatch_agent.protocol.redact import Privacy
from kaywatch_agent.runtime.metrics import Counter, Metrics

__all__ = ["BatchQueue", "QueuedBatch"]

log = structlog.get_logger("kaywatch.agent")

# What may wait for the tick: about 20 ms of work. Beyond it the queue is emptied at
# once. The weight of a batch is what it costs to aggregate: a byte in a column takes
# 10 ns, a byte of rows or details about 16 times as much, and any batch 10 us.
MAX_QUEUED: Final = 2 * 1024 * 1024
LARGE: Final = 64 * 1024  # joining such a batch would only copy it
BATCH_WEIGHT: Final = 1_024
DETAIL_WEIGHT: Final = 16

FAULT: Final = "this agent failed on the batch, which is lost; see its log"

T = TypeVar("T")


class QueueMetrics(Metrics):
    """Events, by what became of them."""

    events = Counter(
        "kaywatch_events_total",
        "Events taken in: executions, runs and custom metrics' values.",
        durable=True,
    )
    rejected = Counter(
        "kaywatch_rejected_total",
        "Events, or whole messages, that could not be used.",
        labels=("reason",),
        durable=True,
    )
    withheld = Counter(
        "kaywatch_failures_withheld_total",
        "Messages of failures not kept, since too many came at once to redact.",
    )


class QueuedBatch(NamedTuple):
    """A batch that waits for the tick.

    Attributes:
        batch: as decoded.
        client: that sent it.
        service: the client's when the batch arrived; it may change.
        session: where errors are reported.
    """

    batch: Batch
    client: Client
    service: str
    session: Session


class BatchQueue:
    """The batches that have arrived since the last tick."""

    def __init__(
        self, aggregator: Aggregator, flow: FlowControl, privacy: Privacy
    ) -> None:
        """Create an empty queue.

        Args:
            aggregator: where events and details go.
            flow: is informed of what arrived from each client.
            privacy: removes from failures what must not be kept.
        """
        self.privacy = privacy
        self.event_stream = EventStream()
        self.metrics = QueueMetrics()
        self._aggregator = aggregator
        self._flow = flow
        self._reader = BatchReader()
        self._columns: list[QueuedBatch] = []
        self._rows: list[QueuedBatch] = []
        self._weight = 0

    def put(self, queued: QueuedBatch, now: float) -> list[Reply]:
        """Keep a batch for the tick, unless that gains nothing; return replies."""
        encoded = queued.batch.encoded
        weight = _weight(queued.batch)
        if weight >= LARGE:
            return self._aggregate([queued], now)
        (self._rows if encoded.events else self._columns).append(queued)
        self._weight += weight
        return self.take_all(now) if self._weight > MAX_QUEUED else []

    def take_rows(self, now: float) -> list[Reply]:
        """Aggregate the batches of rows only; return replies."""
        if not self._rows:
            return []
        queued, self._rows = self._rows, []
        self._weight -= sum(_weight(one.batch) for one in queued)
        return self._aggregate(queued, now)

    def take_all(self, now: float) -> list[Reply]:
        """Aggregate all batches; return replies."""
        queued = self._columns + self._rows
        self._columns, self._rows, self._weight = [], [], 0
        return self._aggregate(queued, now) if queued else []

    # -- inside ------------------------------------------------------------------------

    def _aggregate(self, queued: Sequence[QueuedBatch], now: float) -> list[Reply]:
        """Hand batches to the aggregator; return what was wrong with them.

        A fault of ours with one batch costs that batch alone: nothing of the others is
        lost, or taken twice.
        """
        checked = [Checked() for _ in queued]
        details = [
            self._guarded(partial(self._details, one, noted, now), noted) or NO_DETAILS
            for one, noted in zip(queued, checked, strict=True)
        ]
        waiting = dict.fromkeys(range(len(queued)))
        try:
            for joined in self._joined(queued, checked):
                self._accept(joined, [queued[at] for at in joined.members], now)
                for at in joined.members:
                    del waiting[at]
                for at, events in (
                    joined.each() if self.event_stream.subscribers else ()
                ):
                    self._publish(queued[at], events, details[at], now)
        except Exception:
            log.exception("batches could not be aggregated together")
            for at in waiting:
                self._accept_alone(queued[at], checked[at], now)
        replies: list[Reply] = []
        for one, noted in zip(queued, checked, strict=True):
            if noted.rejected:
                replies += self._reject(one, noted, now)
        return replies

    def _joined(
        self, queued: Sequence[QueuedBatch], checked: Sequence[Checked]
    ) -> Iterator[JoinedBatches]:
        batches = [one.batch for one in queued]
        return self._reader.events(batches, [one.service for one in queued], checked)

    def _accept(
        self, joined: JoinedBatches, queued: Sequence[QueuedBatch], now: float
    ) -> None:
        """Aggregate batches of one table, and account for their events."""
        clients = [one.client for one in queued]
        owners = [client.owner for client in clients]
        accepted = self._aggregator.accept(joined, owners, now)
        for client, taken, late, overflow in zip(clients, *accepted, strict=True):
            client.events += taken
            client.late += late
            client.overflow += overflow
            self._flow.arrived(client.id, taken)
        self.metrics.events.add(sum(accepted.events))

    def _accept_alone(self, queued: QueuedBatch, checked: Checked, now: float) -> None:
        def accept() -> None:
            for joined in self._joined([queued], [Checked()]):
                self._accept(joined, [queued], now)

        self._guarded(accept, checked)

    def _guarded(self, work: Callable[[], T], checked: Checked) -> T | None:
        """Do something with a batch; count the batch as rejected if that fails."""
        try:
            return work()
        except Exception:
            log.exception("a batch, or a part of it, was not aggregated")
            checked.count(ErrorCode.BAD_MESSAGE, FAULT)
            return None

    def _details(self, queued: QueuedBatch, checked: Checked, now: float) -> Details:
        """Take in what a batch contains beside its events."""
        batch, client, service, session = queued
        details = self._reader.details(batch, checked)
        if details is NO_DETAILS:
            return details
        if details.failures:
            failures = self.privacy.failures(details.failures)  # before they are kept
            details = details._replace(failures=failures)
            self.metrics.withheld.add(self.privacy.withheld)
            self.privacy.withheld = 0
        self._aggregator.take_details(details, service, client.id, client.owner, now)
        if client.state is not ClientState.ENDED:  # its bye may have come since
            if details.in_flight is not None:
                client.in_flight = details.in_flight
            if details.loops is not None:
                client.loops = details.loops
        if details.process is not None and not session.ordered:
            sent = batch.sent
            client.sampled(details.process, now if sent is None else sent)
        return details

    def _publish(
        self, queued: QueuedBatch, events: Events, details: Details, now: float
    ) -> None:
        client = queued.client
        sender = BatchSource(now, queued.service, client.pid, client.id)
        self.event_stream.take(events, details.failures, sender)

    def _reject(self, queued: QueuedBatch, checked: Checked, now: float) -> list[Reply]:
        """Count what was wrong with a batch, and report the first of it."""
        client = queued.client
        for reason, events in checked.rejected.items():
            client.rejected[str(reason)] += events
            self.metrics.rejected.labels(str(reason)).add(events)
        refused = sum(checked.rejected[code] for code in EVENT_CODES)
        if refused:
            self._aggregator.lose(queued.service, {"refused": refused}, now)
        code = next(iter(checked.rejected))
        return queued.session.error(code, checked.problem)


def _weight(batch: Batch) -> int:
    """Return what a batch costs when it is aggregated, in bytes of columns."""
    found = batch.encoded
    columns = len(found.executions) + len(found.points) + len(found.runs)
    others = len(found.failures) + len(found.topologies) + len(found.in_flight)
    others += len(found.loops) + len(found.looped) + len(found.events)
    return BATCH_WEIGHT + len(found.table) + columns + DETAIL_WEIGHT * others

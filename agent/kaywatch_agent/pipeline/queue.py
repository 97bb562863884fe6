"""Queue batches until the tick, and aggregate them together.

Joining batches saves most of their cost. A batch of 50 events costs 120 us alone and
30 us among many; a row costs 127 us alone and 14 us among many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeVar

import structlog

from kaywatch.wire import ErrorCode
from kaywatch_agent.aggregate.aggregator import Aggregator
from kaywatch_agent.aggregate.client_clocks import move_in_flight
from kaywatch_agent.aggregate.detail_quota import Detail
from kaywatch_agent.aggregate.event_stream import BatchSource, EventStream
from kaywatch_agent.model.client import EVENT_CODES, Client
from kaywatch_agent.model.series import ClientState
from kaywatch_agent.pipeline.flow_control import FlowControl
from kaywatch_agent.pipeline.session import Reply, Session
from kaywatch_agent.protocol.batches import NO_DETAILS, BatchReader, JoinedBatches
from kaywatch_agent.protocol.columns import BatchErrors
from kaywatch_agent.protocol.messages import Batch, Details, Events
from kaywatch_agent.protocol.redact import Privacy
from kaywatch_agent.runtime.metrics import Counter, Metrics

__all__ = ["BatchQueue", "QueuedBatch"]

log = structlog.get_logger("kaywatch.agent")

# The weight of all queued batches: about 20 ms of work. A full queue is aggregated at
# once. The weight of a batch is its cost of aggregation: a byte in a column takes
# 10 ns, a byte of rows or details about 16 times as much, and any batch 10 us.
MAX_QUEUED: Final = 2 * 1024 * 1024
LARGE: Final = 64 * 1024  # joining a larger batch would only copy it
BATCH_WEIGHT: Final = 1_024
DETAIL_WEIGHT: Final = 16

FAULT: Final = "internal error: the batch was dropped; see the agent's log"

T = TypeVar("T")


class QueueMetrics(Metrics):
    """Accepted, rejected and withheld events."""

    events = Counter(
        "kaywatch_events_total",
        "Accepted events: executions, runs and values of custom metrics.",
        durable=True,
    )
    rejected = Counter(
        "kaywatch_rejected_total",
        "Rejected events or messages, by reason.",
        labels=("reason",),
        durable=True,
    )
    withheld = Counter(
        "kaywatch_failures_withheld_total",
        "Failure messages withheld because a batch had too many secrets to redact.",
    )


class QueuedBatch(NamedTuple):
    """A batch that waits for the tick.

    Attributes:
        batch: the decoded header and the encoded sections.
        client: the sender.
        service: the client's service when the batch arrived; it may change.
        session: receives error messages.
        ahead: seconds by which the agent's clock was ahead of `batch.sent`, when the
            batch arrived.
    """

    batch: Batch
    client: Client
    service: str
    session: Session
    ahead: float = 0.0


class BatchQueue:
    """The batches that have arrived since the last tick."""

    def __init__(
        self, aggregator: Aggregator, flow: FlowControl, privacy: Privacy
    ) -> None:
        """Create an empty queue.

        Args:
            aggregator: receives events and details.
            flow: counts the batches and events of each client.
            privacy: redacts failures.
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
        """Queue a batch, or aggregate it now if it is large; return replies."""
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
        """Aggregate batches; return replies for their errors.

        An internal error affects its own batch only: nothing of the others is lost or
        counted twice.
        """
        checked = [BatchErrors() for _ in queued]
        details = [
            self._guard(partial(self._take_details, one, result, now), result)
            or NO_DETAILS
            for one, result in zip(queued, checked, strict=True)
        ]
        remaining = dict.fromkeys(range(len(queued)))
        try:
            for joined in self._join(queued, checked):
                self._accept(joined, [queued[at] for at in joined.members], now)
                for at in joined.members:
                    del remaining[at]
                for at, events in (
                    joined.each() if self.event_stream.subscribers else ()
                ):
                    self._publish(queued[at], events, details[at], now)
        except Exception:
            log.exception("cannot aggregate batches together; trying each alone")
            for at in remaining:
                self._accept_alone(queued[at], checked[at], now)
        replies: list[Reply] = []
        for one, result in zip(queued, checked, strict=True):
            if result.rejected:
                replies += self._reject(one, result, now)
        return replies

    def _join(
        self, queued: Sequence[QueuedBatch], checked: Sequence[BatchErrors]
    ) -> Iterator[JoinedBatches]:
        batches = [one.batch for one in queued]
        return self._reader.events(batches, [one.service for one in queued], checked)

    def _accept(
        self, joined: JoinedBatches, queued: Sequence[QueuedBatch], now: float
    ) -> None:
        """Aggregate batches that share a table, and count their events."""
        clients = [one.client for one in queued]
        owners = [client.owner for client in clients]
        accepted = self._aggregator.accept(joined, owners, now)
        for client, events, late, overflow in zip(clients, *accepted, strict=True):
            client.events += events
            client.late += late
            client.overflow += overflow
            self._flow.count(client.id, events)
        self.metrics.events.add(sum(accepted.events))

    def _accept_alone(
        self, queued: QueuedBatch, checked: BatchErrors, now: float
    ) -> None:
        def accept() -> None:
            for joined in self._join([queued], [BatchErrors()]):
                self._accept(joined, [queued], now)

        self._guard(accept, checked)

    def _guard(self, work: Callable[[], T], checked: BatchErrors) -> T | None:
        """Call `work`; after an exception, count its batch as rejected."""
        try:
            return work()
        except Exception:
            log.exception("cannot aggregate a batch; its events are dropped")
            checked.count(ErrorCode.BAD_MESSAGE, FAULT)
            return None

    def _take_details(
        self, queued: QueuedBatch, checked: BatchErrors, now: float
    ) -> Details:
        """Process the sections of a batch other than its events."""
        batch, client, service, session, _ = queued
        details = self._reader.details(batch, checked)
        if details is NO_DETAILS:
            return details
        if details.failures:
            self._flow.count_failure(client.id, now)
            # Redacted before any other component can read them.
            failures = self.privacy.redact(details.failures)
            details = details._replace(failures=failures)
            self.metrics.withheld.add(self.privacy.withheld)
            self.privacy.withheld = 0
        self._aggregator.take_details(details, service, client.id, client.owner, now)
        # Its bye may have arrived while the batch was queued.
        if client.state is not ClientState.ENDED:
            self._keep_live(details, queued, now)
        if details.process is not None and not session.ordered:
            sent = batch.sent
            client.add_sample(details.process, now if sent is None else sent)
        return details

    def _keep_live(self, details: Details, queued: QueuedBatch, now: float) -> None:
        """Replace a client's executions in progress, as far as its quota allows."""
        batch, client = queued.batch, queued.client
        keep, owner = self._aggregator.details.keep, client.owner
        if details.in_flight is not None:
            size = len(batch.encoded.in_flight)
            flights = keep(Detail.IN_FLIGHT, client.id, details.in_flight, size, owner)
            client.in_flight = move_in_flight(flights, queued.ahead, now)
        if details.loops is not None:
            size = len(batch.encoded.loops)
            loops = keep(Detail.LOOPS, client.id, details.loops, size, owner)
            client.loops = tuple(loops)

    def _publish(
        self, queued: QueuedBatch, events: Events, details: Details, now: float
    ) -> None:
        client = queued.client
        sender = BatchSource(now, queued.service, client.pid, client.id)
        self.event_stream.take(events, details.failures, sender)

    def _reject(
        self, queued: QueuedBatch, checked: BatchErrors, now: float
    ) -> list[Reply]:
        """Count the rejected events of a batch, and report the first error."""
        client = queued.client
        for reason, events in checked.rejected.items():
            client.rejected[str(reason)] += events
            self.metrics.rejected.labels(str(reason)).add(events)
        rejected = sum(checked.rejected[code] for code in EVENT_CODES)
        if rejected:
            self._aggregator.count_lost(queued.service, {"refused": rejected}, now)
        code = next(iter(checked.rejected))
        return queued.session.error(code, checked.problem)


def _weight(batch: Batch) -> int:
    """Return the cost of aggregating a batch, as an equivalent of column bytes."""
    encoded = batch.encoded
    columns = len(encoded.executions) + len(encoded.points) + len(encoded.runs)
    others = len(encoded.failures) + len(encoded.topologies) + len(encoded.in_flight)
    others += len(encoded.loops) + len(encoded.looped) + len(encoded.events)
    return BATCH_WEIGHT + len(encoded.table) + columns + DETAIL_WEIGHT * others

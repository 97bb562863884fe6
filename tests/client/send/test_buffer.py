from __future__ import annotations

import sys
import threading
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from kaywatch._send.buffer import Buffer, EncodedBatch
from kaywatch.wire import DropReason


def pack_batch(seq: int, size: int = 10, events: int = 1, **drops: int) -> EncodedBatch:
    return EncodedBatch(seq, bytes(size), events, drops)


def fill_buffer(*seqs: int, limit: int = 1_000) -> Buffer:
    buffer = Buffer(limit)
    for seq in seqs:
        buffer.append(pack_batch(seq))
    return buffer


def unsent(buffer: Buffer) -> list[int]:
    """Take all that has not been sent on this connection."""
    results = []
    while (batch := buffer.next_unsent()) is not None:
        results.append(batch.seq)
    return results


def test_batches_are_sent_once_in_order() -> None:
    buffer = fill_buffer(1, 2, 3)
    assert unsent(buffer) == [1, 2, 3]
    assert unsent(buffer) == []
    buffer.append(pack_batch(4))
    assert unsent(buffer) == [4]


def test_sent_batches_are_kept_until_acknowledged() -> None:
    buffer = fill_buffer(1, 2, 3)
    unsent(buffer)
    assert (len(buffer), buffer.bytes, buffer.events) == (3, 30, 3)
    buffer.ack(2)
    assert (len(buffer), buffer.bytes, buffer.acked_events) == (1, 10, 2)
    buffer.ack(2)
    assert buffer.acked_events == 2
    buffer.ack(9)
    assert (len(buffer), buffer.bytes, buffer.acked_events) == (0, 0, 3)


def test_new_connection_resends_all_unacknowledged_batches() -> None:
    buffer = fill_buffer(1, 2, 3)
    unsent(buffer)
    buffer.ack(1)
    buffer.restart(0)
    assert unsent(buffer) == [2, 3]


def test_batches_acknowledged_on_reconnect_are_not_resent() -> None:
    buffer = fill_buffer(1, 2, 3)
    unsent(buffer)
    buffer.restart(2)
    assert unsent(buffer) == [3]


def test_full_buffer_drops_and_counts_the_oldest() -> None:
    buffer = fill_buffer(1, 2, 3, limit=30)
    buffer.append(pack_batch(4, 15, events=7))
    assert (len(buffer), buffer.first_seq) == (2, 3)
    assert buffer.dropped == {"buffer_full": 2}
    assert buffer.take_drops() == {"buffer_full": 2}
    assert buffer.take_drops() == {}
    assert unsent(buffer) == [3, 4]


def test_a_batch_larger_than_the_buffer_is_still_sent() -> None:
    buffer = fill_buffer(1, 2, limit=30)
    buffer.append(pack_batch(3, 100))
    assert unsent(buffer) == [3]
    assert buffer.dropped == {"buffer_full": 2}


def test_batch_dropped_after_sending_is_lost_unless_the_agent_has_it() -> None:
    buffer = fill_buffer(1, 2, 3, limit=30)
    unsent(buffer)
    for seq in (4, 5, 6):
        buffer.append(pack_batch(seq))
    assert buffer.dropped == {}
    buffer.restart(2)
    assert buffer.dropped == {"buffer_full": 1}
    assert buffer.acked_events == 2
    assert unsent(buffer) == [4, 5, 6]


def test_ack_of_a_later_batch_covers_an_earlier_dropped_one() -> None:
    buffer = fill_buffer(1, 2, 3, limit=30)
    unsent(buffer)
    buffer.append(pack_batch(4))
    unsent(buffer)
    buffer.ack(4)
    assert (len(buffer), buffer.acked_events, buffer.dropped) == (0, 4, {})


def test_drops_are_reported_again_if_their_batch_is_dropped() -> None:
    buffer = fill_buffer(limit=30)
    buffer.append(pack_batch(1, events=5, rejected=3))
    for seq in (2, 3, 4):
        buffer.append(pack_batch(seq))
    assert buffer.take_drops() == {"buffer_full": 5, "rejected": 3}
    # What was lost is counted once, the report is only made again.
    assert buffer.dropped == {"buffer_full": 5}


def test_rejected_batch_is_removed_and_counted() -> None:
    buffer = fill_buffer(1, 2, 3)
    unsent(buffer)
    buffer.reject(2)
    buffer.reject(2)
    assert (len(buffer), buffer.bytes) == (2, 20)
    assert buffer.dropped == {"rejected": 1}
    buffer.restart(0)
    assert unsent(buffer) == [1, 3]


def test_events_dropped_before_batching_are_counted_by_reason() -> None:
    buffer = Buffer()
    buffer.count_drop("pending_full", 3)
    buffer.count_drop("unpackable", 0)
    buffer.count_drop("pending_full", 2)
    assert buffer.take_drops() == {"pending_full": 5}
    assert buffer.dropped == {"pending_full": 5}


class Delivery:
    """An agent that commits received batches, on connections that may break."""

    def __init__(self) -> None:
        self.committed = 0  # the highest seq
        self.events = 0
        self.drops: Counter[str] = Counter()

    def take(self, batch: EncodedBatch) -> None:
        if batch.seq > self.committed:
            self.committed = batch.seq
            self.events += batch.events
            self.drops.update(batch.drops)


steps = st.lists(
    st.sampled_from(["record", "record", "record", "send", "ack", "reconnect"]),
    max_size=80,
)


@settings(deadline=None)
@given(steps, st.integers(20, 80))
def test_every_event_is_delivered_or_reported_as_dropped(
    actions: list[str], limit: int
) -> None:
    buffer, agent = Buffer(limit), Delivery()
    recorded = seq = 0
    # A greeting at the end settles what became of all that was sent.
    for step in [*actions, "reconnect", "send", "record", "send", "ack", "reconnect"]:
        if step == "record":
            seq += 1
            recorded += seq
            buffer.append(EncodedBatch(seq, bytes(10), seq, buffer.take_drops()))
        elif step == "send":
            while (batch := buffer.next_unsent()) is not None:
                agent.take(batch)
        elif step == "ack":
            buffer.ack(agent.committed)
        else:
            buffer.restart(agent.committed)
        assert buffer.bytes == 10 * len(buffer)
        assert buffer.bytes <= max(limit, 10)
    assert len(buffer) == 0
    assert recorded == buffer.acked_events + buffer.dropped.total()
    assert buffer.acked_events == agent.events
    unreported = Counter(buffer.take_drops())
    assert buffer.dropped == agent.drops + unreported
    assert buffer.dropped.keys() <= {DropReason.BUFFER_FULL}


def test_any_thread_may_read_the_number_of_events() -> None:
    buffer = Buffer(limit=100_000)
    going = threading.Event()

    def send() -> None:
        for seq in range(1, 60_000):
            buffer.append(EncodedBatch(seq, b"x" * 50, 1, {}))
        going.set()

    sender = threading.Thread(target=send)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        sender.start()
        while not going.is_set():
            assert 0 <= buffer.events <= 2_001
    finally:
        sys.setswitchinterval(interval)
        sender.join()

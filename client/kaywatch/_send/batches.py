"""Packs recorded events into numbered batches, kept until the agent has them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from kaywatch import wire
from kaywatch._send.buffer import DEFAULT_BYTES, Buffer, EncodedBatch
from kaywatch._send.identity import ClientIdentity
from kaywatch._send.packer import BatchContent, Packer
from kaywatch.recorder import Recorder

__all__ = ["Batches"]

# Then batches are sent, even if events arrive faster than they are packed.
MAX_BATCHES_PER_STEP: Final = 40
MAX_ROW: Final = 44  # bytes of an event in its columns
MAX_NUMBER_GROWTH: Final = 8  # bytes by which another `seq` may be longer


class Batches:
    """The batches of one process.

    Attributes:
        identity: of the process.
        buffer: the batches that the agent has not acknowledged.
        seq: the number of the last batch.
        recorded: events recorded so far, including dropped ones.
    """

    def __init__(
        self,
        identity: ClientIdentity,
        recorder: Recorder,
        buffer_bytes: int = DEFAULT_BYTES,
    ) -> None:
        self.identity = identity
        self.buffer = Buffer(buffer_bytes)
        self.seq = 0
        self.recorded = 0
        self._recorder = recorder
        self._packer = Packer(recorder)
        self._dropped = 0  # by the recorder, as counted here so far

    def is_drained(self, through: int | None = None) -> bool:
        """Return whether the agent has committed all recorded events.

        Args:
            through: the last batch that matters; None for all events.
        """
        first = self.buffer.first_seq
        if through is not None:
            return not first or first > through
        recorder = self._recorder
        pending = any(events.flat for events in recorder.pending) or recorder.failures
        return not pending and not first

    def pack(self, largest: int) -> int:
        """Take the pending events out of the recorder; return their number.

        Args:
            largest: the maximum size of a batch in bytes.
        """
        total = 0
        self._recorder.rearm()
        # The table of names may take half of a batch.
        limit = min(wire.MAX_BATCH_EVENTS, max(1, largest // 2 // MAX_ROW))
        for _ in range(MAX_BATCHES_PER_STEP):
            content = self._packer.take(limit)
            self._count_dropped()
            if content is None:
                break
            self.recorded += content.events + content.unpackable
            self.buffer.count_drop(wire.DropReason.UNPACKABLE, content.unpackable)
            total += content.events
            self.append(content)
        return total

    def append(self, content: BatchContent) -> None:
        """Add one batch to the buffer."""
        drops = self.buffer.take_drops()
        message = wire.batch(
            client=self.identity.client,
            seq=self.seq + 1,
            sent=time.time(),
            service=self.identity.service,
            recorded=self.recorded,
            sections=content.sections,
            drops=drops,
        )
        if len(message) > wire.MAX_FRAME:
            # Thousands of long names at once: every agent would reject it.
            self.buffer.count_drop(wire.DropReason.UNPACKABLE, content.events)
            self.buffer.report_again(drops)
            return
        self.seq += 1
        self.buffer.append(EncodedBatch(self.seq, message, content.events, drops))

    def split_unsent(self, largest: int) -> None:
        """Split the unsent batches that are too large, and renumber all of them.

        Args:
            largest: the maximum size of a batch in bytes. An event that exceeds it
                alone is dropped.
        """
        first = self.buffer.first_unsent
        if first is not None:
            self.seq = first.seq - 1
            self.buffer.replace_unsent(lambda batch: self._split(batch, largest))

    def resend_state(self) -> None:
        """Put all topologies, and what is in progress, in the next batch."""
        self._packer.resend_state()

    def goodbye(self) -> bytes:
        """Return the last message of an orderly end; it reports unsent events."""
        self.buffer.drop_unsent()
        return wire.bye(self.identity.client, self.seq, self.buffer.take_drops())

    def _split(self, batch: EncodedBatch, largest: int) -> Iterator[EncodedBatch]:
        """Yield a batch in parts, under the numbers that follow the present one."""
        from kaywatch._send.splitting import split  # only those with a broker need it

        head = wire.decode(batch.message)
        sections = {key: head.pop(key) for key in wire.SECTIONS if key in head}
        room = largest - MAX_NUMBER_GROWTH
        lost, drops = batch.events, batch.drops
        for part in split(sections, lambda s: len(wire.pack(head | s)) <= room):
            self.seq += 1
            message = wire.pack({**head, "seq": self.seq, **part.sections})
            yield EncodedBatch(self.seq, message, part.events, drops)
            lost -= part.events
            # The first part has reported them.
            drops = {}
            head.pop("drops", None)
        self.buffer.count_drop(wire.DropReason.UNPACKABLE, lost)
        self.buffer.report_again(drops)

    def _count_dropped(self) -> None:
        dropped = sum(events.dropped for events in self._recorder.pending)
        new, self._dropped = dropped - self._dropped, dropped
        self.recorded += new
        self.buffer.count_drop(wire.DropReason.PENDING_FULL, new)

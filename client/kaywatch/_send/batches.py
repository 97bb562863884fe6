"""Packs what was recorded into numbered batches, kept until the agent has them."""

from __future__ import annotations

import time
from typing import Final

from kaywatch import wire
from kaywatch._send.buffer import DEFAULT_BYTES, Buffer, Packed
from kaywatch._send.identity import ClientIdentity
from kaywatch._send.packer import BatchContent, Packer
from kaywatch.recorder import Recorder

__all__ = ["Batches"]

MAX_BATCHES_PER_STEP: Final = 40  # then send, also when events come faster than that
MAX_ROW: Final = 44  # bytes of an event in its columns


class Batches:
    """The batches of one process.

    Attributes:
        identity: of the process.
        buffer: the batches that the agent has not acknowledged.
        seq: the number of the last batch.
        recorded: events recorded so far, those that were dropped included.
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
        self._refused = 0  # events that the recorder has dropped

    @property
    def drained(self) -> bool:
        """Whether the agent has committed all that was recorded."""
        recorder = self._recorder
        waiting = any(events.flat for events in recorder.pending) or recorder.failures
        return not waiting and not len(self.buffer)

    def pack(self, largest: int) -> int:
        """Take what is pending out of the recorder; return the number of events.

        Args:
            largest: bytes that a batch may have.
        """
        total = 0
        self._recorder.rearm()
        # The table of names may have half of a batch.
        most = min(wire.MAX_BATCH_EVENTS, max(1, largest // 2 // MAX_ROW))
        for _ in range(MAX_BATCHES_PER_STEP):
            taken = self._packer.take(most)
            self._count_refused()
            if taken is None:
                break
            self.recorded += taken.events + taken.unpackable
            self.buffer.count_drop(wire.DropReason.UNPACKABLE, taken.unpackable)
            total += taken.events
            self.append(taken)
        return total

    def append(self, taken: BatchContent) -> None:
        """Add one batch to the buffer."""
        drops = self.buffer.take_drops()
        message = wire.batch(
            client=self.identity.client,
            seq=self.seq + 1,
            sent=time.time(),
            service=self.identity.service,
            recorded=self.recorded,
            sections=taken.sections,
            drops=drops,
        )
        if len(message) > wire.MAX_FRAME:
            # Thousands of long names at once. No agent would take it.
            self.buffer.count_drop(wire.DropReason.UNPACKABLE, taken.events)
            self.buffer.report_again(drops)
            return
        self.seq += 1
        self.buffer.append(Packed(self.seq, message, taken.events, drops))

    def resend_topologies(self) -> None:
        """Put all topologies in the next batch: the agent may be a new one."""
        self._packer.resend_topologies()

    def goodbye(self) -> bytes:
        """Return the last message of an orderly end."""
        return wire.bye(self.identity.client, self.seq, self.buffer.take_drops())

    def _count_refused(self) -> None:
        refused = sum(events.dropped for events in self._recorder.pending)
        new, self._refused = refused - self._refused, refused
        self.recorded += new
        self.buffer.count_drop(wire.DropReason.PENDING_FULL, new)

"""What has to be told to whom: gathered, ordered, paced, tried again, given up.

Strategy: an outbox is a value with rules and no I/O. A row is one message to one
receiver; rows of a stream go in order, so that a resolve never overtakes its trigger.
Grouping needs no state of its own: an alert joins a row of its group that was never
attempted. Each row ends as sent, dead or superseded, and is counted as such once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from kaywatch_agent.model.alerts import Alert, NoticeKind
from kaywatch_agent.notify.intake import MAX_ENTRIES, TRIGGERS, Intake, Put
from kaywatch_agent.notify.lane import Lane
from kaywatch_agent.notify.ledger import Ledger, episode_of
from kaywatch_agent.notify.notice import Notice
from kaywatch_agent.notify.policy import Policy
from kaywatch_agent.notify.row import Entry, Reason, Row, Status
from kaywatch_agent.notify.ulid import Ulids
from kaywatch_agent.notify.verdict import MAX_RETRY_AFTER, Outcome, Verdict
from kaywatch_agent.runtime.telemetry import Telemetry

__all__ = ["Outbox", "Put", "ReceiverStatus"]

MAX_BACKOFF: Final = 300.0  # seconds
LEAST_PAUSE: Final = 1.0  # after a 429 that doesn't say how long


class ReceiverStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a receiver does.

    Attributes:
        up: whether the last attempt, if any, got through.
        waiting: messages that wait.
        dead: messages that were given up and are kept.
        disabled: why it gets none until a reload; empty if it does.
        circuit_open: whether it failed so often that it is only probed.
        free_at: when the next message may go to it; None while it is disabled.
        paused_until: until when it asked for no message; Unix seconds, None for now.
        error: what was wrong last; empty since something got through.
        error_at, sent_at: when; None for never.
    """

    up: bool
    waiting: int
    dead: int
    disabled: str
    circuit_open: bool
    free_at: float | None
    paused_until: float | None
    error: str
    error_at: float | None
    sent_at: float | None


class Outbox:
    """All messages to all receivers that are told by messages."""

    def __init__(
        self,
        policies: Mapping[str, Policy],
        restored: Mapping[str, bytes],
        *,
        telemetry: Telemetry,
        random: Callable[[], float],
        entropy: Callable[[int], bytes],
    ) -> None:
        """Go on from what was committed.

        Args:
            policies: by receiver.
            restored: the documents that `changes` gave, by id.
            telemetry: where what happens is counted.
            random: returns 0 to 1, for the jitter.
            entropy: returns so many random bytes, for ids.
        """
        self._telemetry = telemetry
        self._random = random
        ulids = Ulids(entropy)
        self._ledger = Ledger()
        self._ledger.restore(restored)
        self._intake = Intake(self._ledger, ulids, telemetry)
        # The intake's own, which `use` changes in place.
        self._policies, self._lanes = self._intake.policies, self._intake.lanes
        self._policies.update(policies)
        self._lanes.update((name, Lane(p.rate)) for name, p in policies.items())
        for row_id, row in list(self._ledger.rows.items()):
            ulids.after(row_id)
            self._intake.remember(row)
            if row.status is Status.PENDING and row.receiver not in policies:
                self._intake.abandon(row, row.not_before)

    # -- putting in ------------------------------------------------------------------

    def put(
        self,
        receiver: str,
        kind: NoticeKind,
        alert: Alert,
        now: float,
        text: str = "",
    ) -> Put:
        """Take a notice to a receiver; return what became of it.

        Rules have to remember that a receiver was told unless it is `filtered` or
        `unknown`, and put the resolve if it was.
        """
        fate = self._intake.admit(Notice(receiver, kind, alert, text), now)
        self._telemetry.add("kaywatch_notices_total", 1, receiver, str(kind), str(fate))
        return fate

    # -- sending ---------------------------------------------------------------------

    def due(self, receiver: str, now: float) -> Row | None:
        """Return the message to send now, if any; it is in flight until `settle`."""
        lane = self._lanes.get(receiver)
        if lane is None or lane.in_flight or lane.disabled:
            return None
        self._expire(receiver, now)
        if lane.free_at(now) > now:
            return None
        ready = [r for r in self._claimable(receiver) if self._when(r, now) <= now]
        if not ready:
            return None
        row = min(ready, key=lambda r: (r.not_before, r.id))
        lane.take(row.id, now)
        return self._addressed(row)

    def next_due(self, receiver: str, now: float) -> float | None:
        """Return when `due` may have something; None until a commit, if ever."""
        lane = self._lanes.get(receiver)
        if lane is None or lane.in_flight or lane.disabled:
            return None
        times = [self._when(row, now) for row in self._claimable(receiver)]
        return max(min(times), lane.free_at(now)) if times else None

    def settle(self, row_id: str, verdict: Verdict, now: float) -> None:
        """Take what an attempt led to."""
        row = self._ledger.rows[row_id]
        lane = self._lanes.get(row.receiver)
        code = str(verdict.code) if verdict.code else "none"
        self._telemetry.add("kaywatch_notify_attempts_total", 1, row.receiver, code)
        delay = self._delay(row, verdict)
        was_open = lane is not None and lane.open
        if lane is not None:
            lane.settle(verdict, now, delay)
        if row.status is not Status.PENDING:
            return
        row = replace(
            row,
            code=verdict.code,
            error=verdict.error,
            unread=self._ledger.unread(row, now) and verdict.unread,
        )
        if verdict.outcome is Outcome.SENT:
            self._deliver(row, verdict, now)
        elif verdict.outcome is Outcome.RETRY:
            row = replace(row, attempts=row.attempts + 1, not_before=now + delay)
            self._ledger.change(row)
            if lane is None:
                self._intake.abandon(row, now)
        else:
            gone = verdict.outcome is Outcome.GONE
            row = replace(row, attempts=row.attempts + 1)
            reason = Reason.GONE if gone else Reason.REFUSED
            self._intake.kill(row, reason, verdict.error, now)
        if lane is not None:
            self._after(row.receiver, lane, was_open, now)

    def _after(self, receiver: str, lane: Lane, was_open: bool, now: float) -> None:
        """Act on what a receiver's answer says of the receiver."""
        if lane.disabled:
            for row in sorted(self._ledger.pending(receiver), key=lambda r: r.id):
                self._intake.kill(row, Reason.GONE, lane.disabled, now)
        elif lane.open and not was_open:
            for row in sorted(self._ledger.pending(receiver), key=lambda r: r.id):
                self._intake.divert(row, now)
        elif was_open and not lane.open:
            # It is back: what failed meanwhile need not wait for its own next try.
            for row in self._ledger.pending(receiver):
                if row.attempts and row.not_before > now:
                    self._ledger.change(replace(row, not_before=now))

    def _claimable(self, receiver: str) -> Iterable[Row]:
        return filter(self._ledger.sealed, self._ledger.heads(receiver))

    def _when(self, row: Row, now: float) -> float:
        """Return when a row may be sent, as far as it is the row's matter."""
        if self._lanes[row.receiver].open and row.attempts:
            return now  # the circuit decides when it is probed
        policy = self._policies[row.receiver]
        longest = MAX_RETRY_AFTER + policy.group_wait + policy.group_interval
        # Only a clock that was put back makes it wait longer than ever intended.
        return now if row.not_before - now > longest else row.not_before

    def _addressed(self, row: Row) -> Row:
        """Return a row with the message that it goes on from, if there is one."""
        root = self._ledger.rows.get(row.root)
        if root is None or root.status is not Status.SENT or not root.ref:
            return row
        policy = self._policies.get(row.receiver)
        update = policy is not None and policy.follow_up == "update"
        if not update or row.kind is not NoticeKind.RESOLVED:
            return replace(row, ref=root.ref)
        return replace(row, ref=root.ref, update=True, entries=_merged(root, row))

    def _deliver(self, row: Row, verdict: Verdict, now: float) -> None:
        sent = self._addressed(row)
        done = replace(
            row, status=Status.SENT, settled=now, ref=verdict.ref or sent.ref
        )
        self._ledger.change(done)
        if sent.update:
            root = self._ledger.rows[row.root]
            # A message that could not be changed was posted anew, under another name.
            self._ledger.change(replace(root, entries=sent.entries, ref=done.ref))
        self._intake.count(row, Status.SENT)

    def _delay(self, row: Row, verdict: Verdict) -> float:
        jitter = self._random() * min(MAX_BACKOFF, 2.0 ** min(row.attempts + 1, 16))
        least = LEAST_PAUSE if verdict.pause else 0.0
        return min(max(jitter, least, verdict.after or 0.0), MAX_RETRY_AFTER)

    def _expire(self, receiver: str, now: float) -> None:
        # Behind a head that is too old there may be another one.
        while old := [r for r in self._ledger.heads(receiver) if r.expires <= now]:
            for row in old:
                self._intake.kill(row, Reason.EXPIRED, row.error, now)

    # -- durability ------------------------------------------------------------------

    def changes(self) -> dict[str, bytes | None]:
        """Return the documents that changed since the last call; None for deleted.

        Only while no other commit is under way.
        """
        return self._ledger.changes()

    def committed(self, ids: Iterable[str]) -> set[str]:
        """Learn that documents are durable; return the receivers to wake."""
        return self._ledger.committed(ids)

    def refused(self, ids: Iterable[str]) -> None:
        """Learn that documents could not be made durable; they are changes again."""
        self._ledger.refused(ids)

    def release(self) -> set[str]:
        """Send what is not durable: the disk is full, and someone has to be told."""
        return self._ledger.release()

    def rewrite(self) -> None:
        """Make every document a change, for a store that begins anew."""
        self._ledger.rewrite()

    def use(self, policies: Mapping[str, Policy], now: float) -> None:
        """Go on with another configuration; receivers that were disabled get a try."""
        for name in set(self._policies) - set(policies):
            for row in self._ledger.pending(name):
                if not self._intake.flying(row):
                    self._intake.abandon(row, now)
            del self._policies[name], self._lanes[name]
        self._policies.update(policies)
        for name, policy in policies.items():
            lane = self._lanes.setdefault(name, Lane(policy.rate))
            lane.renew(policy.rate)

    # -- what is there ---------------------------------------------------------------

    def max_alerts(self, receiver: str) -> int:
        """Return how many alerts a message to a receiver shows."""
        policy = self._policies.get(receiver)
        return policy.max_alerts if policy else MAX_ENTRIES

    def rows(
        self, receiver: str | None = None, statuses: Collection[Status] = tuple(Status)
    ) -> list[Row]:
        """Return what is kept, the newest first."""
        return [
            row
            for _, row in sorted(self._ledger.rows.items(), reverse=True)
            if row.status in statuses and receiver in (None, row.receiver)
        ]

    def retry(self, row_id: str | None, now: float) -> int:
        """Send a dead message again, or all of them; return how many.

        What says that an alert fires whose end was told since would open it for ever;
        it stays dead.
        """
        dead = self._dead(row_id)
        renewed = 0
        for row in dead:
            fires = [e for e in row.entries if e.kind in TRIGGERS]
            policy = self._policies.get(row.receiver)
            if policy is None or any(
                episode_of(row, e.alert) in self._ledger.over for e in fires
            ):
                continue
            self._ledger.change(
                replace(
                    row,
                    status=Status.PENDING,
                    not_before=now,
                    expires=now + policy.max_age,
                    settled=None,
                    reason=None,
                    unread=False,
                )
            )
            renewed += 1
        return renewed

    def purge(self, row_id: str | None = None) -> int:
        """Forget a dead message, or all of them; return how many."""
        dead = self._dead(row_id)
        for row in dead:
            self._ledger.delete(row.id)
        return len(dead)

    def is_down(self, receiver: str) -> bool:
        """Whether a receiver failed so often that it is only probed, or is disabled."""
        lane = self._lanes.get(receiver)
        return lane is not None and lane.down

    def status(self, now: float) -> dict[str, ReceiverStatus]:
        """Return how each receiver does."""
        return {name: self._status(name, now) for name in sorted(self._policies)}

    def measure(self, now: float) -> None:
        """Bring the gauges up to date."""
        oldest = 0.0
        for name, lane in self._lanes.items():
            rows = list(self._ledger.heads(name))
            if rows:
                oldest = max(oldest, now - min(row.due for row in rows))
            depth = self._ledger.depth[name]
            self._telemetry.set("kaywatch_outbox_depth", depth, name)
            up = not (lane.error or lane.disabled)
            self._telemetry.set("kaywatch_receiver_up", up, name)
        self._telemetry.set("kaywatch_outbox_oldest_seconds", oldest)

    # -- inside ----------------------------------------------------------------------

    def _status(self, name: str, now: float) -> ReceiverStatus:
        lane = self._lanes[name]
        return ReceiverStatus(
            up=not (lane.error or lane.disabled),
            waiting=self._ledger.depth[name],
            dead=len(self.rows(name, (Status.DEAD,))),
            disabled=lane.disabled,
            circuit_open=lane.open,
            free_at=None if lane.disabled else lane.free_at(now),
            paused_until=lane.paused_until if lane.paused_until > now else None,
            error=lane.error,
            error_at=lane.error_at,
            sent_at=lane.sent_at,
        )

    def _dead(self, row_id: str | None) -> list[Row]:
        found = self.rows(statuses=(Status.DEAD,))
        return [row for row in reversed(found) if row_id in (None, row.id)]


def _merged(root: Row, row: Row) -> tuple[Entry, ...]:
    """Return what a message says after an update: each alert as it is now."""
    return tuple(
        entry if (newer := row.find(entry.alert)) is None else entry.then(newer)
        for entry in root.entries
    )

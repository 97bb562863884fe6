"""Where a notice goes: into a message of its own, one that waits, or nowhere."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec.structs import replace

from kaywatch_agent.model.alerts import NoticeKind
from kaywatch_agent.notify.lane import Lane
from kaywatch_agent.notify.ledger import Ledger, episode_of
from kaywatch_agent.notify.notice import Notice
from kaywatch_agent.notify.policy import Policy
from kaywatch_agent.notify.row import Entry, Reason, Row, Status
from kaywatch_agent.notify.ulid import Ulids
from kaywatch_agent.runtime.telemetry import Telemetry

__all__ = ["MAX_ENTRIES", "MAX_PENDING", "TRIGGERS", "Intake", "Put"]

MAX_ENTRIES: Final = 500  # of one row: some 1 MB at worst
MAX_PENDING: Final = 2_000  # rows of one receiver

TRIGGERS: Final = (NoticeKind.FIRING, NoticeKind.REPEAT)

# Who may go when too many wait: the first in this order, the oldest of its kind.
_EXPENDABLE: Final = (
    NoticeKind.TEST,
    NoticeKind.REPEAT,
    NoticeKind.SUMMARY,
    NoticeKind.FIRING,
    NoticeKind.RESOLVED,
)
_FOLLOWERS: Final = (NoticeKind.REPEAT, NoticeKind.RESOLVED)


class Put(StrEnum):
    """What became of a notice that was put in."""

    QUEUED = "queued"  # as a message of its own
    JOINED = "joined"  # to one that waits
    COMBINED = "combined"  # into the trigger that waits
    SUPERSEDED = "superseded"  # with its trigger: nobody had been told yet
    PENDING = "pending"  # what says the same still waits
    FILTERED = "filtered"  # the receiver does not want it
    UNKNOWN = "unknown"  # there is no such receiver, or it needs no messages


class Intake:
    """Makes rows of notices, and ends those that need not be sent."""

    def __init__(self, ledger: Ledger, ulids: Ulids, telemetry: Telemetry) -> None:
        self.policies: dict[str, Policy] = {}
        self.lanes: dict[str, Lane] = {}
        self._ledger = ledger
        self._ulids = ulids
        self._telemetry = telemetry
        self._due: dict[tuple[str, str], float] = {}  # a group's last message's time

    def admit(self, notice: Notice, now: float) -> Put:
        """Take a notice, and tell its receiver's fallback if that has to know."""
        policy = self.policies.get(notice.receiver)
        if policy is None:
            return Put.UNKNOWN
        if notice.kind in TRIGGERS and not notice.stand_in:
            if not policy.wants(notice.alert.severity):
                return Put.FILTERED
        elif notice.kind is NoticeKind.SUMMARY and not policy.grouped:
            return Put.FILTERED  # nobody is woken by what is over
        fate = self._place(notice, policy, now)
        self._tell_fallback(notice, policy, now)
        self._shed(notice.receiver, now)
        return fate

    def _place(self, notice: Notice, policy: Policy, now: float) -> Put:
        over = notice.kind is NoticeKind.RESOLVED
        if over and notice.stand_in and notice.episode in self._ledger.over:
            return Put.PENDING
        row = self._ledger.rows.get(self._ledger.waiting.get(notice.episode, ""))
        if row is not None and notice.kind is not NoticeKind.TEST:
            flying = self.flying(row)
            if over and not flying:
                return self._combine(row, notice, policy, now)
            if notice.kind in TRIGGERS:
                entry = row.find(notice.alert)
                if entry and entry.alert.severity == notice.alert.severity:
                    return Put.PENDING
                if not flying and self._ledger.unread(row, now):
                    kind = entry.kind if entry else notice.kind
                    self._ledger.amend(row, Entry(kind, notice.alert))
                    return Put.JOINED
        return self._enqueue(notice, policy, now)

    def _combine(self, row: Row, notice: Notice, policy: Policy, now: float) -> Put:
        """Resolve an alert whose trigger still waits."""
        entry = Entry(notice.kind, notice.alert)
        if policy.grouped:
            if self._ledger.unread(row, now):
                self._ledger.amend(row, entry)
                return Put.COMBINED
            # It may have been taken under this id, and would be taken for the same.
            self.supersede(row, Reason.REPLACED, now)
            heir = replace(
                row,
                id=self._ulids.make(now),
                heir_of=row.place,
                entries=tuple(
                    old.then(entry) if old.is_of(notice.alert) else old
                    for old in row.entries
                ),
            )
            self._ledger.add(heir)
            return Put.COMBINED
        first = self._ledger.told.get(notice.episode) == row.id
        unread = self._ledger.unread(row, now)
        self.supersede(row, Reason.RESOLVED, now)
        if first and unread:
            return Put.SUPERSEDED
        return self._enqueue(notice, policy, now)

    def _enqueue(self, notice: Notice, policy: Policy, now: float) -> Put:
        group = notice.group(policy)
        stream = notice.stream(policy, group)
        root = ""
        if policy.follow_up != "post" and notice.kind in _FOLLOWERS:
            root = self._ledger.told.get(notice.episode, "")
        entry = Entry(notice.kind, notice.alert)
        last = self._ledger.last(notice.receiver, stream)
        if last is not None and self._joinable(last, notice, policy, root, now):
            renewed = replace(last, expires=max(last.expires, now + policy.max_age))
            self._ledger.join(renewed, entry)
            return Put.JOINED
        due = now if root else self._group_due(notice, policy, stream, now)
        row = Row(
            id=self._ulids.make(now),
            receiver=notice.receiver,
            stream=stream,
            entries=(entry,),
            group=group,
            created=now,
            due=due,
            not_before=due,
            expires=max(due, now) + policy.max_age,
            root=root,
            fallback_for=notice.stand_in,
            text=notice.text,
        )
        if not root:
            self.remember(row)
        self._ledger.add(row)
        lane = self.lanes[notice.receiver]
        if lane.disabled:
            self.kill(row, Reason.GONE, lane.disabled, now)
        return Put.QUEUED

    def _joinable(
        self, row: Row, notice: Notice, policy: Policy, root: str, now: float
    ) -> bool:
        return (
            policy.grouped
            and notice.kind is not NoticeKind.TEST
            and len(row.entries) < MAX_ENTRIES
            and row.root == root
            and (not root or row.kind is notice.kind)
            and (row.text == notice.text or bool(notice.stand_in))
            and row.find(notice.alert) is None
            and not (row.fell_back and not self.lanes[row.receiver].down)
            and self._ledger.unread(row, now)
            and not self.flying(row)
        )

    def _group_due(
        self, notice: Notice, policy: Policy, stream: str, now: float
    ) -> float:
        if not policy.grouped or notice.kind not in (*TRIGGERS, NoticeKind.RESOLVED):
            return now
        last = self._due.get((notice.receiver, stream))
        longest = policy.group_wait + policy.group_interval
        if last is None or not now - policy.group_interval < last <= now + longest:
            return now + policy.group_wait
        return max(now, last + policy.group_interval)

    def remember(self, row: Row) -> None:
        """Let the next message of its group wait for the group's interval."""
        if len(self._due) >= 4 * MAX_PENDING:
            # In the order of their last messages: the first is the oldest.
            del self._due[next(iter(self._due))]
        self._due.pop((row.receiver, row.stream), None)
        self._due[row.receiver, row.stream] = row.due

    def _shed(self, receiver: str, now: float) -> None:
        while self._ledger.depth[receiver] > MAX_PENDING:
            waiting = [r for r in self._ledger.pending(receiver) if not self.flying(r)]
            row = min(waiting, key=lambda r: (_EXPENDABLE.index(r.kind), r.id))
            if row.kind in (NoticeKind.FIRING, NoticeKind.RESOLVED):
                self.kill(row, Reason.OVERFLOW, "too many messages wait", now)
            else:
                self.supersede(row, Reason.OVERFLOW, now)

    # -- the fallback ----------------------------------------------------------------

    def _tell_fallback(self, notice: Notice, policy: Policy, now: float) -> None:
        """Tell the fallback, too: of what can't be told now, or ends what it knows."""
        if not policy.fallback or notice.stand_in or notice.kind is NoticeKind.TEST:
            return
        lane = self.lanes[notice.receiver]
        fallen = notice.episode in self._ledger.fallen
        if notice.kind is NoticeKind.RESOLVED:
            tell = fallen or bool(lane.disabled)
        else:
            tell = lane.down and not fallen
        if not tell:
            return
        self._ledger.fallen.add(notice.episode)
        row = self._ledger.rows.get(self._ledger.waiting.get(notice.episode, ""))
        if row is not None and not row.fell_back:
            self._ledger.change(replace(row, fell_back=True))
        self.admit(notice.diverted(policy.fallback, self.lanes), now)

    def divert(self, row: Row, now: float) -> None:
        """Tell the fallback what a row says."""
        policy = self.policies.get(row.receiver)
        if policy is None or not policy.fallback or row.fallback_for or row.fell_back:
            return
        if row.kind is NoticeKind.TEST:
            return
        self._ledger.change(replace(self._ledger.rows[row.id], fell_back=True))
        for entry in row.entries:
            self._ledger.fallen.add(episode_of(row, entry.alert))
            notice = Notice(row.receiver, entry.kind, entry.alert, row.text)
            self.admit(notice.diverted(policy.fallback, self.lanes), now)

    # -- the end of a row ------------------------------------------------------------

    def flying(self, row: Row) -> bool:
        """Whether it is being sent at this moment."""
        lane = self.lanes.get(row.receiver)
        return lane is not None and lane.in_flight == row.id

    def abandon(self, row: Row, now: float) -> None:
        """Give up a message to a receiver that isn't there any more."""
        self.kill(row, Reason.REMOVED, "the receiver is not configured any more", now)

    def kill(self, row: Row, reason: Reason, error: str, now: float) -> None:
        """Give a message up; its receiver's fallback is told."""
        self._ledger.change(
            replace(row, status=Status.DEAD, settled=now, reason=reason, error=error)
        )
        self._telemetry.add("kaywatch_outbox_dead_total", 1, row.receiver, str(reason))
        self.count(row, Status.DEAD)
        self.divert(row, now)

    def supersede(self, row: Row, reason: Reason, now: float) -> None:
        """End a message that need not be sent any more."""
        self._ledger.change(
            replace(row, status=Status.SUPERSEDED, settled=now, reason=reason)
        )
        self.count(row, Status.SUPERSEDED)

    def count(self, row: Row, result: Status) -> None:
        """Count what became of a message."""
        self._telemetry.add(
            "kaywatch_notifications_total", 1, row.receiver, str(row.kind), str(result)
        )

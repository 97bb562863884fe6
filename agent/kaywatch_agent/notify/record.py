"""What became of messages, for those who look: made from rows that change no more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kaywatch_agent.model.alerts import MessageRecord, NoticeKind, Subject
from kaywatch_agent.notify.outbox import ReceiverStatus
from kaywatch_agent.notify.row import Entry, Row, Status

__all__ = ["records"]


def records(
    rows: Sequence[Row], receivers: Mapping[str, ReceiverStatus], now: float
) -> Iterator[MessageRecord]:
    """Yield what became of each message.

    Args:
        rows: the newest first.
        receivers: how each does, by name.
        now: Unix seconds.
    """
    heads = _heads(rows)
    for row in rows:
        status = receivers.get(row.receiver)
        head = heads.get((row.receiver, row.stream), row)
        yield _record(row, head, _next(row, status, now))


# -- inside --------------------------------------------------------------------------


def _heads(rows: Sequence[Row]) -> dict[tuple[str, str], Row]:
    """Return the first message that waits of each stream."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row.status is Status.PENDING:
            at = (row.receiver, row.stream)
            if at not in found or row.place < found[at].place:
                found[at] = row
    return found


def _next(row: Row, receiver: ReceiverStatus | None, now: float) -> float | None:
    """Return when a message will be tried next; None when that isn't to be said."""
    if row.status is not Status.PENDING or receiver is None:
        return None
    if receiver.free_at is None:
        return None
    # Once the circuit is open, it decides when what failed is tried again.
    probed = receiver.circuit_open and row.attempts
    return max(now if probed else row.not_before, receiver.free_at)


def _record(row: Row, head: Row, next_attempt: float | None) -> MessageRecord:
    waits = row.status is Status.PENDING
    return MessageRecord(
        id=row.id,
        receiver=row.receiver,
        kind=str(row.kind),
        status=row.status.value,
        created=row.created,
        due=row.due,
        not_before=row.not_before,
        next_attempt=next_attempt,
        behind=head.id if waits and head is not row else "",
        expires=row.expires,
        settled=row.settled,
        attempts=row.attempts,
        code=row.code,
        error=row.error,
        reason=str(row.reason or ""),
        about=tuple(map(_subject, row.entries)),
        group=row.group,
        text=row.text,
        follows=row.root,
        fallback_for=row.fallback_for,
        fell_back=row.fell_back,
    )


def _subject(entry: Entry) -> Subject:
    alert, first = entry.alert, entry.first or entry.kind
    return Subject(
        alert.dedup_key,
        alert.episode,
        str(first),
        first is not entry.kind and entry.kind is NoticeKind.RESOLVED,
        f"{alert.rule}: {alert.summary}",
    )

"""Where a request goes: into a message of its own, one that waits, or nowhere.

All of it is pure: functions of the outbox's table, a receiver's state, the request and
the time, which return the messages to put into the table.

Grouping needs no state of its own: an alert joins a message of its group that was never
attempted.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from kaywatch_agent.model.alerts import NotificationKind, NotificationRequest
from kaywatch_agent.notify.limits import ReceiverState
from kaywatch_agent.notify.message import (
    TRIGGERS,
    EndReason,
    MessageEntry,
    OutboxMessage,
    Status,
    episode_of,
)
from kaywatch_agent.notify.policy import Policy
from kaywatch_agent.notify.store import EpisodeIndex, OutboxStore

__all__ = ["MAX_ENTRIES", "EnqueueResult", "Enqueued", "diverted", "enqueue"]

MAX_ENTRIES: Final = 500  # of one message: some 1 MB at worst

_FOLLOWERS: Final = (NotificationKind.REPEAT, NotificationKind.RESOLVED)
_APART: Final = (
    NotificationKind.TEST,
    NotificationKind.SUMMARY,
)  # they have streams of their own


class EnqueueResult(StrEnum):
    """What became of a request."""

    QUEUED = "queued"  # a message of its own
    JOINED = "joined"  # added to a message that waits
    COMBINED = "combined"  # merged into the trigger that waits
    SUPERSEDED = "superseded"  # with its trigger, which nobody has received
    PENDING = "pending"  # a message with the same content waits
    FILTERED = "filtered"  # the receiver does not want it
    UNKNOWN = "unknown"  # there is no such receiver, or it needs no messages


class Enqueued(NamedTuple):
    """What a request comes to.

    Attributes:
        result: what became of it.
        messages: the new ones, and those that it changed.
        fallback: a request to the receiver's fallback, where one is due.
    """

    result: EnqueueResult
    messages: tuple[OutboxMessage, ...] = ()
    fallback: NotificationRequest | None = None


class _Place(NamedTuple):
    """Where a request would go, and what all decisions about it depend on."""

    store: OutboxStore
    receiver: ReceiverState
    request: NotificationRequest
    now: float
    new_id: str

    @property
    def policy(self) -> Policy:
        return self.receiver.policy

    @property
    def known(self) -> EpisodeIndex:
        return self.store.episode(episode_of(self.request, self.request.alert))

    @property
    def entry(self) -> MessageEntry:
        return MessageEntry(self.request.kind, self.request.alert)

    def open(self, row: OutboxMessage) -> bool:
        """Return whether a message's content may still change under its id."""
        return row.undelivered and row.id != self.receiver.in_flight


def enqueue(
    store: OutboxStore,
    receiver: ReceiverState,
    request: NotificationRequest,
    now: float,
    new_id: str,
) -> Enqueued:
    """Return what a request comes to.

    Rules have to remember that a receiver was notified unless the request is filtered,
    and request the resolve if it was.

    Args:
        store: the messages that there are.
        receiver: the request's.
        request: what somebody is to be notified of.
        now: Unix seconds.
        new_id: for a message that has to be made.
    """
    place = _Place(store, receiver, request, now, new_id)
    if not _wanted(receiver.policy, request):
        return Enqueued(EnqueueResult.FILTERED)
    fallback = diverted(request, receiver) if _fails_over(place) else None
    if request.kind is NotificationKind.RESOLVED:
        result, messages, _ = _resolve(place)
    elif request.kind in TRIGGERS:
        result, messages, _ = _trigger(place)
    else:
        result, messages, _ = _queue(place)
    if fallback is not None and receiver.down:
        messages = tuple(replace(row, failed_over=True) for row in messages)
    return Enqueued(result, messages, fallback)


def diverted(
    request: NotificationRequest, receiver: ReceiverState
) -> NotificationRequest | None:
    """Return a request to the receiver's fallback, with the reason; None if no such."""
    fallback = receiver.policy.fallback
    if not fallback or request.fallback_for or request.kind is NotificationKind.TEST:
        return None
    why = receiver.disabled or receiver.error
    text = f"Sent here because {request.receiver} can't be reached"
    return NotificationRequest(
        fallback,
        request.kind,
        request.alert,
        f"{text} ({why})" if why else text,
        fallback_for=request.receiver,
    )


# -- inside --------------------------------------------------------------------------


def _wanted(policy: Policy, request: NotificationRequest) -> bool:
    if request.kind in TRIGGERS and not request.fallback_for:
        return policy.wants(request.alert.severity)
    # A summary of what goes on interrupts nobody who is paged for each alert.
    return request.kind is not NotificationKind.SUMMARY or policy.grouped


def _fails_over(place: _Place) -> bool:
    """Return whether the fallback is to be notified, too.

    It is while the receiver is down, once; and of the end of what it knows.
    """
    known = place.known.failed_over
    if place.request.kind is NotificationKind.RESOLVED:
        return known or bool(place.receiver.disabled)
    return place.receiver.down and not known


def _trigger(place: _Place) -> Enqueued:
    """Say that an alert fires, unless a message that waits does."""
    row = place.store.rows.get(place.known.waiting)
    if row is not None:
        entry = row.find(place.request.alert)
        if entry and entry.alert.severity == place.request.alert.severity:
            return Enqueued(EnqueueResult.PENDING, (row,))
        if entry and place.open(row):
            entries = row.amended(MessageEntry(entry.kind, place.request.alert))
            return Enqueued(EnqueueResult.JOINED, (replace(row, entries=entries),))
    return _queue(place)


def _resolve(place: _Place) -> Enqueued:
    """Say that an alert ended; a trigger that still waits is merged or dropped."""
    known, now = place.known, place.now
    if place.request.fallback_for and known.resolved:
        return Enqueued(EnqueueResult.PENDING)
    row = place.store.rows.get(known.waiting)
    if row is None or row.id == place.receiver.in_flight:
        return _queue(place)
    if not place.policy.grouped:
        obsolete = row.ended(Status.SUPERSEDED, EndReason.RESOLVED, now)
        if known.first == row.id and row.undelivered:
            return Enqueued(EnqueueResult.SUPERSEDED, (obsolete,))
        result, messages, _ = _queue(place)
        return Enqueued(result, (obsolete, *messages))
    heir = replace(row, entries=row.amended(place.entry))
    if row.undelivered:
        return Enqueued(EnqueueResult.COMBINED, (heir,))
    # The receiver may have taken it, and would ignore another one with the same id.
    obsolete = row.ended(Status.SUPERSEDED, EndReason.REPLACED, now)
    heir = replace(heir, id=place.new_id, replaces=row.place)
    return Enqueued(EnqueueResult.COMBINED, (obsolete, heir))


def _queue(place: _Place) -> Enqueued:
    """Add to the last message of the stream, or make a new one."""
    request, policy, now = place.request, place.policy, place.now
    group = _group(request, policy)
    stream = _stream(request, policy, group)
    root = ""
    if policy.follow_up != "post" and request.kind in _FOLLOWERS:
        root = place.known.first
    last = place.store.last(request.receiver, stream)
    if last is not None and _joinable(last, root, place):
        joined = replace(
            last,
            entries=(*last.entries, place.entry),
            expires=max(last.expires, now + policy.max_age),
        )
        return Enqueued(EnqueueResult.JOINED, (joined,))
    due = now if root else _group_due(place, stream)
    row = OutboxMessage(
        id=place.new_id,
        receiver=request.receiver,
        stream=stream,
        entries=(place.entry,),
        group=group,
        created=now,
        due=due,
        not_before=due,
        expires=max(due, now) + policy.max_age,
        thread_root=root,
        fallback_for=request.fallback_for,
        text=request.text,
    )
    disabled = place.receiver.disabled
    if disabled:
        row = row.ended(Status.DEAD, EndReason.GONE, now, disabled)
    return Enqueued(EnqueueResult.QUEUED, (row,))


def _joinable(row: OutboxMessage, root: str, place: _Place) -> bool:
    request, receiver = place.request, place.receiver
    return (
        receiver.policy.grouped
        and request.kind is not NotificationKind.TEST
        and len(row.entries) < MAX_ENTRIES
        and row.thread_root == root
        and (not root or row.kind is request.kind)
        and (row.text == request.text or bool(request.fallback_for))
        and row.find(request.alert) is None
        # The fallback has it, but would not have what joins now.
        and not (row.failed_over and not receiver.down)
        and place.open(row)
    )


def _group(request: NotificationRequest, policy: Policy) -> dict[str, str]:
    """Return the labels of the group that a request belongs to."""
    if not policy.grouped or request.kind in _APART:
        return {}
    labels = request.alert.all_labels
    return {name: labels[name] for name in policy.group_by if name in labels}


def _stream(
    request: NotificationRequest, policy: Policy, group: Mapping[str, str]
) -> str:
    """Return the name of what has to arrive in order with a request."""
    if request.kind in _APART:
        name = str(request.kind)
    elif not policy.grouped:
        name = request.alert.dedup_key
    else:
        pairs = (f"{k}={msgspec.json.encode(v).decode()}" for k, v in group.items())
        name = "{" + ", ".join(pairs) + "}"
    return f"{request.fallback_for}<{name}" if request.fallback_for else name


def _group_due(place: _Place, stream: str) -> float:
    """Return when a new message of a stream is to be sent."""
    policy, request, now = place.policy, place.request, place.now
    if not policy.grouped or request.kind in _APART:
        return now
    last = place.store.last_due.get((request.receiver, stream))
    longest = policy.group_wait + policy.group_interval
    if last is None or not now - policy.group_interval < last <= now + longest:
        return now + policy.group_wait
    return max(now, last + policy.group_interval)

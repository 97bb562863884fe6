"""Decides the effect of a request: a new message, part of a pending one, or nothing.

`enqueue` is a pure function of the stored messages, the receiver's state, the request
and the time. It returns the messages to store.

Grouping needs no state of its own: an alert joins its group's last message, as long as
no attempt was made to send that.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from kaywatch_agent.model.alerts import (
    MessageEndReason,
    MessageStatus,
    NotificationKind,
    NotificationRequest,
)
from kaywatch_agent.notify.limits import ReceiverState
from kaywatch_agent.notify.message import (
    TRIGGERS,
    MessageEntry,
    OutboxMessage,
    episode_key,
)
from kaywatch_agent.notify.policy import Policy
from kaywatch_agent.notify.store import EpisodeIndex, OutboxStore

__all__ = ["MAX_ENTRIES", "EnqueuePlan", "EnqueueResult", "enqueue", "failover"]

MAX_ENTRIES: Final = 500  # of one message: about 1 MB at most

_FOLLOW_UPS: Final = (NotificationKind.REPEAT, NotificationKind.RESOLVED)
# Tests and summaries belong to no group; each kind has its own stream.
_UNGROUPED: Final = (NotificationKind.TEST, NotificationKind.SUMMARY)


class EnqueueResult(StrEnum):
    """The outcome of a request."""

    QUEUED = "queued"  # a new message
    JOINED = "joined"  # added to a pending message
    COMBINED = "combined"  # merged into the pending trigger
    SUPERSEDED = "superseded"  # dropped with its trigger, which was never delivered
    PENDING = "pending"  # a message with the same content is pending
    FILTERED = "filtered"  # below the receiver's min_severity
    UNKNOWN = "unknown"  # the receiver does not exist, or takes no messages


class EnqueuePlan(NamedTuple):
    """The messages to store for a request.

    Attributes:
        result: what became of the request.
        messages: new and changed messages.
        fallback: a request to the receiver's fallback, if one is due.
    """

    result: EnqueueResult
    messages: tuple[OutboxMessage, ...] = ()
    fallback: NotificationRequest | None = None


class _EnqueueInput(NamedTuple):
    """The facts on which every decision about a request depends."""

    store: OutboxStore
    receiver: ReceiverState
    request: NotificationRequest
    now: float
    new_id: str

    @property
    def policy(self) -> Policy:
        return self.receiver.policy

    @property
    def episode(self) -> EpisodeIndex:
        return self.store.episode(episode_key(self.request, self.request.alert))

    @property
    def entry(self) -> MessageEntry:
        return MessageEntry(self.request.kind, self.request.alert)

    def can_change(self, message: OutboxMessage) -> bool:
        """Return whether a message's content may still change under its id."""
        return message.undelivered and message.id != self.receiver.in_flight


def enqueue(
    store: OutboxStore,
    receiver: ReceiverState,
    request: NotificationRequest,
    now: float,
    new_id: str,
) -> EnqueuePlan:
    """Return the messages to store for a request.

    Unless the request is filtered, rules have to remember that the receiver was
    notified, and to request the resolve later.

    Args:
        store: the stored messages.
        receiver: the state of the request's receiver.
        request: the request.
        now: Unix seconds.
        new_id: the id of a new message, if one is needed.
    """
    if not _accepts(receiver.policy, request):
        return EnqueuePlan(EnqueueResult.FILTERED)
    inputs = _EnqueueInput(store, receiver, request, now, new_id)
    fallback = failover(request, receiver) if _is_failover_due(inputs) else None
    plan = _plan(inputs)
    messages = plan.messages
    if fallback is not None and receiver.down:
        messages = tuple(replace(message, failed_over=True) for message in messages)
    return EnqueuePlan(plan.result, messages, fallback)


def failover(
    request: NotificationRequest, receiver: ReceiverState
) -> NotificationRequest | None:
    """Return the request to the receiver's fallback, with the reason; None if none."""
    fallback = receiver.policy.fallback
    if not fallback or request.fallback_for or request.kind is NotificationKind.TEST:
        return None
    reason = receiver.disabled or receiver.error
    text = f"Sent here because {request.receiver} can't be reached"
    return NotificationRequest(
        fallback,
        request.kind,
        request.alert,
        f"{text} ({reason})" if reason else text,
        fallback_for=request.receiver,
        is_alone=request.is_alone,
    )


# -- inside --------------------------------------------------------------------------


def _accepts(policy: Policy, request: NotificationRequest) -> bool:
    if request.kind in TRIGGERS and not request.fallback_for:
        return policy.accepts(request.alert.severity)
    # A summary must not page: receivers without groups are pagers.
    return request.kind is not NotificationKind.SUMMARY or policy.grouped


def _is_failover_due(inputs: _EnqueueInput) -> bool:
    """Return whether the fallback should be notified, too.

    While the receiver is down, the fallback is notified of each episode once. It is
    notified of the end of episodes that it knows.
    """
    failed_over = inputs.episode.failed_over
    if inputs.request.kind is NotificationKind.RESOLVED:
        return failed_over or bool(inputs.receiver.disabled)
    return inputs.receiver.down and not failed_over


def _plan(inputs: _EnqueueInput) -> EnqueuePlan:
    if inputs.request.kind is NotificationKind.RESOLVED:
        return _plan_resolve(inputs)
    if inputs.request.kind in TRIGGERS:
        return _plan_trigger(inputs)
    return _plan_message(inputs)


def _plan_trigger(inputs: _EnqueueInput) -> EnqueuePlan:
    """Report that an alert fires, unless a pending message does."""
    alert = inputs.request.alert
    message = inputs.store.messages.get(inputs.episode.pending)
    if message is not None:
        entry = message.find(alert)
        if entry and entry.alert.severity == alert.severity:
            return EnqueuePlan(EnqueueResult.PENDING, (message,))
        if entry and inputs.can_change(message):
            entries = message.with_entry(MessageEntry(entry.kind, alert))
            changed = replace(message, entries=entries)
            return EnqueuePlan(EnqueueResult.JOINED, (changed,))
    return _plan_message(inputs)


def _plan_resolve(inputs: _EnqueueInput) -> EnqueuePlan:
    """Report that an alert ended; merge with its pending trigger, or drop that."""
    episode, now = inputs.episode, inputs.now
    if inputs.request.fallback_for and episode.resolved:
        return EnqueuePlan(EnqueueResult.PENDING)
    trigger = inputs.store.messages.get(episode.pending)
    if trigger is None or trigger.id == inputs.receiver.in_flight:
        return _plan_message(inputs)
    if not inputs.policy.grouped:
        obsolete = trigger.ended(
            MessageStatus.SUPERSEDED, MessageEndReason.RESOLVED, now
        )
        if episode.first == trigger.id and trigger.undelivered:
            return EnqueuePlan(EnqueueResult.SUPERSEDED, (obsolete,))
        plan = _plan_message(inputs)
        return EnqueuePlan(plan.result, (obsolete, *plan.messages))
    merged = replace(trigger, entries=trigger.with_entry(inputs.entry))
    if trigger.undelivered:
        return EnqueuePlan(EnqueueResult.COMBINED, (merged,))
    # The trigger may have been delivered: the receiver would ignore changed content
    # under the same id.
    obsolete = trigger.ended(MessageStatus.SUPERSEDED, MessageEndReason.REPLACED, now)
    merged = replace(merged, id=inputs.new_id, replaces=trigger.position)
    return EnqueuePlan(EnqueueResult.COMBINED, (obsolete, merged))


def _plan_message(inputs: _EnqueueInput) -> EnqueuePlan:
    """Add the alert to the last message of its stream, or create a new message."""
    request, policy = inputs.request, inputs.policy
    group = _group(request, policy)
    stream = _stream(request, policy, group)
    root = ""
    if policy.follow_up != "post" and request.kind in _FOLLOW_UPS:
        root = inputs.episode.first
    last = inputs.store.last(request.receiver, stream)
    if last is not None and _can_join(last, root, inputs):
        joined = replace(
            last,
            entries=(*last.entries, inputs.entry),
            expires=max(last.expires, inputs.now + policy.max_age),
        )
        return EnqueuePlan(EnqueueResult.JOINED, (joined,))
    message = _new_message(inputs, group, stream, root)
    return EnqueuePlan(EnqueueResult.QUEUED, (message,))


def _new_message(
    inputs: _EnqueueInput, group: dict[str, str], stream: str, root: str
) -> OutboxMessage:
    """Return a message with one alert; dead if its receiver is disabled."""
    request, now = inputs.request, inputs.now
    due = now if root else _group_due(inputs, stream)
    message = OutboxMessage(
        id=inputs.new_id,
        receiver=request.receiver,
        stream=stream,
        entries=(inputs.entry,),
        group=group,
        created=now,
        due=due,
        not_before=due,
        expires=max(due, now) + inputs.policy.max_age,
        thread_root=root,
        fallback_for=request.fallback_for,
        text=request.text,
    )
    disabled = inputs.receiver.disabled
    if not disabled:
        return message
    return message.ended(MessageStatus.DEAD, MessageEndReason.GONE, now, disabled)


def _can_join(message: OutboxMessage, root: str, inputs: _EnqueueInput) -> bool:
    request, receiver = inputs.request, inputs.receiver
    return (
        receiver.policy.grouped
        and request.kind is not NotificationKind.TEST
        and len(message.entries) < MAX_ENTRIES
        and message.thread_root == root
        and (not root or message.kind is request.kind)
        and (message.text == request.text or bool(request.fallback_for))
        and message.find(request.alert) is None
        # The fallback was sent the message, but would not be sent the joining alert.
        and not (message.failed_over and not receiver.down)
        and inputs.can_change(message)
    )


def _group(request: NotificationRequest, policy: Policy) -> dict[str, str]:
    """Return the labels of the group that a request belongs to."""
    if not policy.grouped or request.kind in _UNGROUPED:
        return {}
    labels = request.alert.all_labels
    return {name: labels[name] for name in policy.group_by if name in labels}


def _stream(
    request: NotificationRequest, policy: Policy, group: Mapping[str, str]
) -> str:
    """Return the name of the stream in which a request's message is sent in order."""
    if request.kind in _UNGROUPED:
        name = str(request.kind)
    elif not policy.grouped:
        name = request.alert.dedup_key
    else:
        pairs = (f"{k}={msgspec.json.encode(v).decode()}" for k, v in group.items())
        name = "{" + ", ".join(pairs) + "}"
    return f"{request.fallback_for}<{name}" if request.fallback_for else name


def _group_due(inputs: _EnqueueInput, stream: str) -> float:
    """Return when a new message of a stream is due."""
    policy, request, now = inputs.policy, inputs.request, inputs.now
    if not policy.grouped or request.kind in _UNGROUPED:
        return now
    last = inputs.store.last_due.get((request.receiver, stream))
    longest = policy.group_wait + policy.group_interval
    # A time far ahead remains from before the clock was set back.
    if last is None or not now - policy.group_interval < last <= now + longest:
        return now if request.is_alone else now + policy.group_wait
    return max(now, last + policy.group_interval)

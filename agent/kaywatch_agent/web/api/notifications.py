"""Notifications and receivers: listed, retried, purged and tested."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from kaywatch_agent.model.alerts import MessageRecord, ReceiverRecord
from kaywatch_agent.model.bounds import Count, Moment, Name
from kaywatch_agent.web.api.parameters import NoQuery
from kaywatch_agent.web.api.schema import ResponseBody
from kaywatch_agent.web.problems import Problem, not_found
from kaywatch_agent.web.snapshot import AgentSnapshot
from kaywatch_agent.web.view import AgentView

__all__ = [
    "list_messages",
    "list_receivers",
    "purge_messages",
    "retry_messages",
    "send_test",
]


class NotificationsQuery(Struct, frozen=True):
    """Filters of messages."""

    receiver: (
        Annotated[Name, Meta(description="Only to this receiver.", examples=["ops"])]
        | None
    ) = None
    status: (
        Annotated[
            Literal["pending", "sent", "dead", "superseded"],
            Meta(description="Only with this status."),
        ]
        | None
    ) = None
    limit: Annotated[int, Meta(ge=1, le=10_000, description="At most.")] = 100


class ReceiverQuery(Struct, frozen=True):
    """One receiver."""

    receiver: Annotated[
        Name, Meta(min_length=1, description="The receiver, percent-encoded.")
    ]


class DeadMessages(Struct, frozen=True, forbid_unknown_fields=True):
    """One dead message, or all of them."""

    id: Annotated[
        str, Meta(max_length=100, description="The message; all if empty.")
    ] = ""


class MessageList(ResponseBody):
    """Messages, the newest first; `matching` is their number without the limit."""

    timestamp: Moment
    matching: Count
    notifications: list[MessageRecord]


class ReceiverList(ResponseBody):
    """All receivers."""

    timestamp: Moment
    receivers: list[ReceiverRecord]


class MessageCount(ResponseBody):
    """The number of messages that were changed, removed or added."""

    count: Count


def list_messages(snapshot: AgentSnapshot, query: NotificationsQuery) -> MessageList:
    """Return the matching messages."""
    messages = [
        message
        for message in snapshot.messages
        if query.receiver in (None, message.receiver)
        and query.status in (None, message.status)
    ]
    return MessageList(
        timestamp=snapshot.now,
        matching=len(messages),
        notifications=messages[: query.limit],
    )


def list_receivers(snapshot: AgentSnapshot, _: NoQuery) -> ReceiverList:
    """Return all receivers."""
    receivers = list(snapshot.receivers)
    return ReceiverList(timestamp=snapshot.now, receivers=receivers)


def retry_messages(agent: AgentView, _: NoQuery, body: DeadMessages) -> MessageCount:
    """Send dead messages again.

    Raises:
        Problem: 404 for a message that is unknown or not dead.
    """
    _check_dead(agent, body)
    return MessageCount(count=agent.delivery.retry(body.id or None))


def purge_messages(agent: AgentView, _: NoQuery, body: DeadMessages) -> MessageCount:
    """Delete dead messages.

    Raises:
        Problem: 404 for a message that is unknown or not dead.
    """
    _check_dead(agent, body)
    return MessageCount(count=agent.delivery.purge(body.id or None))


def send_test(agent: AgentView, query: ReceiverQuery, _: None) -> MessageCount:
    """Send a receiver two test messages: an alert fires, and it is resolved.

    Raises:
        Problem: 404 for an unknown receiver, 400 for one that gets no messages.
    """
    types = {receiver.name: receiver.type for receiver in agent.delivery.receivers()}
    if query.receiver not in types:
        raise not_found("receiver", query.receiver, types, "/api/v1/receivers")
    if types[query.receiver] == "alertmanager":
        raise Problem(
            400,
            "no_messages",
            f"{query.receiver} is an Alertmanager: it is sent alerts, not messages",
            "`amtool alert` shows the alerts that it was sent",
        )
    agent.delivery.test(query.receiver)
    return MessageCount(count=2)


def _check_dead(agent: AgentView, body: DeadMessages) -> None:
    if not body.id:
        return
    messages = agent.delivery.messages()
    dead = [message.id for message in messages if message.status == "dead"]
    if body.id not in dead:
        raise not_found("dead message", body.id, dead, "/api/v1/notifications")

"""Messages and receivers: looked at, tried again, forgotten, tested."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Protocol

from msgspec import Meta, Struct

from kaywatch_agent.model.alerts import MessageRecord, ReceiverRecord
from kaywatch_agent.model.bounds import Count, Moment
from kaywatch_agent.web.api.parameters import (
    NoQuery,
    NotificationsQuery,
    ReceiverQuery,
)
from kaywatch_agent.web.api.schema import Body
from kaywatch_agent.web.problems import Problem, not_found
from kaywatch_agent.web.reading import Reading

__all__ = [
    "Done",
    "MessageList",
    "Post",
    "ReceiverList",
    "Some",
    "done",
    "message_list",
    "purge",
    "receiver_list",
    "retry",
    "test",
]


class Post(Protocol):
    """Where messages wait, and receivers are reached."""

    def messages(self) -> Iterable[MessageRecord]:
        """Return all messages that are kept now, the newest first, to be read once.

        They are made as they are read, which may be in any thread.
        """

    def receivers(self) -> Sequence[ReceiverRecord]:
        """Return how each receiver does."""

    def retry(self, name: str | None) -> int:
        """Send a dead message again, or all of them; return how many."""

    def purge(self, name: str | None) -> int:
        """Forget a dead message, or all of them; return how many."""

    def test(self, receiver: str) -> None:
        """Send a receiver a test."""


class MessageList(Body):
    """Messages, the newest first; `matching` is how many there are in all."""

    timestamp: Moment
    matching: Count
    notifications: list[MessageRecord]


class ReceiverList(Body):
    """All receivers."""

    timestamp: Moment
    receivers: list[ReceiverRecord]


class Some(Struct, frozen=True, forbid_unknown_fields=True):
    """Which dead messages: one, or all."""

    id: Annotated[str, Meta(max_length=100, description="Its id; all if empty.")] = ""


class Done(Body):
    """How many messages it concerned."""

    count: Count


def message_list(reading: Reading, query: NotificationsQuery) -> MessageList:
    """Return the messages that match."""
    found = [
        message
        for message in reading.letters.messages
        if query.receiver in (None, message.receiver)
        and query.status in (None, message.status)
    ]
    return MessageList(
        timestamp=reading.now,
        matching=len(found),
        notifications=found[: query.limit],
    )


def receiver_list(reading: Reading, _: NoQuery) -> ReceiverList:
    """Return all receivers."""
    receivers = list(reading.letters.receivers)
    return ReceiverList(timestamp=reading.now, receivers=receivers)


def retry(post: Post, _: float, __: NoQuery, body: Some) -> Done:
    """Send dead messages again.

    Raises:
        Problem: 404 for one that isn't there, or isn't dead.
    """
    _check(post, body)
    return Done(count=post.retry(body.id or None))


def purge(post: Post, _: float, __: NoQuery, body: Some) -> Done:
    """Forget dead messages.

    Raises:
        Problem: 404 for one that isn't there, or isn't dead.
    """
    _check(post, body)
    return Done(count=post.purge(body.id or None))


def test(post: Post, _: float, query: ReceiverQuery, __: None) -> Done:
    """Send a receiver a test: that something fires, and that it is over.

    Raises:
        Problem: 404 for one that isn't there, 400 for one that takes no messages.
    """
    kinds = {found.name: found.type for found in post.receivers()}
    if query.receiver not in kinds:
        raise not_found("receiver", query.receiver, kinds, "/api/v1/receivers")
    if kinds[query.receiver] == "alertmanager":
        raise Problem(
            400,
            "no_messages",
            f"{query.receiver} is an Alertmanager: it is told what fires, not messages",
            "amtool alert shows what it was told",
        )
    post.test(query.receiver)
    return Done(count=2)


def done(_: Reading, found: Done) -> Done:
    """Return what was done."""
    return found


# -- inside --------------------------------------------------------------------------


def _check(post: Post, body: Some) -> None:
    dead = [message.id for message in post.messages() if message.status == "dead"]
    if body.id and body.id not in dead:
        raise not_found("dead message", body.id, dead, "/api/v1/notifications")

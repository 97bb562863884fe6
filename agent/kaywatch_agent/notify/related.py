"""Facts that a message depends on besides its content: its trigger, other receivers."""

from __future__ import annotations

from collections.abc import Iterable

from kaywatch_agent.model.alerts import NotificationKind
from kaywatch_agent.notify.message import OutboxMessage, episode_key
from kaywatch_agent.notify.store import OutboxStore

__all__ = ["other_receivers", "trigger_account"]


def trigger_account(store: OutboxStore, message: OutboxMessage) -> str:
    """Return the credential that accepted what a message ends, updates or replies to.

    It is empty for a message that begins something.
    """
    if message.ref:
        root = store.messages.get(message.thread_root)
        return root.account if root is not None else ""
    if message.kind is not NotificationKind.RESOLVED:
        return ""
    for entry in message.entries:
        first = store.episode(episode_key(message, entry.alert)).first
        trigger = store.messages.get(first)
        if trigger is not None and trigger.account:
            return trigger.account
    return ""


def other_receivers(
    store: OutboxStore, message: OutboxMessage, names: Iterable[str]
) -> tuple[str, ...]:
    """Return the other receivers that were notified of a message's alerts."""
    if message.kind is NotificationKind.TEST:
        return ()
    episodes = [
        (entry.alert.dedup_key, entry.alert.episode) for entry in message.entries
    ]
    return tuple(
        name
        for name in names
        if name != message.receiver
        and any(store.knows((name, "", *episode)) for episode in episodes)
    )

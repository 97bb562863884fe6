"""Sends a resolve, an update or a reply to the account that accepted its trigger.

A routing key, webhook or token may be replaced while an alert fires. A resolve that is
sent with the new credential would close nothing, and the incident would stay open.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable

from kaywatch_agent.notify.http import NoResponse
from kaywatch_agent.notify.result import DeliveryOutcome, DeliveryResult

__all__ = ["send_to_account"]


async def send_to_account(
    previous: str, current: str, send: Callable[[str], Awaitable[DeliveryResult]]
) -> DeliveryResult:
    """Return the result of an attempt, which contains the credential that was used.

    Args:
        previous: the credential that the trigger was accepted with; empty if there is
            none.
        current: the credential as it is configured now.
        send: makes an attempt with a credential.

    Raises:
        NoResponse: no response arrived in time.
    """
    if previous and previous != current:
        result = await _try(previous, send)
        if result is not None:
            return dataclasses.replace(result, account=previous)
    return dataclasses.replace(await send(current), account=current)


async def _try(
    previous: str, send: Callable[[str], Awaitable[DeliveryResult]]
) -> DeliveryResult | None:
    """Return a previous credential's result; None if it is not valid any more."""
    try:
        result = await send(previous)
    except NoResponse as error:
        if not error.undelivered:
            raise
        return None
    usable = result.outcome in (DeliveryOutcome.SENT, DeliveryOutcome.RETRY)
    return result if usable else None

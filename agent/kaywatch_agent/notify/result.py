"""The result of an attempt, and what the usual answers mean.

| status            | result                                         |
|-------------------|------------------------------------------------|
| 2xx               | sent                                           |
| 3xx               | dead: a redirect is never followed             |
| 408, 425, 5xx     | retry                                          |
| 429               | retry, and nothing else to this receiver before |
| 410               | dead; for a webhook gone: disabled until a reload |
| 400, other 4xx    | dead                                           |
| no answer         | retry                                          |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

__all__ = [
    "MAX_RETRY_AFTER",
    "Outcome",
    "DeliveryResult",
    "judge_status",
    "no_answer",
    "retry_after",
    "sent",
]

MAX_RETRY_AFTER: Final = 3600.0  # seconds; what is beyond is a mistake or an attack
MAX_ERROR: Final = 300  # characters of an answer that are kept

_LATER: Final = frozenset({408, 425})


class Outcome(StrEnum):
    """What becomes of a message after an attempt."""

    SENT = "sent"
    RETRY = "retry"
    DEAD = "dead"  # this message will never be taken
    GONE = "gone"  # this receiver wants no more messages


@dataclass(frozen=True)
class DeliveryResult:
    """What an attempt led to.

    Attributes:
        outcome: what becomes of the message.
        code: the HTTP status; 0 when there was no answer.
        error: what was wrong, without any secret.
        after: seconds that the receiver asks to wait; None when it doesn't say.
        pause: whether it takes no other message before that either.
        undelivered: whether the receiver certainly did not take the message.
        misconfigured: whether the receiver can't work as it is configured.
        ref: its id of the message, for those that continue it.
    """

    outcome: Outcome
    code: int = 0
    error: str = ""
    after: float | None = None
    pause: bool = False
    undelivered: bool = False
    misconfigured: bool = False
    ref: str = ""


def sent(code: int = 200, ref: str = "") -> DeliveryResult:
    """Return the result of an attempt that succeeded."""
    return DeliveryResult(Outcome.SENT, code, ref=ref)


def no_answer(error: str) -> DeliveryResult:
    """Return the result of an attempt without an answer: it may have succeeded."""
    return DeliveryResult(Outcome.RETRY, 0, error)


def judge_status(
    status: int,
    headers: Mapping[str, str],
    error: str,
    now: float,
    *,
    gone: Outcome = Outcome.DEAD,
) -> DeliveryResult:
    """Return what an answer means by its status; see the module's table.

    Args:
        status: the HTTP status.
        headers: by name in any case.
        error: what the body says.
        now: Unix seconds, for a Retry-After that is a date.
        gone: what 410 leads to: Standard Webhooks has it end a subscription.
    """
    text = f"HTTP {status}: {error}"[:MAX_ERROR] if error else f"HTTP {status}"
    if 200 <= status < 300:
        return sent(status)
    if 300 <= status < 400:
        return DeliveryResult(
            Outcome.DEAD, status, f"HTTP {status}: redirects are not followed"
        )
    if status == 429:
        after = retry_after(headers, now)
        return DeliveryResult(
            Outcome.RETRY, status, text, after=after, pause=True, undelivered=True
        )
    if status >= 500 or status in _LATER:
        return DeliveryResult(
            Outcome.RETRY, status, text, after=retry_after(headers, now)
        )
    if status == 410:
        return DeliveryResult(gone, status, text, undelivered=True, misconfigured=True)
    misconfigured = status in (401, 403, 404)
    return DeliveryResult(
        Outcome.DEAD, status, text, undelivered=True, misconfigured=misconfigured
    )


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds to wait that an answer asks for, at most an hour.

    None when it doesn't say, or nothing that makes sense; RFC 9110, section 10.2.3:
    seconds or an HTTP date. Seconds with a fraction are sent, too.
    """
    text = next((v for k, v in headers.items() if k.lower() == "retry-after"), "")
    text = text.strip()[:100]
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
        except ValueError:
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = date.timestamp() - now
    if math.isnan(seconds):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)

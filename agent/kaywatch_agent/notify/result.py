"""The result of a delivery attempt, and the meaning of HTTP statuses.

| status            | result                                                     |
|-------------------|------------------------------------------------------------|
| 2xx               | sent                                                       |
| 3xx               | refused: a redirect is not followed, but named             |
| 408, 425, 5xx     | retry                                                      |
| 429               | retry; no other message to the receiver before             |
| 410               | refused; a webhook is gone, and disabled until a reload    |
| 400, other 4xx    | refused                                                    |
| no response       | retry                                                      |

A refused message is retried while the receiver accepts no other message: then the
receiver is at fault, or its key. Otherwise the message is, and it is given up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

from kaywatch_agent.notify.http import redact_url

__all__ = [
    "MAX_RETRY_AFTER",
    "DeliveryOutcome",
    "DeliveryResult",
    "judge_status",
    "no_response",
    "retry_after",
    "sent",
]

MAX_RETRY_AFTER: Final = 3600.0  # seconds; more is a mistake or an attack
MAX_ERROR: Final = 300  # characters of a response that are kept

_RETRIED: Final = frozenset({408, 425, 429})


class DeliveryOutcome(StrEnum):
    """The consequence of an attempt for its message."""

    SENT = "sent"
    RETRY = "retry"
    REFUSED = "refused"  # the receiver rejects this message, or all of them
    DEAD = "dead"  # the receiver will never accept this message
    GONE = "gone"  # the receiver accepts no messages any more


@dataclass(frozen=True)
class DeliveryResult:
    """The result of an attempt.

    Attributes:
        outcome: what happens to the message.
        code: the HTTP status, or the code of an SMTP server; 0 for no response.
        error: the problem, without any secret.
        after: seconds to wait, as the receiver requests; None if it does not.
        pause: whether the receiver accepts no other message before that either.
        undelivered: whether the receiver certainly did not accept the message.
        ref: the receiver's id of the message, for messages that continue it.
        account: the credential that the message was sent with; a secret.
    """

    outcome: DeliveryOutcome
    code: int = 0
    error: str = ""
    after: float | None = None
    pause: bool = False
    undelivered: bool = False
    ref: str = ""
    account: str = field(default="", repr=False)


def sent(code: int = 200, ref: str = "") -> DeliveryResult:
    """Return the result of an attempt that succeeded."""
    return DeliveryResult(DeliveryOutcome.SENT, code, ref=ref)


def no_response(error: str, *, undelivered: bool = False) -> DeliveryResult:
    """Return the result of an attempt without a response; it may have succeeded."""
    return DeliveryResult(DeliveryOutcome.RETRY, 0, error, undelivered=undelivered)


def judge_status(
    status: int,
    headers: Mapping[str, str],
    error: str,
    now: float,
    *,
    gone: DeliveryOutcome = DeliveryOutcome.REFUSED,
) -> DeliveryResult:
    """Return the result of an HTTP status; see the module's table.

    Args:
        status: the HTTP status.
        headers: of the response; their names may have any case.
        error: the error message in the body.
        now: Unix seconds, for a Retry-After that is a date.
        gone: the outcome of 410, which ends a subscription in Standard Webhooks.
    """
    if 200 <= status < 300:
        return sent(status)
    if 300 <= status < 400:
        error = _explain_redirect(headers)
    text = f"HTTP {status}: {error}"[:MAX_ERROR] if error else f"HTTP {status}"
    if status >= 500 or status in _RETRIED:
        limited, after = status == 429, retry_after(headers, now)
        return DeliveryResult(
            DeliveryOutcome.RETRY, status, text, after, limited, undelivered=limited
        )
    return DeliveryResult(
        gone if status == 410 else DeliveryOutcome.REFUSED,
        status,
        text,
        undelivered=status >= 400,
    )


def _explain_redirect(headers: Mapping[str, str]) -> str:
    """Return where a redirect leads, without its path: that is often a secret."""
    location = _header(headers, "location")
    if not location:
        return "expected a status of 2xx"
    target = redact_url(location)
    where = "another path" if target == "…" else target
    return f"redirects to {where} are not followed; configure the final URL"


def _header(headers: Mapping[str, str], name: str) -> str:
    """Return the value of a header; empty if there is none."""
    return next((v for k, v in headers.items() if k.lower() == name), "").strip()


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a Retry-After header asks to wait, at most an hour.

    None if there is none, or it is not valid. RFC 9110, section 10.2.3: seconds or an
    HTTP date. Some servers send fractions of seconds.
    """
    text = _header(headers, "retry-after")[:100]
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

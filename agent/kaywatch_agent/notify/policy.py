"""How messages to one receiver are grouped, limited and continued."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from kaywatch_agent.model.alerts import SEVERITIES, Severity
from kaywatch_agent.rules.rule import Grouping
from kaywatch_agent.units import parse_duration

__all__ = ["DEFAULT_RATE", "FollowUp", "Policy", "SendRate", "parse_rate"]

FollowUp = Literal["post", "update", "thread"]


class SendRate(NamedTuple):
    """At most `messages` in `seconds`; all of them may be sent at once."""

    messages: float
    seconds: float


DEFAULT_RATE: Final = SendRate(60, 60.0)


@dataclass(frozen=True, kw_only=True)
class Policy(Grouping):
    """The configuration of a receiver that the outbox needs.

    Attributes:
        grouped: whether the alerts of a group share a message.
        max_alerts: how many alerts a message shows; the others are only counted.
        max_age: seconds after which an undelivered message is given up.
        max_attempts: failed attempts after which a message is given up.
        rate: the highest rate of messages.
        min_severity: less severe alerts are not sent; resolves always are.
        fallback: the receiver to notify when this one cannot be reached; may be empty.
        error_text: whether messages show the text of the last error.
        follow_up: whether a later message about an alert is a new message, updates the
            first one, or replies to it.
    """

    grouped: bool = True
    max_alerts: int = 10
    max_age: float = 86_400.0
    max_attempts: int = 1_000
    rate: SendRate = DEFAULT_RATE
    min_severity: Severity = "info"
    fallback: str = ""
    error_text: bool = True
    follow_up: FollowUp = "post"

    def accepts(self, severity: Severity) -> bool:
        """Return whether a firing alert of this severity is sent."""
        return SEVERITIES.index(severity) >= SEVERITIES.index(self.min_severity)


def parse_rate(text: str) -> SendRate:
    """Return a rate from a text such as `60/m` or `5/10s`.

    Raises:
        ValueError: the text is not a rate.
    """
    messages, _, per = text.replace(" ", "").partition("/")
    try:
        seconds = parse_duration(per if per[:1].isdigit() else f"1{per}")
    except ValueError:
        seconds = 0.0
    if not re.fullmatch("[0-9]{1,6}", messages) or not int(messages) or not seconds:
        raise ValueError(
            f'invalid rate "{text[:80]}": expected a number of messages per time, such'
            ' as "60/m" or "1/s"'
        )
    return SendRate(int(messages), seconds)

"""How messages to a receiver are put together and paced."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from kaywatch_agent.model.alerts import SEVERITIES, Severity
from kaywatch_agent.rules.rule import Grouping
from kaywatch_agent.units import parse_duration

__all__ = ["FollowUp", "DEFAULT_RATE", "Policy", "Rate", "parse_rate"]

FollowUp = Literal["post", "update", "thread"]


class Rate(NamedTuple):
    """So many messages in so many seconds; as many at once."""

    messages: float
    seconds: float


DEFAULT_RATE: Final = Rate(60, 60.0)


@dataclass(frozen=True, kw_only=True)
class Policy(Grouping):
    """What the outbox knows of a receiver.

    Attributes:
        grouped: whether alerts of one group share a message; else each has its own.
        max_alerts: how many alerts a message shows; the others are counted.
        max_age: seconds after which an undelivered message is given up.
        rate: how fast messages may go.
        min_severity: triggers below it are not sent; resolves always are.
        fallback: who is told instead when this one can't be; empty for nobody.
        follow_up: whether what follows on a message is a message of its own, takes its
            place, or is an answer to it.
    """

    grouped: bool = True
    max_alerts: int = 10
    max_age: float = 86_400.0
    rate: Rate = DEFAULT_RATE
    min_severity: Severity = "info"
    fallback: str = ""
    follow_up: FollowUp = "post"

    def wants(self, severity: Severity) -> bool:
        """Whether a trigger of this severity is sent."""
        return SEVERITIES.index(severity) >= SEVERITIES.index(self.min_severity)


def parse_rate(text: str) -> Rate:
    """Return the rate that a text such as `60/m` or `5/10s` is.

    Raises:
        ValueError: it is none.
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
    return Rate(int(messages), seconds)

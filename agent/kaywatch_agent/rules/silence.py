"""Silences: alerts that match are not told of for a while. JSON as Alertmanager's."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping

import msgspec

from kaywatch_agent.rules.matchers import Matcher, checked, matches

__all__ = ["Silence", "covering", "stored", "validated"]


class Silence(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One silence; times have a zone.

    Attributes:
        id: given by the agent.
        matchers: all have to hold; labels are those of the alert, with `alertname`
            and `severity`.
        starts_at, ends_at: when it holds.
        created_by, comment: by whom, and why.
    """

    matchers: tuple[Matcher, ...]
    starts_at: dt.datetime
    ends_at: dt.datetime
    id: str = ""
    created_by: str = ""
    comment: str = ""

    def holds(self, now: float) -> bool:
        """Return whether it holds at a time, Unix seconds."""
        return self.starts_at.timestamp() <= now < self.ends_at.timestamp()

    def over(self, now: float) -> bool:
        """Return whether its time is over."""
        return self.ends_at.timestamp() <= now


def covering(
    silences: Iterable[Silence], labels: Mapping[str, str], now: float
) -> Silence | None:
    """Return the silence that covers an alert now, if there is one."""
    for silence in silences:
        if silence.holds(now) and matches(silence.matchers, labels):
            return silence
    return None


def validated(silence: Silence) -> Silence:
    """Return a silence, if it can be used.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if not silence.matchers:
        raise ValueError("matchers: at least one, or it would silence everything")
    for matcher in silence.matchers:
        checked(matcher)
    if all(matcher.holds({}) for matcher in silence.matchers):
        raise ValueError("matchers: they hold for every alert; name a label's value")
    for name in ("starts_at", "ends_at"):
        if getattr(silence, name).tzinfo is None:
            raise ValueError(f"{name}: needs a zone, such as 2026-12-01T22:00:00Z")
    if silence.ends_at <= silence.starts_at:
        raise ValueError("ends_at: has to be after starts_at")
    return silence


def stored(data: bytes) -> Silence:
    """Return a silence from the store, if it can be used.

    Raises:
        ValueError: saying what is wrong with it.
    """
    try:
        return validated(msgspec.json.decode(data, type=Silence))
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None

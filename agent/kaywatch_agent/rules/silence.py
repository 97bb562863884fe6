"""Silences mute notifications for a time. Their JSON is that of Alertmanager."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Final

import msgspec

from kaywatch_agent.rules.matchers import Matcher, matches, validate_matcher

__all__ = ["CONFIGURED_IDS", "Silence", "SilenceStore", "validate_silence"]

# How long an expired silence is kept: as long as Alertmanager keeps it.
RETENTION_SECONDS: Final = 5 * 86_400.0


# How the ids of silences of the configuration begin; others are UUIDs.
CONFIGURED_IDS: Final = ("configured-", "mute-")


class Silence(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One silence; its times have a time zone.

    Attributes:
        id: assigned by the agent.
        matchers: all must match the alert's labels, including `alertname` and
            `severity`.
        starts_at, ends_at: when it is active; the end is exclusive.
        created_by, comment: who created it, and why.
    """

    matchers: tuple[Matcher, ...]
    starts_at: dt.datetime
    ends_at: dt.datetime
    id: str = ""
    created_by: str = ""
    comment: str = ""

    @property
    def is_configured(self) -> bool:
        """Whether it is part of the configuration, so that it cannot be expired."""
        return self.id.startswith(CONFIGURED_IDS)

    def is_active(self, now: float) -> bool:
        """Return whether it is active at a Unix time."""
        return self.starts_at.timestamp() <= now < self.ends_at.timestamp()

    def is_expired(self, now: float) -> bool:
        """Return whether it ended before a Unix time."""
        return self.ends_at.timestamp() <= now

    def mutes(self, labels: Mapping[str, str], now: float) -> bool:
        """Return whether it mutes an alert with these labels now."""
        return self.is_active(now) and matches(self.matchers, labels)


class SilenceStore:
    """The silences that were created at runtime, and the documents to be written.

    The mapping is replaced as a whole, never changed: evaluations read it in a thread.

    Attributes:
        silences: by id.
        unusable: the stored silences that are ignored, with the reason, by id.
    """

    def __init__(self) -> None:
        self.silences: Mapping[str, Silence] = {}
        self.unusable: dict[str, str] = {}
        self._changed: dict[str, Silence | None] = {}

    def restore(self, documents: Mapping[str, bytes]) -> None:
        """Restore the silences from their documents, by id."""
        silences: dict[str, Silence] = {}
        for silence_id, data in documents.items():
            try:
                silences[silence_id] = _decode(data)
            except ValueError as error:
                # It would fail each evaluation, and no alert would be sent.
                self.unusable[silence_id] = str(error)
        self.silences = silences

    def put(self, silence: Silence) -> None:
        """Add a silence, or replace the one with its id."""
        self.silences = {**self.silences, silence.id: silence}
        self._changed[silence.id] = silence

    def expire(self, silence_id: str, now: float) -> bool:
        """End a silence now; return False if there is no such silence to end."""
        silence = self.silences.get(silence_id)
        if silence is None or silence.is_expired(now):
            return False
        end = dt.datetime.fromtimestamp(now, dt.UTC)
        # A silence that has not begun yet cannot end before its start.
        start = min(silence.starts_at, end)
        self.put(msgspec.structs.replace(silence, starts_at=start, ends_at=end))
        return True

    def forget_expired(self, now: float) -> None:
        """Delete the silences that expired more than five days ago."""
        before = now - RETENTION_SECONDS
        remaining = {k: s for k, s in self.silences.items() if not s.is_expired(before)}
        self._changed |= dict.fromkeys(self.silences.keys() - remaining.keys())
        if len(remaining) < len(self.silences):
            self.silences = remaining

    def documents(self, *, full: bool = False) -> dict[str, bytes | None]:
        """Return the documents that changed since the last call, or all, by id."""
        changed, self._changed = self._changed, {}
        if full:
            changed |= self.silences
        return {
            silence_id: None if silence is None else msgspec.json.encode(silence)
            for silence_id, silence in changed.items()
        }


def validate_silence(silence: Silence) -> Silence:
    """Return a silence if it is valid.

    Raises:
        ValueError: it is invalid; the text contains the reason.
    """
    if not silence.matchers:
        raise ValueError("matchers: expected at least one; none would mute everything")
    for matcher in silence.matchers:
        validate_matcher(matcher)
    # A missing label counts as empty, so matchers that accept no labels accept all
    # alerts; Alertmanager refuses them, too.
    if all(matcher.holds({}) for matcher in silence.matchers):
        raise ValueError("matchers: these match every alert; name the value of a label")
    for name in ("starts_at", "ends_at"):
        if getattr(silence, name).tzinfo is None:
            raise ValueError(f"{name}: needs a time zone, as in 2026-12-01T22:00:00Z")
    if silence.ends_at <= silence.starts_at:
        raise ValueError("ends_at: must be after starts_at")
    return silence


# -- inside --------------------------------------------------------------------------


def _decode(data: bytes) -> Silence:
    try:
        return validate_silence(msgspec.json.decode(data, type=Silence))
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None

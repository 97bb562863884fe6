"""Silences made, changed and ended over HTTP, in Alertmanager's form."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from typing import Final, Protocol

from kaywatch_agent.rules.matchers import Matcher, matches
from kaywatch_agent.rules.silence import Silence, validated
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.web.api import alert_shapes as shapes
from kaywatch_agent.web.api.parameters import NoQuery, SilenceQuery
from kaywatch_agent.web.problems import Problem, not_found
from kaywatch_agent.web.reading import Reading

__all__ = ["MAX_SILENCES", "Desk", "end", "make", "silence_row", "silenced"]

# Each is looked at for each alert that fires, at each evaluation.
MAX_SILENCES: Final = 1_000

# Longer than a person means; Alertmanager lets one do it, and it is forgotten there.
MAX_LENGTH: Final = dt.timedelta(days=366)


class Desk(Protocol):
    """Where alerts are looked up and silences are made; `snapshot` from any thread."""

    @property
    def silences(self) -> Mapping[str, Silence]:
        """All that are remembered, by id."""

    @property
    def counts(self) -> Mapping[AlertState, int]:
        """How many alerts are in each state."""

    def snapshot(self) -> AlertsSnapshot:
        """Return all about alerts; waits for an evaluation's end."""

    def put_silence(self, silence: Silence) -> None:
        """Add a silence, or change one."""

    def expire_silence(self, silence_id: str) -> bool:
        """End a silence; return whether there was one to end."""


def make(desk: Desk, now: float, _: NoQuery, body: shapes.SilenceBody) -> Silence:
    """Make a silence, or change the one with its id.

    Raises:
        Problem: 400 saying what is wrong with it, or 404 for an id that isn't there.
    """
    present = dt.datetime.fromtimestamp(now, dt.UTC)
    if body.id and body.id not in desk.silences:
        raise not_found("silence", body.id, desk.silences, "/api/v1/silences")
    if not body.id and len(desk.silences) >= MAX_SILENCES:
        raise Problem(
            400,
            "too_many_silences",
            f"there are {MAX_SILENCES} silences, those of the last days included",
            "one with a regular expression says as much as many",
        )
    start = body.startsAt if isinstance(body.startsAt, dt.datetime) else present
    if body.endsAt <= present:
        raise _wrong("endsAt: is over already", "give a time to come, or DELETE it")
    if body.endsAt - min(start, present) > MAX_LENGTH:
        raise _wrong(
            f"endsAt: more than {MAX_LENGTH.days} days from its start",
            "what shall never be told is a rule with notify = []",
        )
    silence = Silence(
        id=body.id or str(uuid.uuid4()),
        matchers=tuple(
            Matcher(m.name, m.value, m.isRegex, m.isEqual) for m in body.matchers
        ),
        starts_at=start.astimezone(dt.UTC),
        ends_at=body.endsAt.astimezone(dt.UTC),
        created_by=body.createdBy,
        comment=body.comment,
    )
    try:
        validated(silence)
    except ValueError as error:
        text = str(error)
        for ours, theirs in (("starts_at", "startsAt"), ("ends_at", "endsAt")):
            text = text.replace(ours, theirs)
        raise _wrong(text, "see docs/alerts.md, Silences") from None
    desk.put_silence(silence)
    return silence


def end(desk: Desk, now: float, query: SilenceQuery, _: None) -> Silence:
    """End a silence now.

    Raises:
        Problem: 404; also where it is over already.
    """
    if not desk.expire_silence(query.id):
        held = [name for name, s in desk.silences.items() if not s.is_expired(now)]
        raise not_found("silence", query.id, held, "/api/v1/silences")
    return desk.silences[query.id]


def silenced(reading: Reading, silence: Silence) -> shapes.Silenced:
    """Return a silence that was made, changed or ended."""
    made = silence_row(silence, reading.picture())
    return shapes.Silenced(silenceID=silence.id, silence=made)


def silence_row(silence: Silence, picture: AlertsSnapshot) -> shapes.SilenceRow:
    """Return a silence as it is shown."""
    now = picture.now
    state: shapes.SilenceState = "active" if silence.is_active(now) else "pending"
    if silence.is_expired(now):
        state = "expired"
    covered = [
        instance
        for instance in picture.alerts
        if state == "active"
        and instance.lifecycle.is_firing
        and matches(silence.matchers, picture.labels(instance))
    ]
    return shapes.SilenceRow(
        id=silence.id,
        status=shapes.SilenceStatus(state=state),
        matchers=[
            shapes.MatcherRow(
                name=m.name, value=m.value, isRegex=m.is_regex, isEqual=m.is_equal
            )
            for m in silence.matchers
        ],
        startsAt=silence.starts_at,
        endsAt=silence.ends_at,
        createdBy=silence.created_by,
        comment=silence.comment,
        alerts=len(covered),
    )


# -- inside --------------------------------------------------------------------------


def _wrong(message: str, hint: str) -> Problem:
    return Problem(400, "bad_silence", message, hint)

"""Silences, in Alertmanager's format: listed, added, changed and expired."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import asdict

from kaywatch_agent.model.bounds import Count, Moment, Name
from kaywatch_agent.rules.checks import describe_unknown
from kaywatch_agent.rules.matchers import Matcher
from kaywatch_agent.rules.silence import (
    CONFIGURED_IDS,
    Silence,
    validate_silence,
)
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.web.api.parameters import NoQuery
from kaywatch_agent.web.api.schema import ResponseBody
from kaywatch_agent.web.problems import Problem, not_found
from kaywatch_agent.web.snapshot import AgentSnapshot
from kaywatch_agent.web.view import AgentView

__all__ = [
    "MAX_SILENCES",
    "SilenceBody",
    "add_silence",
    "changed_silence",
    "expire_silence",
    "list_silences",
]

# Every evaluation compares each of them with each firing alert.
MAX_SILENCES: Final = 1_000

# Alertmanager accepts longer silences, and people forget that they exist.
MAX_LENGTH: Final = dt.timedelta(days=366)

MAX_MATCHERS: Final = 20

State = Literal["active", "pending", "expired"]
Text = Annotated[str, Meta(max_length=1000)]


class SilencesQuery(Struct, frozen=True):
    """Filters of silences."""

    state: Annotated[State, Meta(description="Only this state.")] | None = None


class SilenceQuery(Struct, frozen=True):
    """One silence."""

    id: Annotated[Name, Meta(min_length=1, description="The silence's id.")]


class SilenceStatus(ResponseBody):
    """Whether a silence is in effect."""

    state: State


class SilenceView(Silence, frozen=True, kw_only=True, rename="camel"):
    """One silence; `alerts` counts the firing alerts that it covers now.

    One that is `configured` cannot be expired; that of a mute window is its present or
    next occurrence.
    """

    status: SilenceStatus
    alerts: Count
    configured: bool


class SilenceList(ResponseBody):
    """Silences, active ones first; expired ones are kept for 5 days."""

    timestamp: Moment
    silences: list[SilenceView]


class SilenceResponse(ResponseBody, rename={"id": "silenceID"}):
    """A silence that was added, changed or expired.

    `warnings` name labels, rules and severities that no alert has.
    """

    id: str
    silence: SilenceView
    warnings: list[str]


class SilenceBody(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """A silence to add, or with the `id` of one to change, in Alertmanager's format.

    Without `startsAt`, the silence is in effect at once. `status`, `updatedAt`,
    `alerts` and `configured` are ignored, so that a response can be sent again.
    """

    matchers: Annotated[list[Matcher], Meta(min_length=1, max_length=MAX_MATCHERS)]
    ends_at: Annotated[
        dt.datetime, Meta(tz=True, description="RFC 3339, later than startsAt and now")
    ]
    starts_at: Annotated[dt.datetime, Meta(tz=True)] | UnsetType = UNSET
    id: Annotated[str, Meta(max_length=64)] = ""
    created_by: Text = ""
    comment: Text = ""
    status: dict[str, Any] | UnsetType = UNSET
    updated_at: str | UnsetType = UNSET
    alerts: int | UnsetType = UNSET
    configured: bool | UnsetType = UNSET


def list_silences(snapshot: AgentSnapshot, query: SilencesQuery) -> SilenceList:
    """Return the matching silences, active ones first."""
    alerts = snapshot.alerts()
    views = [_view(silence, alerts) for silence in alerts.silences]
    views = [view for view in views if query.state in (None, view.status.state)]
    order = ("active", "pending", "expired")
    views.sort(key=lambda v: (order.index(v.status.state), v.ends_at, v.id))
    return SilenceList(timestamp=alerts.now, silences=views)


def add_silence(agent: AgentView, _: NoQuery, body: SilenceBody) -> Silence:
    """Add a silence, or change the one with its id.

    Raises:
        Problem: 400 for an invalid silence, or 404 for an unknown id.
    """
    silences = agent.alerting.silences
    now = dt.datetime.fromtimestamp(agent.clock(), dt.UTC)
    # As in Alertmanager, only the server assigns ids.
    if body.id and body.id not in silences:
        raise not_found("silence", body.id, silences, "/api/v1/silences")
    if not body.id and len(silences) >= MAX_SILENCES:
        raise Problem(
            400,
            "too_many_silences",
            f"there are {MAX_SILENCES} silences, including those of the last days",
            "use one with a regular expression in place of many",
        )
    start = body.starts_at if isinstance(body.starts_at, dt.datetime) else now
    _check_times(start, body.ends_at, now)
    silence = Silence(
        id=body.id or str(uuid.uuid4()),
        matchers=tuple(body.matchers),
        starts_at=start.astimezone(dt.UTC),
        ends_at=body.ends_at.astimezone(dt.UTC),
        created_by=body.created_by,
        comment=body.comment,
    )
    try:
        validate_silence(silence)
    except ValueError as error:
        text = str(error).replace("starts_at", "startsAt").replace("ends_at", "endsAt")
        raise _invalid(text, "see docs/alerts.md, Silences") from None
    agent.alerting.put_silence(silence)
    return silence


def expire_silence(agent: AgentView, query: SilenceQuery, _: None) -> Silence:
    """End a silence now.

    Raises:
        Problem: 404 for an unknown silence, and for one that has expired; 400 for one
            of the configuration.
    """
    if query.id.startswith(CONFIGURED_IDS):
        hint = "remove its table from the configuration file, and reload"
        raise Problem(400, "configured_silence", f"{query.id!r} is configured", hint)
    if not agent.alerting.expire_silence(query.id):
        silences, now = agent.alerting.silences, agent.clock()
        active = [
            name for name, silence in silences.items() if not silence.is_expired(now)
        ]
        raise not_found("silence", query.id, active, "/api/v1/silences")
    return agent.alerting.silences[query.id]


def changed_silence(snapshot: AgentSnapshot, silence: Silence) -> SilenceResponse:
    """Return a silence that was added, changed or expired."""
    alerts = snapshot.alerts()
    rules = alerts.settings.rules.values()
    warnings = [
        text
        for matcher in silence.matchers
        for text in describe_unknown(matcher, alerts.settings.labels, rules)
    ]
    return SilenceResponse(
        id=silence.id, silence=_view(silence, alerts), warnings=warnings
    )


# -- inside --------------------------------------------------------------------------


def _view(silence: Silence, alerts: AlertsSnapshot) -> SilenceView:
    state: State = "active" if silence.is_active(alerts.now) else "pending"
    if silence.is_expired(alerts.now):
        state = "expired"
    covered = [
        alert
        for alert in alerts.alerts
        if alert.lifecycle.is_firing and silence.mutes(alerts.labels(alert), alerts.now)
    ]
    return SilenceView(
        **asdict(silence),
        status=SilenceStatus(state=state),
        alerts=len(covered),
        configured=silence.is_configured,
    )


def _check_times(start: dt.datetime, end: dt.datetime, now: dt.datetime) -> None:
    if end <= now:
        raise _invalid("endsAt: is in the past", "give a later time, or use DELETE")
    # A silence that starts later counts from now.
    if end - min(start, now) > MAX_LENGTH:
        raise _invalid(
            f"endsAt: more than {MAX_LENGTH.days} days after the start",
            "to never be notified, set notify = [] in the rule",
        )


def _invalid(message: str, hint: str) -> Problem:
    return Problem(400, "bad_silence", message, hint)

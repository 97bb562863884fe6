"""The shapes of answers about alerts, rules and silences; see `schema`."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from kaywatch_agent.model.bounds import Count, Moment, Rate, Seconds
from kaywatch_agent.web.api.schema import Body

__all__ = [
    "AlertList",
    "AlertRow",
    "AlertTold",
    "GroupRow",
    "MatcherRow",
    "MetricList",
    "MetricRow",
    "RuleList",
    "RuleRow",
    "RuleStory",
    "SilenceList",
    "SilenceRow",
    "SilenceStatus",
    "Silenced",
]

AlertState = Literal["ok", "pending", "firing", "recovering"]
SeverityName = Literal["info", "warning", "error", "critical"]
FindingName = Literal["unknown", "clear", "band", "breach"]
SilenceState = Literal["pending", "active", "expired"]


class AlertTold(Body):
    """What a receiver was told of an alert last: firing, or resolved."""

    last: Literal["firing", "resolved"]
    episode: Count
    at: Moment


class AlertRow(Body):
    """One alert of one rule: its state, and the facts that a message has.

    `since` is when it came into its state, `held` how many observed seconds it has
    gone towards the next, `blind` how many without data. `held_back` says, by receiver,
    why that is not told; `told` what each was told last. `silenced_by` are ids.
    """

    id: str
    rule: str
    state: AlertState
    since: Moment | None
    held: Seconds
    blind: Seconds
    severity: SeverityName
    labels: dict[str, str]
    summary: str
    condition: str
    value: float | None
    threshold: float | None
    clear: float | None
    unit: str
    window: Seconds
    executions: Count
    errors: Count
    completeness: Rate | None
    episode: Count
    started: Moment | None
    fired: Moment | None
    ended: Moment | None
    reason: str
    flapping: bool
    note: str
    receivers: list[str]
    held_back: dict[str, str]
    told: dict[str, AlertTold]
    silenced_by: list[str]
    runbook_url: str
    dashboard_url: str
    silence_url: str
    dedup_key: str
    fingerprint: str


class AlertList(Body):
    """Alerts, the worst first; `matching` counts those cut by limit.

    `states` has how many alerts are in each state, whatever was asked for.
    """

    timestamp: Moment
    matching: Count
    states: dict[str, int]
    alerts: list[AlertRow]


class RuleRow(Body):
    """One rule; `sentence` says what it looks for, and when it fires and ends.

    `refused` counts alerts beyond the cap at the last evaluation, `groups` what it
    looks at.
    """

    rule: str
    kind: str
    condition: str
    sentence: str
    unit: str
    severity: SeverityName
    window: Seconds
    min_executions: Count
    hold: Annotated[float, Meta(ge=0, description="`for`, in seconds")]
    keep_firing_for: Seconds
    no_data_after: Seconds
    on_no_data: Literal["keep", "ok", "alert"]
    cooldown: Seconds
    repeat_interval: Seconds
    match: list[str]
    per: list[str]
    labels: dict[str, str]
    receivers: list[str]
    runbook_url: str
    built_in: bool
    groups: Count
    states: dict[str, int]
    refused: Count


class RuleList(Body):
    """All rules; `evaluated` is when they were looked at last."""

    timestamp: Moment
    evaluated: Moment
    interval: Seconds
    problem: str
    warnings: list[str]
    rules: list[RuleRow]


class GroupRow(Body):
    """What a rule found of one group of series, and in words why it is no breach.

    `metrics` has all values that the rule looks at.
    """

    alert: str
    labels: dict[str, str]
    finding: FindingName
    value: float | None
    threshold: float | None
    executions: Count
    errors: Count
    metrics: dict[str, float | None]
    text: str


class RuleStory(Body):
    """One rule, its alerts, and the groups that are nearest to firing."""

    timestamp: Moment
    evaluated: Moment
    problem: str
    rule: RuleRow
    alerts: list[AlertRow]
    nearest: list[GroupRow]


class MetricRow(Body):
    """A metric that rules can use."""

    metric: str
    unit: str
    source: str
    help: str
    labels: list[str]


class MetricList(Body):
    """The metrics that rules can use, besides `custom.NAME.WAY` of your own."""

    metrics: list[MetricRow]
    ways: list[str]


class MatcherRow(Body):
    """One matcher of a silence; all of them have to hold."""

    name: str
    value: str
    isRegex: bool  # noqa: N815
    isEqual: bool  # noqa: N815


class SilenceStatus(Body):
    """Whether a silence holds."""

    state: SilenceState


class SilenceRow(Body):
    """One silence, as Alertmanager has it; `alerts` counts those that it covers now."""

    id: str
    status: SilenceStatus
    matchers: list[MatcherRow]
    startsAt: dt.datetime  # noqa: N815
    endsAt: dt.datetime  # noqa: N815
    createdBy: str  # noqa: N815
    comment: str
    alerts: Count


class SilenceList(Body):
    """The silences: those that hold first; those that are over are kept for 5 days."""

    timestamp: Moment
    silences: list[SilenceRow]


class Silenced(Body):
    """What was made, changed or ended."""

    silenceID: str  # noqa: N815
    silence: SilenceRow


# -- what is sent to us --------------------------------------------------------------

MAX_MATCHERS = 20
Text = Annotated[str, Meta(max_length=1000)]


class MatcherBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One matcher: a label, and what it has to be, or not to be."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$", max_length=200)]
    value: Text
    isRegex: bool = False  # noqa: N815
    isEqual: bool = True  # noqa: N815


class StatusBody(Struct, frozen=True):
    """What Alertmanager says of a silence; it is not looked at."""

    state: str = ""


class SilenceBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A silence to make, or with its `id` to change, in Alertmanager's form.

    Without `startsAt` it holds from now on. `status`, `updatedAt` and `alerts` may be
    there, as in what was read, and are not looked at.
    """

    matchers: Annotated[list[MatcherBody], Meta(min_length=1, max_length=MAX_MATCHERS)]
    endsAt: Annotated[  # noqa: N815
        dt.datetime, Meta(tz=True, description="RFC 3339, later than startsAt and now")
    ]
    startsAt: Annotated[dt.datetime, Meta(tz=True)] | UnsetType = UNSET  # noqa: N815
    id: Annotated[str, Meta(max_length=64)] = ""
    createdBy: Text = ""  # noqa: N815
    comment: Text = ""
    status: StatusBody | UnsetType = UNSET
    updatedAt: str | UnsetType = UNSET  # noqa: N815
    alerts: int | UnsetType = UNSET

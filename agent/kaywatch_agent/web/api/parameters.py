"""What can be asked for: each route's parameters, as typed and bounded fields.

The same declarations check a request and make up the OpenAPI document.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Collection, Mapping
from types import NoneType
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta, Struct, field
from multidict import MultiMapping

from kaywatch.wire import MAX_NAME
from kaywatch_agent.aggregate.event_stream import MAX_RATE
from kaywatch_agent.units import DURATION_PATTERN, parse_duration
from kaywatch_agent.web.problems import MAX_SHOWN, Problem, nearest

__all__ = [
    "AlertQuery",
    "AlertsQuery",
    "ClientsQuery",
    "EventsQuery",
    "ExportQuery",
    "FailuresQuery",
    "GraphStatsQuery",
    "GraphsQuery",
    "LlmQuery",
    "NoQuery",
    "RuleQuery",
    "RulesQuery",
    "SilencePageQuery",
    "SilenceQuery",
    "SilencesQuery",
    "NodeStatsQuery",
    "NodesQuery",
    "SeriesQuery",
    "NotificationsQuery",
    "ReceiverQuery",
    "StreamQuery",
    "inner",
    "meta",
    "parse",
    "window_seconds",
]

Q = TypeVar("Q", bound=Struct)

# The patterns accept exactly what is taken, so that the document tells the truth.
WINDOW_PATTERN: Final = rf"^(?=.*[1-9]){DURATION_PATTERN}$"
MOMENT_PATTERN: Final = rf"^(now|-{DURATION_PATTERN}|[0-9]{{1,10}}(\.[0-9]{{1,6}})?)$"

DURATION_WORDS: Final = "a duration such as 90s, 5m, 1h30m or 500ms"

Name = Annotated[str, Meta(max_length=MAX_NAME)]
Service = Annotated[Name, Meta(description="Only this service.", examples=["shop"])]
Graph = Annotated[
    Name,
    Meta(description="Only this graph; empty: outside any.", examples=["checkout"]),
]
Node = Annotated[Name, Meta(description="Only this node.", examples=["pay"])]
WindowText = Annotated[
    str,
    Meta(
        pattern=WINDOW_PATTERN,
        description="Look back so far, over what is kept (10 s for an hour, 1 min for"
        " a day, 1 h for a month); without it, since first seen.",
        examples=["30s", "5m", "24h"],
        extra={"allowed": f"{DURATION_WORDS}; leave it out for all since first seen"},
    ),
]
MomentText = Annotated[
    str,
    Meta(
        pattern=MOMENT_PATTERN,
        description="Unix seconds, or relative to now, such as -15m.",
        examples=["-15m", "now"],
        extra={"allowed": "Unix seconds, now, or relative to now such as -15m"},
    ),
]
StepText = Annotated[
    str,
    Meta(
        pattern=WINDOW_PATTERN,
        description="Between two points, a multiple of 10s; by default so long that"
        " there are at most 360.",
        examples=["10s", "60", "5m"],
        extra={"allowed": "a multiple of 10 seconds, such as 10, 30s, 5m or 1h"},
    ),
]
Metric = Annotated[
    Name,
    Meta(
        description="executions, throughput, success_rate, error_rate, avg, min, max,"
        " p50, p90, p95, p99, retries, retry_rate, runs, or a custom metric's name.",
        examples=["p95"],
    ),
]
State = Annotated[
    Literal["connected", "disconnected", "ended", "died"],
    Meta(description="Only clients in this state."),
]
PathNode = Annotated[Name, Meta(min_length=1, description="The node, percent-encoded.")]
PathGraph = Annotated[
    Name, Meta(min_length=1, description="The graph, percent-encoded.")
]


class NoQuery(Struct, frozen=True):
    """No parameters."""


class NodesQuery(Struct, frozen=True):
    """Which nodes, over which time."""

    window: WindowText | None = None
    graph: Graph | None = None
    service: Service | None = None


class NodeStatsQuery(NodesQuery, frozen=True, kw_only=True):
    """One node, over which time."""

    node: PathNode


class CompletenessQuery(Struct, frozen=True):
    """Which services, over which time."""

    window: WindowText | None = None
    service: Service | None = None


class GraphsQuery(Struct, frozen=True):
    """Which graphs, over which time."""

    window: WindowText | None = None
    graph: Graph | None = None
    service: Service | None = None


class GraphStatsQuery(Struct, frozen=True, kw_only=True):
    """One graph, over which time."""

    graph: PathGraph
    window: WindowText | None = None
    service: Service | None = None


class ExportQuery(NodesQuery, frozen=True):
    """What to export, over which time."""


class LlmQuery(Struct, frozen=True):
    """Which calls of language models, over which time."""

    window: WindowText | None = None
    graph: Graph | None = None
    node: Node | None = None
    service: Service | None = None


class SeriesQuery(Struct, frozen=True):
    """One metric over time."""

    metric: Metric
    graph: Graph | None = None
    node: Node | None = None
    service: Service | None = None
    start: MomentText | None = None
    end: MomentText | None = None
    step: StepText | None = None


class FailuresQuery(Struct, frozen=True):
    """Which failures."""

    service: Service | None = None
    graph: Graph | None = None
    node: Node | None = None
    type: (
        Annotated[
            Name, Meta(description="Only this exception type.", examples=["KeyError"])
        ]
        | None
    ) = None
    limit: Annotated[
        int, Meta(ge=1, le=1000, description="How many at most.", examples=[10])
    ] = 100


class ClientsQuery(Struct, frozen=True):
    """Which clients."""

    state: State | None = None
    service: Service | None = None


class EventsQuery(Struct, frozen=True):
    """Which events, how many a second, and how many in all."""

    service: Annotated[
        list[Name], Meta(description="Only these services.", examples=[["shop"]])
    ] = field(default_factory=list)
    graph: Annotated[
        list[Name],
        Meta(description="Only these graphs; empty: outside any.", examples=[["g"]]),
    ] = field(default_factory=list)
    node: Annotated[
        list[Name],
        Meta(
            description="Only these nodes; of runs, those that ended there.",
            examples=[["pay"]],
        ),
    ] = field(default_factory=list)
    outcome: Annotated[
        list[Literal["ok", "error", "suppressed", "fallback", "cancelled"]],
        Meta(description="Only with these outcomes.", examples=[["error"]]),
    ] = field(default_factory=list)
    failures: Annotated[
        bool,
        Meta(description="Short for the outcomes error, suppressed and fallback."),
    ] = False
    slower_than: Annotated[
        str,
        Meta(
            pattern=rf"^{DURATION_PATTERN}$",
            description="Only what took longer than this.",
            examples=["2s", "500ms", "0.5"],
            extra={"allowed": DURATION_WORDS},
        ),
    ] = "0"
    runs: Annotated[bool, Meta(description="Runs that end as well.")] = False
    rate: Annotated[
        int, Meta(ge=1, le=MAX_RATE, description="How many a second at most.")
    ] = MAX_RATE
    limit: (
        Annotated[
            int,
            Meta(ge=1, le=1_000_000, description="End after so many executions, runs."),
        ]
        | None
    ) = None


Severity = Annotated[
    Literal["info", "warning", "error", "critical"],
    Meta(description="Only of this severity.", examples=["critical"]),
]


class AlertsQuery(Struct, frozen=True):
    """Which alerts."""

    state: (
        Annotated[
            Literal["active", "ok", "pending", "firing", "recovering"],
            Meta(description="Only in this state; active: in any but ok."),
        ]
        | None
    ) = None
    rule: (
        Annotated[Name, Meta(description="Only of this rule.", examples=["slow"])]
        | None
    ) = None
    severity: Severity | None = None
    service: Service | None = None
    graph: Graph | None = None
    node: Node | None = None
    limit: Annotated[
        int, Meta(ge=1, le=10_000, description="How many at most.", examples=[10])
    ] = 1000


class AlertQuery(Struct, frozen=True):
    """One alert."""

    id: Annotated[Name, Meta(min_length=1, description="The alert's id.")]


class SilencePageQuery(Struct, frozen=True):
    """The alert that is to be silenced."""

    alert: Annotated[Name, Meta(min_length=1, description="The alert's id.")]


class RulesQuery(Struct, frozen=True):
    """Which rules."""

    kind: (
        Annotated[
            Literal[
                "threshold",
                "absence",
                "burn_rate",
                "transition_share",
                "stuck",
                "process_died",
                "runaway",
            ],
            Meta(description="Only of this kind."),
        ]
        | None
    ) = None
    severity: Severity | None = None


class RuleQuery(Struct, frozen=True):
    """One rule, and how many of its alerts and groups."""

    rule: Annotated[Name, Meta(min_length=1, description="The rule, percent-encoded.")]
    limit: Annotated[
        int, Meta(ge=1, le=1000, description="How many at most.", examples=[10])
    ] = 20


class SilencesQuery(Struct, frozen=True):
    """Which silences."""

    state: (
        Annotated[
            Literal["active", "pending", "expired"],
            Meta(description="Only in this state."),
        ]
        | None
    ) = None


class SilenceQuery(Struct, frozen=True):
    """One silence."""

    id: Annotated[Name, Meta(min_length=1, description="The silence's id.")]


class NotificationsQuery(Struct, frozen=True):
    """Which messages."""

    receiver: (
        Annotated[Name, Meta(description="Only to this one.", examples=["ops"])] | None
    ) = None
    status: (
        Annotated[
            Literal["pending", "sent", "dead", "superseded"],
            Meta(description="Only those that are this."),
        ]
        | None
    ) = None
    limit: Annotated[int, Meta(ge=1, le=10_000, description="How many at most.")] = 100


class ReceiverQuery(Struct, frozen=True):
    """One receiver."""

    receiver: Annotated[Name, Meta(min_length=1, description="Its name.")]


class StreamQuery(Struct, frozen=True):
    """How long to listen."""

    limit: (
        Annotated[
            int, Meta(ge=1, le=1_000_000, description="End after so many snapshots.")
        ]
        | None
    ) = None


def window_seconds(text: str | None) -> int | None:
    """Return the whole seconds of a checked window; None for all since first seen."""
    return None if text is None else math.ceil(parse_duration(text))


def inner(kind: Any) -> Any:
    """Return a parameter's type without None, which only means that it is absent."""
    parts = [part for part in get_args(kind) if part is not NoneType]
    return parts[0] if NoneType in get_args(kind) else kind


def meta(kind: Any) -> list[Meta]:
    """Return what is declared of a parameter's type."""
    return [part for part in get_args(inner(kind))[1:] if isinstance(part, Meta)]


def parse(kind: type[Q], path: Mapping[str, str], query: MultiMapping[str]) -> Q:
    """Return a request's parameters, checked.

    Raises:
        Problem: 400, naming the parameter, its value and what is allowed.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    lists = {name for name, known in fields.items() if _item(known.type) is not None}
    _refuse_strangers(query, [name for name in fields if name not in path], lists)
    found: dict[str, Any] = {}
    for name, known in fields.items():
        text = path.get(name, query.get(name))
        if text is not None and name in lists:
            kind_of_one = _item(known.type)
            texts = query.getall(name)
            found[known.name] = [_convert(name, text, kind_of_one) for text in texts]
        elif text is not None:
            found[known.name] = _convert(name, text, known.type)
        elif known.required:
            raise Problem(
                400,
                "missing_parameter",
                f"{name}: the parameter is missing",
                f"expected {allowed(known.type)}",
            )
    return kind(**found)


def _item(kind: Any) -> Any:
    """Return the type of one of those that a parameter lists; None for other types."""
    base = get_args(inner(kind))[0] if get_args(inner(kind)) else kind
    return get_args(base)[0] if get_origin(base) is list else None


def allowed(kind: Any) -> str:
    """Return what a parameter can be, in words."""
    words: str | None = None
    least: float | None = None
    most: float | None = None
    longest: int | None = None
    for declared in meta(kind):
        words = (declared.extra or {}).get("allowed", words)
        least = declared.ge if declared.ge is not None else least
        most = declared.le if declared.le is not None else most
        longest = declared.max_length or longest
    parts = get_args(inner(kind))
    base = parts[0] if get_origin(inner(kind)) is not Literal else inner(kind)
    if words:
        return words
    if base is int:
        return f"a whole number from {least} to {most}"
    if base is float:
        return f"a number from {least} to {most:.0f}"
    if base is bool:
        return "true or false"
    if choices := get_args(base):
        return f"one of {', '.join(choices)}"
    return f"a text of at most {longest} characters"


def _refuse_strangers(
    query: MultiMapping[str], known: list[str], lists: Collection[str]
) -> None:
    for name in query:
        if name not in known:
            listed = f"known here: {', '.join(known) or 'none'}"
            raise Problem(
                400,
                "unknown_parameter",
                f"unknown parameter {name[:MAX_SHOWN]!r}",
                f"{nearest(name, known)} {listed}".strip(),
            )
        if len(query.getall(name)) > 1 and name not in lists:
            raise Problem(
                400,
                "repeated_parameter",
                f"{name}: given {len(query.getall(name))} times",
                "give it once",
            )


def _convert(name: str, text: str, kind: Any) -> Any:
    # `$` in a pattern lets a final newline pass; fullmatch doesn't.
    patterns = [declared.pattern for declared in meta(kind) if declared.pattern]
    if all(re.fullmatch(pattern, text) for pattern in patterns):
        # Not strict: a number comes as text, too.
        with contextlib.suppress(msgspec.ValidationError):
            return msgspec.convert(text, inner(kind), strict=False)
    raise Problem(
        400,
        "bad_parameter",
        f"{name}={text[:MAX_SHOWN]!r} can't be used",
        f"expected {allowed(kind)}",
    )

"""Parameters of paths and queries: shared types, and their validation.

The fields of a query struct validate a request and describe it in OpenAPI.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Collection, Mapping
from types import NoneType
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta, Struct
from multidict import MultiMapping

from kaywatch_agent.model.alerts import Severity
from kaywatch_agent.model.bounds import Name
from kaywatch_agent.units import DURATION_PATTERN, parse_duration
from kaywatch_agent.web.problems import MAX_SHOWN, Problem, closest

__all__ = [
    "AnyQuery",
    "DURATION_TEXT",
    "EndText",
    "WINDOW_PATTERN",
    "Graph",
    "Limit",
    "MomentText",
    "NoQuery",
    "Node",
    "OfSeverity",
    "ScopeQuery",
    "Service",
    "WindowText",
    "inner",
    "meta",
    "moment_seconds",
    "parse",
    "window_seconds",
]

Q = TypeVar("Q", bound=Struct)

# The patterns match exactly what is accepted, so that the OpenAPI document is correct.
WINDOW_PATTERN: Final = rf"^(?=.*[1-9]){DURATION_PATTERN}$"
MOMENT_PATTERN: Final = rf"^(now|-{DURATION_PATTERN}|[0-9]{{1,10}}(\.[0-9]{{1,6}})?)$"

DURATION_TEXT: Final = "a duration such as 90s, 5m, 1h30m or 500ms"

Service = Annotated[Name, Meta(description="Only this service.", examples=["shop"])]
Graph = Annotated[
    Name,
    Meta(
        description="Only this graph; empty for executions outside any graph.",
        examples=["checkout"],
    ),
]
Node = Annotated[Name, Meta(description="Only this node.", examples=["pay"])]
WindowText = Annotated[
    str,
    Meta(
        pattern=WINDOW_PATTERN,
        description="The length of the window that ends now. Buckets of 10 s are kept"
        " for an hour, of 1 min for a day, of 1 h for a month. Without it: everything"
        " since first seen.",
        examples=["30s", "5m", "24h"],
        extra={"allowed": f"{DURATION_TEXT}; leave it out for all since first seen"},
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
EndText = Annotated[
    str,
    Meta(
        pattern=MOMENT_PATTERN,
        description="When the window ends: Unix seconds, or relative to now; by default"
        " now. Without `window`, the window is an hour. A window that ends more than an"
        " hour ago consists of whole minutes; more than a day ago, of whole hours.",
        examples=["now", "-1h"],
        extra={"allowed": "Unix seconds, now, or relative to now such as -15m"},
    ),
]
OfSeverity = Annotated[
    Severity, Meta(description="Only this severity.", examples=["critical"])
]
Limit = Annotated[int, Meta(ge=1, le=1000, description="At most.", examples=[10])]


class NoQuery(Struct, frozen=True):
    """No parameters."""


class AnyQuery(Struct, frozen=True):
    """Any parameters, which are ignored: probes and proxies add some of their own."""


class ScopeQuery(Struct, frozen=True):
    """A service, a graph and a window; each may be left out."""

    window: WindowText | None = None
    end: EndText | None = None
    graph: Graph | None = None
    service: Service | None = None


def window_seconds(text: str) -> int:
    """Return the seconds of a validated window, rounded up."""
    return math.ceil(parse_duration(text))


def moment_seconds(text: str, now: float) -> float:
    """Return a validated moment in Unix seconds."""
    if text == "now":
        return now
    return now - parse_duration(text[1:]) if text[0] == "-" else float(text)


def inner(kind: Any) -> Any:
    """Return a parameter's type without None, which stands for its absence."""
    parts = [part for part in get_args(kind) if part is not NoneType]
    return parts[0] if NoneType in get_args(kind) else kind


def meta(kind: Any) -> list[Meta]:
    """Return the annotations of a parameter's type."""
    return [part for part in get_args(inner(kind))[1:] if isinstance(part, Meta)]


def parse(kind: type[Q], path: Mapping[str, str], query: MultiMapping[str]) -> Q:
    """Return a request's validated parameters.

    Args:
        kind: the struct of the parameters.
        path: the parameters in the path.
        query: the parameters in the query string.

    Raises:
        Problem: 400, with the parameter, its value and the allowed values.
    """
    if kind is AnyQuery:
        return kind()
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    lists = {name for name, field in fields.items() if _item(field.type) is not None}
    # Names are checked before values, because a misspelt name also makes a parameter
    # appear to be missing.
    _check_names(query, [name for name in fields if name not in path], lists)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        text = path.get(name, query.get(name))
        if text is not None and name in lists:
            item = _item(field.type)
            texts = query.getall(name)
            values[field.name] = [_convert(name, text, item) for text in texts]
        elif text is not None:
            values[field.name] = _convert(name, text, field.type)
        elif field.required:
            raise Problem(
                400,
                "missing_parameter",
                f"{name}: the parameter is missing",
                f"expected {format_allowed(field.type)}",
            )
    return kind(**values)


def format_allowed(kind: Any) -> str:
    """Return the allowed values of a parameter as text."""
    text: str | None = None
    low: float | None = None
    high: float | None = None
    longest: int | None = None
    for part in meta(kind):
        text = (part.extra or {}).get("allowed", text)
        low = part.ge if part.ge is not None else low
        high = part.le if part.le is not None else high
        longest = part.max_length or longest
    parts = get_args(inner(kind))
    base = parts[0] if get_origin(inner(kind)) is not Literal else inner(kind)
    if text:
        return text
    if base is int:
        return f"a whole number from {low} to {high}"
    if base is bool:
        return "true or false"
    if choices := get_args(base):
        return f"one of {', '.join(choices)}"
    return f"a text of at most {longest} characters"


# -- inside --------------------------------------------------------------------------


def _item(kind: Any) -> Any:
    """Return the item type of a parameter that may be repeated, else None."""
    base = get_args(inner(kind))[0] if get_args(inner(kind)) else kind
    return get_args(base)[0] if get_origin(base) is list else None


def _check_names(
    query: MultiMapping[str], known: list[str], lists: Collection[str]
) -> None:
    for name in query:
        # An ignored parameter would change the meaning of the response.
        if name not in known:
            listed = f"known here: {', '.join(known) or 'none'}"
            raise Problem(
                400,
                "unknown_parameter",
                f"unknown parameter {name[:MAX_SHOWN]!r}",
                f"{closest(name, known)} {listed}".strip(),
            )
        # Proxies and frameworks differ in which one counts.
        if len(query.getall(name)) > 1 and name not in lists:
            raise Problem(
                400,
                "repeated_parameter",
                f"{name}: given {len(query.getall(name))} times",
                "give it once",
            )


def _convert(name: str, text: str, kind: Any) -> Any:
    # Unlike fullmatch, `$` in a pattern matches before a final newline.
    patterns = [part.pattern for part in meta(kind) if part.pattern]
    if all(re.fullmatch(pattern, text) for pattern in patterns):
        # Not strict, because numbers are text as well.
        with contextlib.suppress(msgspec.ValidationError):
            return msgspec.convert(text, inner(kind), strict=False)
    raise Problem(
        400,
        "bad_parameter",
        f"invalid {name}={text[:MAX_SHOWN]!r}",
        f"expected {format_allowed(kind)}",
    )

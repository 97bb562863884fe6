"""Generates docs/http-reference.md from the agent's OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from kaywatch_agent.web.api.openapi import document
from kaywatch_agent.web.routes import ENDPOINTS

__all__ = ["http_page"]

INTRODUCTION: Final = """\
# HTTP reference

Every endpoint with its parameters, and every type of a request or response. This page \
is generated from the agent's own `/openapi.json` by `python -m tests.docs.reference`; \
[http.md](http.md) explains the parameters and keys.

Other programs can generate a client from the same document: \
`curl -s 127.0.0.1:9477/openapi.json`.
"""

# The limits of a JSON schema: the keys of both ends, and what they count.
LIMITS: Final = (
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " items"),
)


def http_page() -> str:
    """Return the page of the HTTP interface."""
    api = json.loads(document(ENDPOINTS, version=""))
    parts = [INTRODUCTION, "## Endpoints\n"]
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            parts += _endpoint(f"{method.upper()} {path}", operation)
    parts += ["## Errors\n", _errors(api["components"]["responses"])]
    parts.append("## Types\n")
    for name, shape in sorted(api["components"]["schemas"].items()):
        parts += _schema(name, shape)
    return "\n".join(parts)


# -- endpoints -------------------------------------------------------------------------


def _endpoint(title: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"### {title}\n"
    yield f"{operation['summary']}\n"
    if parameters := operation["parameters"]:
        rows = [
            (f"`{each['name']}`", _parameter_type(each), each["description"])
            for each in parameters
        ]
        yield _table(("parameter", "type", "description"), rows)
    if body := operation.get("requestBody"):
        yield f"- Body: {_content(body['content'])}"
    responses = operation["responses"]
    success = responses["200"]
    yield f"- Response: {_content(success['content'])}"
    # The description of a stream has the types of its events after the summary.
    events = success["description"].removeprefix(operation["summary"]).strip()
    if events:
        yield f"- Events: {events}"
    statuses = ", ".join(sorted(responses.keys() - {"200"}))
    yield f"- Errors: {statuses}\n"


def _parameter_type(parameter: dict[str, Any]) -> str:
    text = _type(parameter["schema"])
    if parameter["in"] == "path":
        return f"{text}, in the path"
    return f"{text}, required" if parameter["required"] else text


def _content(content: dict[str, Any]) -> str:
    """Return the type of a JSON body, or the media types of another one."""
    if (json_body := content.get("application/json")) and json_body["schema"]:
        return _type(json_body["schema"])
    return " or ".join(f"`{media}`" for media in content)


def _errors(responses: dict[str, Any]) -> str:
    rows = [
        (name.removeprefix("Error"), response["description"])
        for name, response in responses.items()
    ]
    body = "The body of each is an [ErrorResponse](#errorresponse).\n"
    return _table(("status", "meaning"), rows) + "\n" + body


# -- types -----------------------------------------------------------------------------


def _schema(name: str, shape: dict[str, Any]) -> Iterator[str]:
    yield f"### {name}\n"
    if text := shape.get("description", ""):
        yield " ".join(text.split()) + "\n"
    properties = shape.get("properties")
    if properties is None:
        yield _type(shape) + "\n"
        return
    required = set(shape.get("required", ()))
    rows = [
        (
            f"`{key}`",
            _type(field) + ("" if key in required else ", optional"),
            field.get("description", ""),
        )
        for key, field in properties.items()
    ]
    if any(text for _, _, text in rows):
        yield _table(("key", "type", "description"), rows)
    elif rows:
        yield _table(("key", "type"), [row[:2] for row in rows])


def _type(shape: dict[str, Any]) -> str:
    """Return a JSON schema in words; references are links to the types below."""
    text = _kind(shape)
    limits = [
        _range(shape.get(low), shape.get(high)) + unit
        for low, high, unit in LIMITS
        if low in shape or high in shape
    ]
    if "exclusiveMinimum" in shape:
        limits.append(f"more than {shape['exclusiveMinimum']:,}")
    if "default" in shape:
        limits.append(f"by default `{json.dumps(shape['default'])}`")
    return f"{text} ({', '.join(limits)})" if limits else text


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return f"at most {high:,}"
    return f"at least {low:,}" if high is None else f"{low:,} to {high:,}"


def _kind(shape: dict[str, Any]) -> str:
    if "$ref" in shape:
        name = shape["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in shape:
        return " or ".join(_type(each) for each in shape["anyOf"])
    if "enum" in shape or "const" in shape:
        values = shape.get("enum", [shape.get("const")])
        return ", ".join(f"`{json.dumps(value)}`" for value in values)
    kind = shape.get("type", "any")
    if kind == "array":
        if items := shape.get("prefixItems"):
            return "list of " + ", ".join(_type(each) for each in items)
        return f"list of {_type(shape.get('items') or {})}"
    if kind == "object":
        values = shape.get("additionalProperties")
        return f"object of {_type(values)}" if isinstance(values, dict) else "object"
    return str(kind)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = [*header]
    lines = [f"| {' | '.join(map(_cell, line))} |\n" for line in (names, *rows)]
    return "".join((lines[0], "|" + "---|" * len(names) + "\n", *lines[1:]))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

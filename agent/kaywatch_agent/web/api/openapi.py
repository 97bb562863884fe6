"""The OpenAPI 3.1 document, made from the table of routes and the answers' shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

import msgspec
from msgspec import NODEFAULT, Struct

from kaywatch_agent.web.api import schema
from kaywatch_agent.web.api.parameters import inner

__all__ = ["STATUSES", "document"]

REF: Final = "#/components/schemas/{name}"

# The error answers: what each status means here.
STATUSES: Final = {
    400: "A parameter, or what was sent, is missing, unknown or can't be used.",
    401: "A token is needed, and there is none, or it is not known.",
    404: "The name has not been seen, or there is no such path.",
    403: "A page of another site sent this, it is meant for another host, or the token"
    " may only read.",
    408: "What was announced did not come in time.",
    405: "The path is there, and answers to other methods: see Allow.",
    413: "What was sent is too large.",
    415: "What was sent is no JSON: see Content-Type.",
    500: "A fault of the agent; its log has more.",
    503: "The agent is too busy to answer; try again.",
}
SCHEMES: Final = ("bearer", "basic")
EVERYWHERE: Final = (400, 401, 403, 405, 500)


class _Route(Protocol):
    """What this needs to know of a route."""

    @property
    def path(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def parameters(self) -> type[Struct]: ...
    @property
    def shape(self) -> type[Struct] | None: ...
    @property
    def media(self) -> tuple[str, ...]: ...
    @property
    def errors(self) -> tuple[int, ...]: ...
    @property
    def also(self) -> Mapping[int, type[Struct]]: ...
    @property
    def method(self) -> str: ...
    @property
    def body(self) -> type[Struct] | None: ...
    @property
    def events(self) -> Mapping[str, type[Struct]]: ...


def document(routes: Iterable[_Route], version: str) -> bytes:
    """Return the document as JSON."""
    routes = list(routes)
    shapes = {route.shape: None for route in routes if route.shape is not None}
    shapes |= {shape: None for route in routes for shape in route.events.values()}
    shapes[schema.ErrorAnswer] = None
    bodies = {route.body: None for route in routes if route.body is not None}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "kaywatch agent",
                "version": version,
                "description": schema.__doc__,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            # The empty one: an agent without tokens asks for none.
            "security": [{"bearer": []}, {"basic": []}, {}],
            "paths": paths,
            "components": {
                "schemas": _schemas(bodies) | _answers(shapes),
                "securitySchemes": {
                    name: {"type": "http", "scheme": name} for name in SCHEMES
                },
                "responses": {f"Error{code}": _error(code) for code in STATUSES},
            },
        }
    )


# -- inside --------------------------------------------------------------------------


def _schemas(shapes: Iterable[type[Struct]]) -> dict[str, Any]:
    return msgspec.json.schema_components(shapes, ref_template=REF)[1]


def _answers(shapes: Iterable[type[Struct]]) -> dict[str, Any]:
    """Return the schemas of answers, which have all of their keys and no others.

    A struct's defaults are for the wire and the store, where a field may be missing.
    """
    found = _schemas(shapes)
    for shape in found.values():
        if "properties" in shape:
            shape["required"] = list(shape["properties"])
            shape["additionalProperties"] = False
            for field in shape["properties"].values():
                field.pop("default", None)
    return found


def _operation(route: _Route) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": _success(route)}
    for code, shape in route.also.items():
        content = {"application/json": {"schema": _ref(shape)}}
        responses[str(code)] = {"description": STATUSES[code], "content": content}
    for code in sorted({*EVERYWHERE, *route.errors}):
        responses[str(code)] = {"$ref": f"#/components/responses/Error{code}"}
    operation = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": _parameters(route),
        "responses": responses,
    }
    if route.body is not None:
        content = {"application/json": {"schema": _ref(route.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _success(route: _Route) -> dict[str, Any]:
    description = route.summary
    if route.shape is None or route.media:
        for name, shape in route.events.items():
            description += f" The data of a `{name}` is a {shape.__name__} as JSON."
        anything: dict[str, Any] = {"schema": {}}
        text = {"schema": {"type": "string"}}
        content = {
            media: anything if media == "application/json" else text
            for media in route.media
        }
    else:
        content = {"application/json": {"schema": _ref(route.shape)}}
    return {"description": description, "content": content}


def _parameters(route: _Route) -> list[dict[str, Any]]:
    found = []
    for field in msgspec.structs.fields(route.parameters):
        in_path = f"{{{field.encode_name}}}" in route.path
        shape = msgspec.json.schema(inner(field.type))
        description = shape.pop("description", "")
        if field.default is not NODEFAULT and field.default is not None:
            shape["default"] = field.default
        elif field.default_factory is not NODEFAULT:
            shape["default"] = field.default_factory()
        found.append(
            {
                "name": field.encode_name,
                "in": "path" if in_path else "query",
                "required": field.required,
                "description": description,
                "schema": shape,
            }
        )
    return found


def _error(code: int) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(schema.ErrorAnswer)}}
    found: dict[str, Any] = {"description": STATUSES[code], "content": content}
    if code == 405:
        text = {"schema": {"type": "string"}, "description": "The methods there are."}
        found["headers"] = {"Allow": text}
    return found


def _ref(shape: type[Struct]) -> dict[str, str]:
    return {"$ref": REF.format(name=shape.__name__)}

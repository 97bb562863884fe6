"""The OpenAPI 3.1 document, built from the endpoints and the types of responses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec import NODEFAULT, Struct

from kaywatch_agent.web.api import schema
from kaywatch_agent.web.api.parameters import inner
from kaywatch_agent.web.endpoint import Endpoint

__all__ = ["document"]

REF: Final = "#/components/schemas/{name}"

DESCRIPTION: Final = (
    "Durations are in seconds, rates from 0 to 1, times in Unix seconds. A value is"
    " null if there is none, such as the average of no executions."
)

# The meaning of each error status.
STATUSES: Final = {
    400: "A parameter or the body is missing, unknown or invalid.",
    401: "A token is required; there is none, or it is unknown.",
    403: "Another site sent the request, it has an unknown host, or the token allows"
    " reading only.",
    404: "The name or the path is unknown.",
    405: "The path does not support the method: see Allow.",
    408: "The body was not complete in time.",
    413: "The body is too large.",
    415: "The body is not JSON: see Content-Type.",
    500: "A fault of the agent; its log has the details.",
    503: "The agent is too busy to respond; try again.",
}
SECURITY_SCHEMES: Final = {
    name: {"type": "http", "scheme": name} for name in ("bearer", "basic")
}
EVERYWHERE: Final = frozenset({400, 401, 403, 405, 500})


def document(endpoints: Iterable[Endpoint], version: str) -> bytes:
    """Return the document as JSON."""
    endpoints = list(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "kaywatch agent",
                "version": version,
                "description": DESCRIPTION,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            # The empty one is for agents without tokens.
            "security": [*({name: []} for name in SECURITY_SCHEMES), {}],
            "paths": paths,
            "components": _components(endpoints),
        }
    )


# -- inside --------------------------------------------------------------------------


def _components(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    responses = {e.response: None for e in endpoints if issubclass(e.response, Struct)}
    # An ordered set: the document stays the same from one start to the next.
    responses |= {event: None for e in endpoints for event in e.events.values()}
    responses[schema.ErrorResponse] = None
    bodies = {e.body: None for e in endpoints if e.body is not None}
    return {
        # A type of both kinds has optional keys in requests.
        "schemas": _response_schemas(responses) | _schemas(bodies),
        "securitySchemes": SECURITY_SCHEMES,
        "responses": {f"Error{code}": _error(code) for code in STATUSES},
    }


def _schemas(types: Iterable[type[Struct]]) -> dict[str, Any]:
    return msgspec.json.schema_components(types, ref_template=REF)[1]


def _response_schemas(types: Iterable[type[Struct]]) -> dict[str, Any]:
    """Return the schemas of responses, which have all of their keys and no others.

    The defaults of a struct's fields are for the wire and the store.
    """
    schemas = _schemas(types)
    for shape in schemas.values():
        if "properties" in shape:
            shape["required"] = list(shape["properties"])
            # No further keys, so that clients and tests detect undocumented ones.
            shape["additionalProperties"] = False
            for field in shape["properties"].values():
                field.pop("default", None)
    return schemas


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": _success(endpoint)}
    for code in sorted(EVERYWHERE | endpoint.errors):
        responses[str(code)] = {"$ref": f"#/components/responses/Error{code}"}
    if endpoint.is_failure is not None:
        responses["503"] = _success(endpoint)
    operation = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "parameters": _parameters(endpoint),
        "responses": responses,
    }
    if endpoint.body is not None:
        content = {"application/json": {"schema": _ref(endpoint.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _success(endpoint: Endpoint) -> dict[str, Any]:
    description = endpoint.summary
    for name, event in endpoint.events.items():
        description += f" The data of a `{name}` is a {event.__name__} as JSON."
    is_json = endpoint.media_types == ("application/json",)
    shape: dict[str, Any] = {} if is_json else {"type": "string"}
    if is_json and issubclass(endpoint.response, Struct):
        shape = _ref(endpoint.response)
    content = {media: {"schema": shape} for media in endpoint.media_types}
    return {"description": description, "content": content}


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    parameters = []
    for field in msgspec.structs.fields(endpoint.parameters):
        in_path = f"{{{field.encode_name}}}" in endpoint.path
        shape = msgspec.json.schema(inner(field.type))
        description = shape.pop("description", "")
        if field.default is not NODEFAULT and field.default is not None:
            shape["default"] = field.default
        elif field.default_factory is not NODEFAULT:
            shape["default"] = field.default_factory()
        parameters.append(
            {
                "name": field.encode_name,
                "in": "path" if in_path else "query",
                "required": field.required,
                "description": description,
                "schema": shape,
            }
        )
    return parameters


def _error(code: int) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(schema.ErrorResponse)}}
    response: dict[str, Any] = {"description": STATUSES[code], "content": content}
    # RFC 9110 requires the header of this status.
    if code == 405:
        text = {"schema": {"type": "string"}, "description": "The supported methods."}
        response["headers"] = {"Allow": text}
    return response


def _ref(kind: type[Struct]) -> dict[str, str]:
    return {"$ref": REF.format(name=kind.__name__)}

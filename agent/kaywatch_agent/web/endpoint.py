"""An HTTP endpoint, declared once: routing, validation and OpenAPI derive from it.

Parameters, body and response type are the annotations of the functions that serve the
endpoint, so that they cannot differ from what those functions take and return.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from msgspec import Struct

from kaywatch_agent.web.responses import EncodedResponse
from kaywatch_agent.web.snapshot import AgentSnapshot
from kaywatch_agent.web.view import AgentView

__all__ = ["Endpoint", "change", "get"]

Method = Literal["GET", "POST", "DELETE"]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One path with one method; HEAD is answered like GET.

    With tokens, GET needs one that may read, and the other methods one of an admin.

    Attributes:
        path: with `{name}` in place of each path parameter.
        summary: one line about it.
        parameters: the parameters of path and query, one field each.
        response: the type of the JSON response; `EncodedResponse` for other media.
        respond: builds the response; a pure function, called in another thread.
        method: GET, or the method of a change.
        change: applies a change on the event loop; `respond` gets its result.
        durable: whether the change is answered once it is in the store.
        body: the type of the request body; None for none.
        media_types: those of a response that is not a JSON struct.
        errors: the error statuses in addition to those of every endpoint.
        is_failure: whether a response is sent with status 503 instead of 200.
        inline: respond on the event loop, however busy the threads are.
        is_public: whether it needs no token; for what contains no data.
        needs_clients: whether the response contains descriptions of clients.
        needs_messages: whether the response contains notifications or receivers.
        events: types of server-sent events by name; `respond` builds the first event.
    """

    path: str
    summary: str
    parameters: type[Struct]
    response: type[Any]
    respond: Callable[[AgentSnapshot, Any], Struct | EncodedResponse]
    method: Method = "GET"
    change: Callable[[AgentView, Any, Any], Struct] | None = None
    durable: bool = True
    body: type[Struct] | None = None
    media_types: tuple[str, ...] = ("application/json",)
    errors: frozenset[int] = frozenset({503})
    is_failure: Callable[[Any], bool] | None = None
    inline: bool = False
    is_public: bool = False
    needs_clients: bool = False
    needs_messages: bool = False
    events: Mapping[str, type[Struct]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The operation's name, derived from method and path."""
        words = self.path.replace("{", "").replace("}", "").split("/")
        words = [word for word in words if word not in ("", "api", "v1")]
        if self.method != "GET":
            words.insert(0, self.method.lower())
        return "_".join(words).replace(".", "_") or "index"


def get(
    path: str,
    summary: str,
    respond: Callable[[AgentSnapshot, Any], Struct | EncodedResponse],
    *,
    may_miss: bool = False,
    **options: Any,
) -> Endpoint:
    """Declare an endpoint that reads.

    Args:
        path: see `Endpoint`.
        summary: see `Endpoint`.
        respond: see `Endpoint`; its annotations are the parameters and the response.
        may_miss: whether a query parameter may name something unknown (404). A path
            parameter always may.
        **options: further attributes of `Endpoint`.
    """
    _, parameters, response = get_type_hints(respond).values()
    errors = set() if options.get("inline") else {503}
    if may_miss or "{" in path:
        errors.add(404)
    return Endpoint(
        path=path,
        summary=summary,
        parameters=parameters,
        response=response,
        respond=respond,
        errors=frozenset(errors),
        **options,
    )


def change(
    method: Method,
    path: str,
    summary: str,
    apply: Callable[[AgentView, Any, Any], Struct],
    respond: Callable[[AgentSnapshot, Any], Struct] | None = None,
    *,
    durable: bool = True,
) -> Endpoint:
    """Declare an endpoint that changes something.

    Args:
        method: POST or DELETE.
        path: see `Endpoint`.
        summary: see `Endpoint`.
        apply: `Endpoint.change`; its annotations are the parameters and the body.
        respond: builds the response from the result of `apply`; by default the
            response is that result.
        durable: see `Endpoint`.
    """
    _, parameters, body, result = get_type_hints(apply).values()
    errors = {404, 503}
    if method == "POST":
        errors.add(415)
    if body is not type(None):
        errors |= {408, 413}
    return Endpoint(
        path=path,
        summary=summary,
        method=method,
        parameters=parameters,
        response=get_type_hints(respond)["return"] if respond else result,
        respond=respond or _return_unchanged,
        change=apply,
        durable=durable,
        body=None if body is type(None) else body,
        errors=frozenset(errors),
    )


def _return_unchanged(_: AgentSnapshot, result: Struct) -> Struct:
    return result

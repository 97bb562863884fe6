"""Error responses: a status, a code for programs, a message and a hint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["MAX_SHOWN", "Problem", "closest", "not_durable", "not_found"]

# Comparing takes some 10 us per name, and a hint is not worth more than 50 ms.
MAX_COMPARED: Final = 5_000

# Characters of a value that an error quotes.
MAX_SHOWN: Final = 200


class Problem(Exception):
    """Ends a request with an error response.

    Attributes:
        status: the HTTP status.
        code: one word for programs.
        message: the problem, with the name and the value.
        hint: how to fix it; may be empty.
        headers: further headers of the response.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        hint: str = "",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.headers = headers


def closest(name: str, known: Iterable[str], count: int = 1) -> str:
    """Return "did you mean ...?" with up to `count` similar names, or nothing."""
    names = sorted(set(known))[:MAX_COMPARED]
    similar = difflib.get_close_matches(name[:MAX_SHOWN], names, count)
    return f"did you mean {' or '.join(map(repr, similar))}?" if similar else ""


def not_found(
    kind: str, name: str, known: Iterable[str], path: str, scope: str = ""
) -> Problem:
    """Return the 404 for an unknown name.

    Args:
        kind: the kind of thing, such as `node`.
        name: the name in the request.
        known: the names that exist.
        path: the path that lists them.
        scope: where the name was looked up, such as ` in graph 'checkout'`.
    """
    message = f"unknown {kind} {name[:MAX_SHOWN]!r}{scope}"
    hint = f"{closest(name, known, 3)} {path} lists the known ones".strip()
    return Problem(404, f"unknown_{kind.replace(' ', '_')}", message, hint)


def not_durable(reason: str, name: str) -> Problem:
    """Return the 503 for a change that is in effect, but not in the store.

    The change is not undone: while the disk is full notifications are still sent, and
    so silences have to work.

    Args:
        reason: why it is not in the store.
        name: the id of the changed object; empty for none.
    """
    prefix = f"{name[:MAX_SHOWN]}: " if name else ""
    return Problem(
        503,
        "not_durable",
        f"{prefix}the change is in effect, but the store cannot save it yet: {reason}",
        "do not send it again: every commit tries to save it, and it is lost only if"
        " the agent stops before; see /health for the state of the store",
    )

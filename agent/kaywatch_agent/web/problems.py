"""Answers that say no: a status, a code for programs, a message and a hint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["Problem", "nearest", "not_durable", "not_found"]

# Comparing costs some 10 us a name, and a hint is not worth more than 50 ms.
MAX_COMPARED: Final = 5_000
MAX_SHOWN: Final = 200  # characters of what was asked for


class Problem(Exception):
    """Ends a request with an error answer.

    Attributes:
        status: the HTTP status.
        code: one word for programs.
        message: what is wrong, with the name and the value.
        hint: what to do about it; may be empty.
        headers: further headers of the answer.
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


def nearest(wanted: str, known: Iterable[str], count: int = 1) -> str:
    """Return "did you mean ...?" with up to `count` names like it, or nothing."""
    names = sorted(set(known))[:MAX_COMPARED]
    close = difflib.get_close_matches(wanted[:MAX_SHOWN], names, count)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else ""


def not_found(
    what: str, wanted: str, known: Iterable[str], where: str, among: str = ""
) -> Problem:
    """Return the 404 for a name that isn't known.

    Args:
        what: the kind of thing, such as `node`.
        wanted: the name asked for.
        known: the names there are.
        where: the path that lists them.
        among: what the search was narrowed to, such as ` in graph 'checkout'`.
    """
    message = f"no {what} {wanted[:MAX_SHOWN]!r} has been seen{among}"
    hint = f"{nearest(wanted, known, 3)} {where} lists those known".strip()
    return Problem(404, f"unknown_{what}", message, hint)


def not_durable(problem: str, name: str) -> Problem:
    """Return the 503 for what was changed, and is in memory alone.

    It isn't undone: messages go out when the disk is full, and so must a silence hold.

    Args:
        problem: why it isn't durable.
        name: the id of what was changed; empty for none.
    """
    what = f"{name[:MAX_SHOWN]}: " if name else ""
    return Problem(
        503,
        "not_durable",
        f"{what}done, and it holds, but the store can't keep it yet: {problem}",
        "don't send it again: it is tried with each commit, and lost only if the agent"
        " stops before; /health says how the store is",
    )

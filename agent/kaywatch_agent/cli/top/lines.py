"""One event, one line: what happened first, where it was last."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from rich.text import Text

from kaywatch_agent.cli.tables import clean
from kaywatch_agent.units import duration

__all__ = ["Lines", "left_out"]

Json = Mapping[str, Any]

_COLOURS: Final = {
    "ok": "green",
    "error": "bold red",
    "suppressed": "yellow",
    "fallback": "yellow",
    "cancelled": "magenta",
}
OUTCOME_WIDTH: Final = max(map(len, _COLOURS))
DURATION_WIDTH: Final = 8

# Columns grow with what they have held, so that lines stay aligned, up to this.
MAX_PADDED: Final = {"node": 24, "detail": 9, "graph": 20}


class Lines:
    """Makes lines whose columns fit what came before them."""

    def __init__(self) -> None:
        self._widths: dict[str, int] = {}

    def line(self, event: Json, *, run: bool = False) -> Text:
        """Return an execution, or a run, in one line."""
        outcome = event["outcome"]
        return Text.assemble(
            (_clock(event["time"]), "dim"),
            " ",
            (outcome.ljust(OUTCOME_WIDTH), _COLOURS.get(outcome, "")),
            duration(event["seconds"]).rjust(DURATION_WIDTH),
            "  ",
            (self._padded("node", "(run)" if run else event["node"]), "bold"),
            "  ",
            self._padded("detail", _end(event) if run else _detail(event)),
            "  ",
            self._padded("graph", event["graph"] or "-"),
            "  ",
            (f"{clean(event['service'])} {event['pid'] or '-'}", "dim"),
        )

    def _padded(self, column: str, text: str) -> str:
        text = clean(text)
        width = max(self._widths.get(column, 0), min(len(text), MAX_PADDED[column]))
        self._widths[column] = width
        return text.ljust(width)


def left_out(missed: Json) -> str:
    """Return what a `missed` event says."""
    reasons = []
    if missed["limited"]:
        reasons.append(f"{missed['limited']:,} over the rate")
    if missed["slow"]:
        reasons.append(f"{missed['slow']:,} since this side reads too slowly")
    return f"not shown: {', '.join(reasons)}; a filter leaves less to show"


def _detail(event: Json) -> str:
    attempts = event["attempts"]
    action, kind = event["action"], event["type"]
    if not kind:
        parts = [action, f"{attempts} attempts" if attempts > 1 else ""]
        return ", ".join(filter(None, parts)) or "-"
    after = f" after {attempts} attempts" if attempts > 1 else ""
    message = f": {event['message']}" if event["message"] else ""
    return f"{kind}{after}{message}" + (f" -> {action}" if action else "")


def _end(event: Json) -> str:
    action = f" with {event['action']}" if event["action"] else ""
    visits = event["visits"]
    words = event["reason"].replace("_", " ")
    return f"{words} at {event['node']}{action}, {visits} visit{'s'[: visits != 1]}"


def _clock(moment: float) -> str:
    """Return a local time with milliseconds."""
    whole, thousandths = divmod(int(moment * 1000), 1000)
    return f"{time.strftime('%H:%M:%S', time.localtime(whole))}.{thousandths:03}"

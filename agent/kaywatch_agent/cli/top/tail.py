"""`kaywatch tail`: a line for each execution as it happens.

Strategy: a line begins with the time and the outcome, and ends with the process.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from typing import Final

from rich.console import Console
from rich.text import Text

from kaywatch_agent.cli.tables import Json, clean, console
from kaywatch_agent.cli.top.stream import Parameters, StreamEvent, follow
from kaywatch_agent.units import duration

__all__ = ["LineFormatter", "run"]

_COLOURS: Final = {
    "ok": "green",
    "error": "bold red",
    "suppressed": "yellow",
    "fallback": "yellow",
    "cancelled": "magenta",
}
OUTCOME_WIDTH: Final = max(map(len, _COLOURS))
DURATION_WIDTH: Final = 8

# A column is as wide as its longest text so far, but at most this wide, so that lines
# stay aligned.
MAX_PADDED: Final = {"node": 24, "detail": 9, "graph": 20}


def run(url: str, parameters: Parameters, limit: int | None, as_json: bool) -> None:
    """Print events until Ctrl-C, a closed pipe, or `limit` lines.

    Raises:
        KaywatchError: no agent answers at the start, or it rejects the request.
    """
    show = _show_json if as_json else _LinePrinter().show
    remaining = sys.maxsize if limit is None else limit
    _watch_pipe()
    try:
        for event in follow(url, parameters, _notify):
            remaining -= show(event)
            if not remaining:
                return
    except (KeyboardInterrupt, BrokenPipeError):
        # Half a line may be left in the buffer. The flush at exit must not fail because
        # of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _watch_pipe() -> None:
    """Interrupt this thread once the reader of stdout, such as `head`, has ended.

    A failed write would also reveal that, but without events there is no write.
    """
    poll, thread = select.poll(), threading.get_ident()
    poll.register(sys.stdout.fileno(), 0)  # for POLLERR alone, which is always reported

    def wait() -> None:
        poll.poll()
        signal.pthread_kill(thread, signal.SIGPIPE)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt  # not an OSError, after which `follow` reconnects

    # Not SIGINT, which a shell's background jobs ignore.
    signal.signal(signal.SIGPIPE, interrupt)
    threading.Thread(target=wait, daemon=True).start()


def _notify(text: str) -> None:
    """Print a notice to stderr, where it does not mix with events."""
    out = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    out.print(f"kaywatch: {text}", style="yellow")


def _show_json(event: StreamEvent) -> int:
    """Print an event as a JSON object; return how many lines of `--limit` it uses."""
    if event.name == "subscribed":
        return 0
    print(json.dumps({"event": event.name, **event.data}), flush=True)
    return int(event.name != "missed")


class _LinePrinter:
    """Prints events as aligned lines."""

    def __init__(self) -> None:
        self._formatter = LineFormatter()
        self._out = console()

    def show(self, event: StreamEvent) -> int:
        """Print an event; return how many lines of `--limit` it uses."""
        if event.name == "missed":
            _notify(_describe_missed(event.data))
        if event.name not in ("execution", "run"):
            return 0
        line = self._formatter.format(event.data, run=event.name == "run")
        if self._out.is_terminal:
            self._out.print(line, no_wrap=True, overflow="ellipsis")
        else:
            line.rstrip()
            self._out.print(line, soft_wrap=True)
        return 1


class LineFormatter:
    """Formats lines whose columns are aligned with those of earlier lines."""

    def __init__(self) -> None:
        self._widths: dict[str, int] = {}

    def format(self, event: Json, *, run: bool = False) -> Text:
        """Return an execution or a run as one line."""
        outcome = event["outcome"]
        return Text.assemble(
            (_format_time(event["time"]), "dim"),
            " ",
            (outcome.ljust(OUTCOME_WIDTH), _COLOURS.get(outcome, "")),
            duration(event["seconds"]).rjust(DURATION_WIDTH),
            "  ",
            (self._pad("node", "(run)" if run else event["node"]), "bold"),
            "  ",
            self._pad(
                "detail", _describe_run(event) if run else _describe_execution(event)
            ),
            "  ",
            self._pad("graph", event["graph"] or "-"),
            "  ",
            (f"{clean(event['service'])} {event['pid'] or '-'}", "dim"),
        )

    def _pad(self, column: str, text: str) -> str:
        text = clean(text)
        width = max(self._widths.get(column, 0), min(len(text), MAX_PADDED[column]))
        self._widths[column] = width
        return text.ljust(width)


def _describe_missed(missed: Json) -> str:
    reasons = []
    if missed["limited"]:
        reasons.append(f"{missed['limited']:,} above --rate")
    if missed["slow"]:
        reasons.append(f"{missed['slow']:,} because the output is read too slowly")
    return f"not shown: {', '.join(reasons)}; use filters to see the rest"


def _describe_execution(event: Json) -> str:
    attempts = event["attempts"]
    action, error = event["action"], event["type"]
    if not error:
        parts = [action, f"{attempts} attempts" if attempts > 1 else ""]
        return ", ".join(filter(None, parts)) or "-"
    after = f" after {attempts} attempts" if attempts > 1 else ""
    message = f": {event['message']}" if event["message"] else ""
    return f"{error}{after}{message}" + (f" -> {action}" if action else "")


def _describe_run(event: Json) -> str:
    action = f" with {event['action']}" if event["action"] else ""
    visits = event["visits"]
    reason = event["reason"].replace("_", " ")
    return f"{reason} at {event['node']}{action}, {visits} visit{'s'[: visits != 1]}"


def _format_time(timestamp: float) -> str:
    """Return a local time with milliseconds."""
    seconds, milliseconds = divmod(int(timestamp * 1000), 1000)
    local = time.localtime(seconds)
    return f"{time.strftime('%H:%M:%S', local)}.{milliseconds:03}"

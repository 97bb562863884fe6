"""`kaywatch tail`: a line for each execution as it happens."""

from __future__ import annotations

import json
import os
import select
import sys
from typing import Final

from rich.console import Console

from kaywatch_agent.cli import tables
from kaywatch_agent.cli.top.events import Back, Events, Gone, Happened, Parameters
from kaywatch_agent.cli.top.lines import Lines, left_out

__all__ = ["run"]

# How soon a closed pipe is noticed while nothing happens.
PAUSE_SECONDS: Final = 0.5


def run(url: str, parameters: Parameters, limit: int | None, as_json: bool) -> None:
    """Print events until Ctrl-C, a closed pipe, or `limit` of them.

    Raises:
        KaywatchError: there is no agent, or it refuses.
    """
    printer = _JsonPrinter() if as_json else _Printer(url)
    left = sys.maxsize if limit is None else limit
    try:
        for item in Events(url, parameters).read(PAUSE_SECONDS):
            if item is None:
                _raise_if_unread()
            elif isinstance(item, Happened):
                left -= printer.show(item)
            else:
                _say(_notice(url, item))
            if left <= 0:
                return
    except KeyboardInterrupt:
        pass  # the usual way to end it
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; the rest goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Printer:
    """Prints for people."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lines = Lines()
        self._out = tables.console()

    def show(self, event: Happened) -> int:
        """Print it; return for how many lines it counts."""
        if event.name == "missed":
            _say(left_out(event.data))
        if event.name not in ("execution", "run"):
            return 0
        line = self._lines.line(event.data, run=event.name == "run")
        if self._out.is_terminal:
            self._out.print(line, no_wrap=True, overflow="ellipsis")
        else:
            line.rstrip()
            self._out.print(line, soft_wrap=True)
        return 1


class _JsonPrinter:
    """Prints for programs: an object a line, those that say what was missed, too."""

    def show(self, event: Happened) -> int:
        """Print it; return for how many lines it counts."""
        if event.name == "listening":
            return 0
        print(json.dumps({"event": event.name, **event.data}), flush=True)
        return int(event.name != "missed")


def _notice(url: str, item: Gone | Back) -> str:
    if isinstance(item, Gone):
        return f"the agent at {url} is gone; waiting for it"
    return "the agent is back; what ended in between may be missing here"


def _say(text: str) -> None:
    """Print a notice where it is in nobody's way."""
    Console(stderr=True, markup=False, highlight=False, soft_wrap=True).print(
        f"kaywatch: {text}", style="yellow"
    )


def _raise_if_unread() -> None:
    """Find out that a pipe's reader is gone, though there is nothing to write."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if any(what & select.POLLERR for _, what in poll.poll(0)):
        raise BrokenPipeError

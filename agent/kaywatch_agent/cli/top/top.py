"""`kaywatch top`: polls the agent, draws the screen, and handles keys."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import deque
from typing import Final

from kaywatch.errors import KaywatchError
from kaywatch_agent.cli import tables
from kaywatch_agent.cli.top.layout import (
    SORT_KEYS,
    Display,
    ViewOptions,
    render_list,
    render_screen,
)
from kaywatch_agent.cli.top.state import Answers, Query, fetch_answers
from kaywatch_agent.cli.top.terminal import LiveScreen, Terminated
from kaywatch_agent.units import parse_duration

__all__ = ["run", "show"]

WINDOWS: Final = ("1m", "5m", "15m", "1h", "24h")

# Events per second are averaged over this time, because clients send once a second and
# at different moments.
RATE_SECONDS: Final = 5.0

# The screen is also drawn between two answers, because ages such as "3s" change.
DRAW_SECONDS: Final = 1.0

# The rows and the pages that a key scrolls down.
_FAR: Final = 1_000_000
_SCROLLS: Final = {
    **dict.fromkeys(("up", "k"), (-1, 0)),
    **dict.fromkeys(("down", "j"), (1, 0)),
    **dict.fromkeys(("page up", "b"), (0, -1)),
    **dict.fromkeys(("page down", " "), (0, 1)),
    **dict.fromkeys(("home", "g"), (-_FAR, 0)),
    **dict.fromkeys(("end", "G"), (_FAR, 0)),
}


def run(url: str, query: Query, sort: str, interval: float) -> None:
    """Show the nodes until the user quits.

    Raises:
        KaywatchError: no agent answers at the start, or it rejects the request.
    """
    poller = _Poller(url, query, interval)
    options = ViewOptions(sort)
    try:
        with LiveScreen(
            lambda lines: render_screen(poller.display, options, lines)
        ) as screen:
            poller.start(screen)
            _loop(screen, poller, options)
    except Terminated as error:
        number = error.args[0]
        if number != signal.SIGINT:
            # The exit status must show which signal ended this process.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
    except OSError:
        # The terminal has been closed; the flush at exit must not fail on it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show(url: str, query: Query, sort: str, as_json: bool) -> None:
    """Print the nodes once.

    Raises:
        KaywatchError: no agent answers, or it rejects the request.
    """
    answers = fetch_answers(url, query)
    if as_json:
        parts = ("health", "clients", "graphs", "runs", "nodes", "llm", "failures")
        print(json.dumps({name: getattr(answers, name) for name in parts}, indent=2))
        return
    out = tables.console()
    nodes = render_list(Display(url, answers), ViewOptions(sort), out.width)
    out.print(nodes, no_wrap=True, overflow="crop")


def _loop(screen: LiveScreen, poller: _Poller, options: ViewOptions) -> None:
    while True:
        screen.draw()
        for key in screen.wait(DRAW_SECONDS):
            if key == "q":
                return
            _handle(key, options, poller)


def _handle(key: str, options: ViewOptions, poller: _Poller) -> None:
    if key in ("?", "h", "escape"):
        options.help = not options.help and key != "escape"
    elif key in SORT_KEYS:
        sort = SORT_KEYS[key]
        options.reverse = options.sort == sort and not options.reverse
        options.sort, options.first_row = sort, 0
    elif key in _SCROLLS:
        rows, pages = _SCROLLS[key]
        top = options.first_row + rows + pages * options.page_rows
        options.first_row = max(0, min(top, options.max_first_row))
    elif key in ("w", "W"):
        poller.change_window(1 if key == "w" else -1)


class _Poller:
    """Polls the agent in a thread."""

    def __init__(self, url: str, query: Query, interval: float) -> None:
        """Poll for the first time.

        Raises:
            KaywatchError: no agent answers, or it rejects the request.
        """
        self._url = url
        self._query = query
        self._interval = interval
        self._windows = sorted({*WINDOWS, query.window}, key=parse_duration)
        self._poll_now = threading.Event()
        self._counts: deque[tuple[float, int]] = deque()
        answers = fetch_answers(url, query)
        self.display = Display(url, answers, self._rate(answers))

    def start(self, screen: LiveScreen) -> None:
        """Continue to poll, and wake the screen after each answer."""
        threading.Thread(target=self._poll, args=(screen,), daemon=True).start()

    def change_window(self, by: int) -> None:
        """Select the next longer or shorter window, and poll at once."""
        index = self._windows.index(self._query.window) + by
        window = self._windows[index % len(self._windows)]
        self._query = self._query._replace(window=window)
        self._poll_now.set()

    def _poll(self, screen: LiveScreen) -> None:
        while True:
            self._poll_now.wait(self._interval)
            self._poll_now.clear()
            try:
                answers = fetch_answers(self._url, self._query)
            except KaywatchError as error:
                self.display = self.display._replace(problem=str(error))
            else:
                self.display = Display(self._url, answers, self._rate(answers))
            screen.wake()

    def _rate(self, answers: Answers) -> float | None:
        """Return the recent events per second; None before the second answer."""
        counts = self._counts
        now, events = answers.health["timestamp"], answers.health["events"]
        if counts and (events < counts[-1][1] or now <= counts[-1][0]):
            counts.clear()  # the agent has restarted, and counts from 0
        counts.append((now, events))
        while len(counts) > 2 and now - counts[1][0] >= RATE_SECONDS:
            counts.popleft()
        start, count = counts[0]
        return (events - count) / (now - start) if len(counts) > 1 else None

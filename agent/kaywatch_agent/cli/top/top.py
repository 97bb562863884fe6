"""`kaywatch top`: asks, draws, and listens to keys."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import deque
from typing import Final

from kaywatch.errors import KaywatchError
from kaywatch_agent.cli import screens
from kaywatch_agent.cli.top.layout import Choice, Shown, frame, snapshot
from kaywatch_agent.cli.top.screen import Ended, Screen
from kaywatch_agent.cli.top.state import Asked, Found, ask
from kaywatch_agent.units import parse_duration

__all__ = ["run", "show"]

WINDOWS: Final = ("1m", "5m", "15m", "1h", "24h")

# Events a second are over so long: clients send once a second, not all at once.
RATE_SECONDS: Final = 5.0

# However often it is asked, times such as "3s ago" go on.
DRAW_SECONDS: Final = 1.0

_SORT_KEYS: Final = {
    "n": "name",
    "r": "rate",
    "e": "errors",
    "l": "latency",
    "t": "retries",
    "f": "flight",
    "c": "cost",
}

# Lines and pages that a key goes down; the screen stops at the ends.
_FAR: Final = 1_000_000
_SCROLLS: Final = {
    "up": (-1, 0),
    "k": (-1, 0),
    "down": (1, 0),
    "j": (1, 0),
    "page up": (0, -1),
    "b": (0, -1),
    "page down": (0, 1),
    " ": (0, 1),
    "home": (-_FAR, 0),
    "g": (-_FAR, 0),
    "end": (_FAR, 0),
    "G": (_FAR, 0),
}


def run(url: str, asked: Asked, sort: str, interval: float) -> None:
    """Show the nodes until somebody quits.

    Raises:
        KaywatchError: there is no agent to begin with, or it refuses.
    """
    poller = _Poller(url, asked, interval)
    choice = Choice(sort)
    try:
        with Screen() as screen:
            poller.start(screen)
            _look(screen, poller, choice)
    except Ended as ended:
        number = ended.args[0]
        if number != signal.SIGINT:
            # Whoever sent it should see that it worked.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
    except OSError:
        pass  # the terminal is gone, and with it whoever looked


def show(url: str, asked: Asked, sort: str, as_json: bool) -> None:
    """Print the same once.

    Raises:
        KaywatchError: there is no agent, or it refuses.
    """
    found = ask(url, asked)
    if as_json:
        parts = ("health", "clients", "nodes", "llm", "failures")
        print(json.dumps({name: getattr(found, name) for name in parts}, indent=2))
        return
    out = screens.console()
    for line in snapshot(Shown(url, found), Choice(sort), out.width):
        out.print(line, no_wrap=True, overflow="crop")


def _look(screen: Screen, poller: _Poller, choice: Choice) -> None:
    while True:
        width, height = screen.size
        screen.draw(frame(poller.shown, choice, width, height))
        for key in screen.wait(DRAW_SECONDS):
            if key == "q":
                return
            _press(key, choice, poller, page=max(1, height - 8))


def _press(key: str, choice: Choice, poller: _Poller, page: int) -> None:
    if key in ("?", "h", "escape"):
        choice.help = not choice.help and key != "escape"
    elif key in _SORT_KEYS:
        sort = _SORT_KEYS[key]
        choice.turned = choice.sort == sort and not choice.turned
        choice.sort, choice.top = sort, 0
    elif key in _SCROLLS:
        lines, pages = _SCROLLS[key]
        wanted = choice.top + lines + pages * page
        choice.top = max(0, min(wanted, choice.last))
    elif key in ("w", "W"):
        poller.change(1 if key == "w" else -1)


class _Poller:
    """Asks the agent now and then, beside the one who draws."""

    def __init__(self, url: str, asked: Asked, interval: float) -> None:
        """Ask for the first time.

        Raises:
            KaywatchError: there is no agent, or it refuses.
        """
        self._url = url
        self._asked = asked
        self._interval = interval
        known = {*WINDOWS, asked.window}
        self._windows = sorted(known, key=parse_duration)
        self._again = threading.Event()
        self._counts: deque[tuple[float, int]] = deque()
        found = ask(url, asked)
        self.shown = Shown(url, found, self._rate(found))

    def start(self, screen: Screen) -> None:
        """Go on asking, and wake a screen with each answer."""
        polling = threading.Thread(target=self._poll, args=(screen,), daemon=True)
        polling.start()

    def change(self, by: int) -> None:
        """Ask for another window, at once."""
        at = self._windows.index(self._asked.window) + by
        window = self._windows[at % len(self._windows)]
        self._asked = self._asked._replace(window=window)
        self._again.set()

    def _poll(self, screen: Screen) -> None:
        while True:
            self._again.wait(self._interval)
            self._again.clear()
            try:
                found = ask(self._url, self._asked)
            except KaywatchError as error:
                self.shown = self.shown._replace(problem=str(error))
            else:
                self.shown = Shown(self._url, found, self._rate(found))
            screen.wake()

    def _rate(self, found: Found) -> float | None:
        """Return events a second of late; None before there is a difference."""
        counts = self._counts
        now, events = found.health["timestamp"], found.health["events"]
        if counts and (events < counts[-1][1] or now <= counts[-1][0]):
            counts.clear()  # another agent, that counts from 0
        counts.append((now, events))
        while len(counts) > 2 and now - counts[1][0] >= RATE_SECONDS:
            counts.popleft()
        before, known = counts[0]
        return (events - known) / (now - before) if len(counts) > 1 else None

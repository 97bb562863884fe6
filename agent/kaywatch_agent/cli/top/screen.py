"""The whole screen of a terminal: taken, drawn on, and given back as it was.

Strategy: signals only note what happened and wake the loop; what they ask for is done
there, where no line is half written. A frame is one write, of full lines over the ones
before, so that nothing flickers.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, Final, Self

from rich.console import Console
from rich.text import Text

__all__ = ["Ended", "Screen"]

# xterm's control sequences: the alternate screen without a cursor, and back.
ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[2J"
LEAVE: Final = "\x1b[?25h\x1b[?1049l"
HOME: Final = "\x1b[H"
CLEAR: Final = "\x1b[2J"

# Terminals that know it show what is between at once.
BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"

_NAMES: Final = {
    "A": "up",
    "B": "down",
    "H": "home",
    "F": "end",
    "1~": "home",
    "4~": "end",
    "5~": "page up",
    "6~": "page down",
    "7~": "home",
    "8~": "end",
}


class Ended(Exception):
    """A signal asks to end; its number is the argument."""


class Screen:
    """A terminal's screen and keyboard; a context manager that restores both."""

    def __init__(self) -> None:
        self._keyboard = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._out = sys.stdout.fileno()
        self._woken, self._wake = os.pipe()
        self._noted: list[int] = []
        self._handlers: dict[int, Any] = {}
        self._before: list[Any] = []
        self._cleared = True

    def __enter__(self) -> Self:
        os.set_blocking(self._wake, False)
        for number in (
            *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
            *(signal.SIGTSTP, signal.SIGWINCH),
        ):
            self._handlers[number] = signal.signal(number, self._note)
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        # The terminal may be gone itself.
        with contextlib.suppress(OSError, termios.error):
            self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._wake)
        os.close(self._woken)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, now."""
        columns, lines = os.get_terminal_size(self._out)
        return max(1, columns or 80), max(1, lines or 24)

    def draw(self, lines: Sequence[Text]) -> None:
        """Show as many full lines as the screen has."""
        width, height = self.size
        written = io.StringIO()
        console = Console(
            file=written,
            width=width,
            height=height,
            force_terminal=True,
            markup=False,
            highlight=False,
        )
        for line in lines:
            console.print(line, no_wrap=True, overflow="crop", end="\n")
        text = written.getvalue().rstrip("\n").replace("\n", "\r\n")
        clear, self._cleared = "" if self._cleared else CLEAR, True
        self._write(f"{BEGIN}{clear}{HOME}{text}{END}")

    def wait(self, seconds: float) -> list[str]:
        """Return the keys that are pressed within a time; sooner if woken.

        Raises:
            Ended: a signal asks to.
        """
        watched = [self._woken]
        if self._keyboard is not None:
            watched.append(self._keyboard)
        ready, _, _ = select.select(watched, [], [], max(0.0, seconds))
        if self._woken in ready:
            os.read(self._woken, 4096)
        self._answer()
        if self._keyboard is None or self._keyboard not in ready:
            return []
        typed = os.read(self._keyboard, 4096)
        if not typed:
            raise Ended(signal.SIGHUP)
        return list(keys(typed.decode(errors="replace")))

    def wake(self) -> None:
        """End a `wait`, from any thread."""
        with contextlib.suppress(OSError):  # full, or closed: it is awake
            os.write(self._wake, b"!")

    # -- signals -----------------------------------------------------------------------

    def _note(self, number: int, _: FrameType | None) -> None:
        self._noted.append(number)
        self.wake()

    def _answer(self) -> None:
        noted, self._noted = self._noted, []
        for number in noted:
            if number == signal.SIGWINCH:
                self._cleared = False
            elif number == signal.SIGTSTP:
                self._pause()
            else:
                raise Ended(number)

    def _pause(self) -> None:
        """Stop, as Ctrl-Z asks, with the terminal as it was; `fg` goes on."""
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        # To this very thread: it stops before the call returns.
        signal.pthread_kill(threading.get_ident(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._note)
        self._take()

    # -- the terminal ------------------------------------------------------------------

    def _take(self) -> None:
        if self._keyboard is not None:
            self._before = termios.tcgetattr(self._keyboard)
            tty.setcbreak(self._keyboard, termios.TCSADRAIN)
        self._write(ENTER)

    def _give_back(self) -> None:
        self._write(LEAVE)
        if self._keyboard is not None:
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._before)

    def _write(self, text: str) -> None:
        data = memoryview(text.encode(errors="replace"))
        while data:
            data = data[os.write(self._out, data) :]


def keys(typed: str) -> Iterator[str]:
    """Yield what was typed: characters, and names of keys that send sequences."""
    rest = typed
    while rest:
        if rest[0] != "\x1b":
            yield rest[0]
            rest = rest[1:]
            continue
        if rest[1:2] not in ("[", "O"):
            yield "escape"
            rest = rest[1:]
            continue
        end = next((n for n, c in enumerate(rest[2:], 2) if "@" <= c <= "~"), len(rest))
        name = _NAMES.get(rest[2 : end + 1])
        if name:
            yield name
        rest = rest[end + 1 :]

"""The terminal of `kaywatch top`: rich draws on it; keys and signals are read here.

Strategy: Python writes the number of a signal into a pipe, and the loop that reads keys
reads it there, so that nothing happens while a frame is half drawn.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from typing import Any, Final, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import ControlType, Segment
from rich.text import Text

from kaywatch_agent.cli.tables import console

__all__ = ["Ended", "LiveScreen", "keys"]

# Synchronized output: terminals that support it show a frame at once.
BEGIN: Final = Segment("\x1b[?2026h", None, [(ControlType.HOME,)])
END: Final = Segment("\x1b[?2026l", None, [(ControlType.HOME,)])

ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# What follows ESC [ or ESC O.
_NAMES: Final = {
    "A": "up",
    "B": "down",
    "5~": "page up",
    "6~": "page down",
    **dict.fromkeys(("H", "1~", "7~"), "home"),
    **dict.fromkeys(("F", "4~", "8~"), "end"),
}


class Ended(Exception):
    """A signal asks to end; its number is the argument."""


class LiveScreen:
    """A terminal's screen and keyboard; a context manager that restores both."""

    def __init__(self, frame: Callable[[int, int], list[Text]]) -> None:
        """Prepare to show frames.

        Args:
            frame: returns the lines to show on so many columns and lines.
        """
        self._frame = frame
        self._live = Live(
            self,
            console=console(),
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._keyboard = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._woken, self._wake = os.pipe()
        self._handlers: dict[int, Any] = {}
        self._modes: list[Any] = []

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        lines = self._frame(*options.size)
        yield BEGIN
        yield Text("\n", no_wrap=True, overflow="crop", end="").join(lines)
        yield END

    def __enter__(self) -> Self:
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in (*ENDING, signal.SIGTSTP, signal.SIGWINCH):
            self._handlers[number] = signal.signal(number, lambda *_: None)
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        # The terminal itself may be gone.
        with contextlib.suppress(OSError, termios.error):
            self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        os.close(self._wake)
        os.close(self._woken)

    def draw(self) -> None:
        """Show the frame of this moment."""
        self._live.refresh()

    def wait(self, seconds: float) -> list[str]:
        """Return the keys pressed within a time; earlier after `wake` or a signal.

        Raises:
            Ended: a signal asks to end, or the keyboard is gone.
        """
        watched = [self._woken, *([] if self._keyboard is None else [self._keyboard])]
        ready, _, _ = select.select(watched, [], [], max(0.0, seconds))
        for number in os.read(self._woken, 4096) if self._woken in ready else b"":
            if number == signal.SIGTSTP:
                self._pause()
            elif number in ENDING:
                raise Ended(number)
        if self._keyboard is None or self._keyboard not in ready:
            return []
        typed = os.read(self._keyboard, 4096)
        if not typed:
            raise Ended(signal.SIGHUP)
        return list(keys(typed.decode(errors="replace")))

    def wake(self) -> None:
        """End a `wait`, from any thread."""
        with contextlib.suppress(OSError):  # full or closed: it does not wait
            os.write(self._wake, b"\0")

    def _pause(self) -> None:
        """Stop, as Ctrl-Z asks, with the terminal as it was; `fg` goes on."""
        self._give_back()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        # To this very thread: it stops before the call returns.
        signal.pthread_kill(threading.get_ident(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
        self._take()

    def _take(self) -> None:
        if self._keyboard is not None:
            self._modes = termios.tcgetattr(self._keyboard)
            tty.setcbreak(self._keyboard, termios.TCSADRAIN)
        self._live.start()

    def _give_back(self) -> None:
        self._live.stop()
        if self._keyboard is not None:
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._modes)


def keys(typed: str) -> Iterator[str]:
    """Yield what was typed: characters, and names of keys that send sequences."""
    rest = typed
    while rest:
        if rest[0] != "\x1b":
            yield rest[0]
            rest = rest[1:]
        elif rest[1:2] not in ("[", "O"):
            yield "escape"
            rest = rest[1:]
        else:
            ends = (n for n, c in enumerate(rest[2:], 2) if "@" <= c <= "~")
            end = next(ends, len(rest))
            if name := _NAMES.get(rest[2 : end + 1]):
                yield name
            rest = rest[end + 1 :]

"""The terminal of `kaywatch top`: rich draws on it; keys and signals are read here.

Strategy: Python writes the number of each signal into a pipe, and `wait` reads it there
together with the keys. So no signal interrupts the drawing of a frame.
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

from rich.console import (
    Console,
    ConsoleDimensions,
    ConsoleOptions,
    RenderableType,
    RenderResult,
)
from rich.live import Live

from kaywatch_agent.cli.tables import console

__all__ = ["LiveScreen", "Terminated", "parse_keys"]

# Synchronized output: terminals that support it show whole frames only.
BEGIN: Final = "\x1b[?2026h"
END: Final = "\x1b[?2026l"

TERMINATING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# The keys by the text that follows ESC [ or ESC O.
_KEY_NAMES: Final = {
    "A": "up",
    "B": "down",
    "5~": "page up",
    "6~": "page down",
    **dict.fromkeys(("H", "1~", "7~"), "home"),
    **dict.fromkeys(("F", "4~", "8~"), "end"),
}


class Terminated(Exception):
    """A signal terminates the program; the argument is its number."""


class LiveScreen:
    """A terminal's screen and keyboard; a context manager that restores both."""

    def __init__(self, frame: Callable[[ConsoleDimensions], RenderableType]) -> None:
        """Prepare to show frames.

        Args:
            frame: returns the content for a terminal of a given size.
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

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        options = options.update(no_wrap=True, overflow="crop")
        return console.render(self._frame(options.size), options)

    def __enter__(self) -> Self:
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in (*TERMINATING, signal.SIGTSTP, signal.SIGWINCH):
            self._handlers[number] = signal.signal(number, lambda *_: None)
        self._acquire()
        return self

    def __exit__(self, *_: object) -> None:
        # The terminal may have been closed.
        with contextlib.suppress(OSError, termios.error):
            self._restore()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        os.close(self._wake)
        os.close(self._woken)

    def draw(self) -> None:
        """Draw the current frame."""
        out = self._live.console.file
        out.write(BEGIN)
        self._live.refresh()
        out.write(END)
        out.flush()

    def wait(self, seconds: float) -> list[str]:
        """Return the keys pressed within a time; return early after `wake` or a signal.

        Raises:
            Terminated: a terminating signal arrived, or the terminal was closed.
        """
        poller = select.poll()
        poller.register(self._woken, select.POLLIN)
        if self._keyboard is not None:
            poller.register(self._keyboard, select.POLLIN)
        ready = {file for file, _ in poller.poll(max(0.0, seconds) * 1000)}
        for number in os.read(self._woken, 4096) if self._woken in ready else b"":
            if number == signal.SIGTSTP:
                self._pause()
            elif number in TERMINATING:
                raise Terminated(number)
        if self._keyboard is None or self._keyboard not in ready:
            return []
        typed = os.read(self._keyboard, 4096)
        if not typed:
            raise Terminated(signal.SIGHUP)
        return list(parse_keys(typed.decode(errors="replace")))

    def wake(self) -> None:
        """End a `wait`; safe from any thread."""
        with contextlib.suppress(OSError):  # the pipe is full or closed
            os.write(self._wake, b"\0")

    def _pause(self) -> None:
        """Restore the terminal and stop, as Ctrl-Z requests, until `fg`."""
        self._restore()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        # Sent to this thread, so that it stops before the call returns.
        signal.pthread_kill(threading.get_ident(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
        self._acquire()

    def _acquire(self) -> None:
        if self._keyboard is not None:
            self._modes = termios.tcgetattr(self._keyboard)
            tty.setcbreak(self._keyboard, termios.TCSADRAIN)
        self._live.start()

    def _restore(self) -> None:
        self._live.stop()
        if self._keyboard is not None:
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._modes)


def parse_keys(typed: str) -> Iterator[str]:
    """Yield the keys of a terminal input: characters, or names for escape sequences."""
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
            if name := _KEY_NAMES.get(rest[2 : end + 1]):
                yield name
            rest = rest[end + 1 :]

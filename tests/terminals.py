"""A real terminal for tests: a pty, a program, and the content of its screen."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyte
from tests import forks
from tests.agents import DEADLINE, until
from tests.forks import Fork

# Makes the pty the controlling terminal, so that resizing and Ctrl-Z send signals.
LEADER = (
    "import fcntl, os, sys, termios; os.setsid();"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)
ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"
# Synchronized output: what is between them is shown at once.
BEGIN, END = b"\x1b[?2026h", b"\x1b[?2026l"


def start(
    command: list[str], environment: Mapping[str, str], terminal: int
) -> Fork | subprocess.Popen[bytes]:
    """Start a program on a terminal; `kaywatch` is this tree's."""
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    if command[0] == "kaywatch":
        return forks.start(
            *(sys.executable, *command[1:]),
            env=environment,
            has_terminal=True,
            **streams,
        )
    leader = [sys.executable, "-c", LEADER, *command]
    return subprocess.Popen(leader, env=environment, **streams)


class Terminal:
    """One program on a terminal of its own."""

    def __init__(
        self,
        command: list[str],
        environment: Mapping[str, str],
        columns: int,
        lines: int,
    ) -> None:
        self.written = b""
        self._shown = 0  # how much of it is on the screen
        self._lock = threading.Lock()
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._ours, theirs = pty.openpty()
        self._size(columns, lines)
        self.modes = termios.tcgetattr(self._ours)
        clean = {k: v for k, v in environment.items() if k not in ("COLUMNS", "LINES")}
        self.process = start(command, {**clean, "TERM": "xterm-256color"}, theirs)
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        with self._lock:
            self._screen.resize(lines, columns)
        self._size(columns, lines)

    @property
    def lines(self) -> list[str]:
        """The text on the screen, without trailing spaces."""
        with self._lock:
            return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def line(self, start: str) -> str:
        """Return the line with this beginning, without its mark; empty if none."""
        result = (line for line in self.lines if line.lstrip("! ").startswith(start))
        return next(result, "")

    def styles(self, text: str) -> Any:
        """Return how the first character of a text that is shown looks."""
        with self._lock:
            for number, line in enumerate(self._screen.display):
                if text in line:
                    return self._screen.buffer[number][line.index(text)]
        raise AssertionError(f"{text!r} is not on the screen")

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        try:
            return until(condition, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text}") from None

    def shows(self, *texts: str) -> None:
        """Wait until all of these are on the screen."""
        self.until(lambda: all(t in self.text for t in texts), f"it shows {texts}")

    def ends(self) -> int:
        """Return the exit code; negative is a signal's number."""
        code = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return code

    @property
    def restored(self) -> bool:
        """Whether the terminal is as it was before."""
        return (
            termios.tcgetattr(self._ours) == self.modes
            and self.written.rfind(LEAVE) > self.written.rfind(ENTER) > -1
            and self.written.rfind(b"\x1b[?25h") > self.written.rfind(b"\x1b[?25l")
        )

    def close(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        os.close(self._ours)

    def _size(self, columns: int, lines: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, size)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: no process has it open any more
            while data := os.read(self._ours, 65_536):
                with self._lock:
                    self.written += data
                    self._show()

    def _show(self) -> None:
        """Show what is written, without the beginning of a frame."""
        begin = self.written.rfind(BEGIN)
        unfinished = begin >= 0 and END not in self.written[begin:]
        end = begin if unfinished else len(self.written)
        self._stream.feed(self.written[self._shown : end])
        self._shown = max(self._shown, end)


@contextlib.contextmanager
def on_terminal(
    command: list[str],
    environment: Mapping[str, str],
    columns: int = 80,
    lines: int = 24,
) -> Iterator[Terminal]:
    """Run a program on a terminal within the block."""
    terminal = Terminal(command, environment, columns, lines)
    try:
        yield terminal
    finally:
        terminal.close()

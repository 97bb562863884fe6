"""Wakes the sender's thread: from any thread, from re-entrant code, and on SIGTERM.

Strategy: a socket pair is what the thread waits on (the "self-pipe trick"). While the
application leaves SIGTERM to its default action, `faulthandler` writes to the pair on
that signal, so that the thread can flush before it lets the signal end the process.
Unlike a handler set with `signal.signal`, this needs neither the main thread, which may
be inside a C library for minutes, nor any change to what `signal.getsignal` returns;
and a handler that the application sets later simply replaces it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import struct
from typing import Final

from kaywatch._send.transport import poll

__all__ = ["SelfPipe"]

WAKE: Final = b"\0"  # faulthandler writes no such byte
CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid: unix(7)


class SelfPipe:
    """A socket pair that one thread waits on.

    Raises:
        OSError: there is no free file descriptor.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        # The kernel adds who wrote: a child that C code forked inherits the handler.
        self._reader.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._notified = False
        self._handler = 0  # the address of faulthandler's C function while it watches

    @property
    def closed(self) -> bool:
        """Whether no thread is waiting any longer."""
        return self._reader.fileno() < 0

    def notify(self) -> None:
        """Make `wait` return. Re-entrant, never blocks."""
        if not self._notified:
            self._notified = True
            with contextlib.suppress(OSError):
                self._writer.send(WAKE)

    def wait(self, timeout: float) -> bool:
        """Wait for a notification; return whether a SIGTERM arrived."""
        if not poll(self._reader, writing=False, timeout=timeout):
            return False
        self._notified = False
        terminated = False
        with contextlib.suppress(BlockingIOError):
            while True:
                size = socket.CMSG_SPACE(CREDENTIALS.size)
                data, ancillary, *_ = self._reader.recvmsg(4096, size)
                terminated |= bool(data.strip(WAKE)) and _is_own(ancillary)
        return terminated

    def watch_sigterm(self) -> None:
        """Make `wait` return on SIGTERM, if nothing else handles that signal."""
        if not self._handler and _kernel_handler() == signal.SIG_DFL:
            faulthandler.unregister(signal.SIGTERM)  # a replaced registration of ours
            faulthandler.register(
                signal.SIGTERM, self._writer.fileno(), all_threads=False
            )
            self._handler = _kernel_handler() or 0

    def unwatch_sigterm(self) -> None:
        """Restore the default action of SIGTERM, unless something replaced ours."""
        handler, self._handler = self._handler, 0
        if handler and _kernel_handler() == handler:
            faulthandler.unregister(signal.SIGTERM)

    def close(self) -> None:
        """Close the sockets. Idempotent."""
        self._reader.close()
        self._writer.close()


def _is_own(ancillary: list[tuple[int, int, bytes]]) -> bool:
    return any(
        kind == socket.SCM_CREDENTIALS and CREDENTIALS.unpack(data)[0] == os.getpid()
        for _, kind, data in ancillary
    )


def _kernel_handler() -> int | None:
    """Return the address of SIGTERM's handler, 0 for the default, None if unknown.

    Python knows only the handlers that `signal.signal` set.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        # sigaction(2): the handler is the first member of the structure on Linux.
        action = ctypes.create_string_buffer(512)
        if ctypes.CDLL(None).sigaction(int(signal.SIGTERM), None, action) == 0:
            return ctypes.c_size_t.from_buffer(action).value
    return None

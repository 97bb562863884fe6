"""Writes to systemd's journal by its native protocol: an entry has fields.

The protocol is systemd's "Native Journal Protocol": a datagram of `NAME=value` lines;
a value with a line break goes after its length instead, so that no value can pass for
a field. What is too large for a datagram goes in a sealed memory file.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import re
import socket
from collections.abc import Mapping
from typing import Final

__all__ = ["SOCKET", "Journal", "encode", "field_name", "printable"]

SOCKET: Final = "/run/systemd/journal/socket"

# A journald that hangs must not hang the loop; its queue takes megabytes first.
PATIENCE: Final = 0.5

# systemd drops an entry's fields with longer names.
MAX_NAME: Final = 64

# Sealed, so that journald need not copy it first: memfd_create(2), fcntl(2).
SEALS: Final = (
    fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
)

_CONTROLS: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


class Journal:
    """The way to journald; one that restarts is found again."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(PATIENCE)

    def write(self, fields: Mapping[str, str]) -> None:
        """Write an entry.

        Raises:
            TimeoutError: journald hangs.
            OSError: journald doesn't take it.
        """
        data = encode(fields)
        try:
            self._socket.sendto(data, self._path)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._write_large(data)

    def close(self) -> None:
        """Let go of the socket. Idempotent."""
        self._socket.close()

    def _write_large(self, data: bytes) -> None:
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        descriptor = os.memfd_create("kaywatch-log", flags)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
            passed = array.array("i", [descriptor])
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)]
            self._socket.sendmsg([], rights, 0, self._path)
        finally:
            os.close(descriptor)


def encode(fields: Mapping[str, str]) -> bytes:
    """Return an entry; names have to be those of `field_name`."""
    lines: list[bytes] = []
    for name, value in fields.items():
        data = value.encode(errors="backslashreplace")
        if b"\n" in data:
            size = len(data).to_bytes(8, "little")
            lines.append(name.encode() + b"\n" + size + data + b"\n")
        else:
            lines.append(name.encode() + b"=" + data + b"\n")
    return b"".join(lines)


def field_name(key: str) -> str:
    """Return the name of our field for a key, of capitals, digits and underscores."""
    return "KAYWATCH_" + re.sub(r"[^A-Z0-9_]", "_", key.upper())[: MAX_NAME - 9]


def printable(text: str) -> str:
    """Return the text with control characters escaped.

    It has no line breaks then, steers no terminal, and does not hide what it says.
    """
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)

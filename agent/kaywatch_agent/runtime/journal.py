"""Writes entries with fields to systemd's journal, by its Native Journal Protocol.

An entry is a datagram of `NAME=value` lines. A value with a line break is preceded by
its length instead, so that no value can imitate a field. An entry too large for a
datagram is passed in a sealed memory file.
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

# A journald that hangs must not block the event loop; its queue takes megabytes first.
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
    """A connection to journald that survives its restarts."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(PATIENCE)

    def write(self, fields: Mapping[str, str]) -> None:
        """Write an entry.

        Raises:
            TimeoutError: journald hangs.
            OSError: journald does not accept the entry.
        """
        data = encode(fields)
        try:
            self._socket.sendto(data, self._path)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._write_large(data)

    def close(self) -> None:
        """Close the socket. Idempotent."""
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
    """Return an encoded entry; names must come from `field_name`."""
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
    """Return the field name of a key: capital letters, digits and underscores."""
    return "KAYWATCH_" + re.sub(r"[^A-Z0-9_]", "_", key.upper())[: MAX_NAME - 9]


def printable(text: str) -> str:
    """Return the text with control characters escaped.

    The result has no line breaks, does not control a terminal, and hides nothing.
    """
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)

"""Programs that run as another user, for tests of who may do what."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from typing import Any

import pytest
from tests.agents import Agent

from kaywatch import wire

__all__ = ["NOBODY", "as_root", "push_as"]

NOBODY = 65_534

as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can start a program as another user"
)

# It turns into the user only now, who may not be able to read where Python is.
PUSH = """
import os, socket, sys
os.setgroups([int(gid) for gid in sys.argv[5:]])
os.setgid(int(sys.argv[4]))
os.setuid(int(sys.argv[4]))
link = socket.socket(socket.AF_UNIX)
link.settimeout(10)
try:
    link.connect(sys.argv[1])
except PermissionError:
    sys.exit("denied")
found = b""
try:
    link.sendall(bytes.fromhex(sys.argv[2]))
except ConnectionError:
    pass  # already disconnected
try:
    while data := link.recv(65536):
        found += data
        whole = 4 + int.from_bytes(found[:4], "big")
        if sys.argv[3] == "answer" and len(found) >= whole:
            break
except ConnectionError:
    pass
print(found.hex(), flush=True)
sys.stdin.read()
"""


def push_as(
    uid: int,
    agent: Agent,
    *messages: bytes,
    gids: tuple[int, ...] = (),
    until: str = "answer",
) -> tuple[list[dict[str, Any]], subprocess.Popen[str]]:
    """Push as another user; return the replies, and the process, which still runs.

    Args:
        uid: the user, and the number of its group.
        agent: which one.
        messages: the messages to send.
        gids: supplementary groups.
        until: `answer` for the first reply, `end` for all until the agent disconnects.
    """
    data = b"".join(map(wire.frame, messages))
    who = map(str, (uid, *gids))
    process = agent.start_process(
        *(sys.executable, "-I", "-S", "-c", PUSH),
        *(agent.socket, data.hex(), until, *who),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    return list(replies(bytes.fromhex(line))), process


def replies(data: bytes) -> list[dict[str, Any]]:
    """Return the messages of a stream."""
    result, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        result.append(wire.decode(data[at + 4 : at + 4 + size]))
        at += 4 + size
    return result

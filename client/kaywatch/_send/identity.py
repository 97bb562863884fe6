"""How this process identifies itself to the agent, and which resources it uses."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import NamedTuple

from kaywatch._version import __version__

__all__ = ["ClientIdentity", "new_identity", "resource_usage"]


class ClientIdentity(NamedTuple):
    """The fields of a hello that stay the same for the life of the process."""

    client: bytes
    service: str
    host: str
    pid: int
    start: float
    sdk: str
    tags: Mapping[str, str]


def new_identity(service: str, host: str, tags: Mapping[str, str]) -> ClientIdentity:
    """Return an identity for this process, with a fresh client id."""
    sdk = f"kaywatch-python/{__version__}"
    client, pid = os.urandom(16), os.getpid()
    return ClientIdentity(client, service, host, pid, time.time(), sdk, tags)


def resource_usage() -> dict[str, float]:
    """Return CPU seconds so far and, on Linux, the resident memory in bytes.

    For an agent on another host, which cannot look at the process itself.
    """
    times = os.times()
    usage: dict[str, float] = {"cpu": times.user + times.system}
    try:
        # proc(5): the second field of statm is the resident set, in pages.
        with open("/proc/self/statm", "rb") as statm:
            pages = int(statm.read().split()[1])
        usage["rss"] = pages * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError, IndexError):
        pass  # not Linux
    return usage

"""Who this process is, as its greetings say."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import NamedTuple

from kaywatch._version import __version__

__all__ = ["ClientIdentity", "new_identity"]


class ClientIdentity(NamedTuple):
    """Who this process says it is."""

    client: bytes
    service: str
    host: str
    pid: int
    start: float
    sdk: str
    tags: Mapping[str, str]


def new_identity(service: str, host: str, tags: Mapping[str, str]) -> ClientIdentity:
    """Return an identity for this process, with a fresh client id."""
    return ClientIdentity(
        client=os.urandom(16),
        service=service,
        host=host,
        pid=os.getpid(),
        start=time.time(),
        sdk=f"kaywatch-python/{__version__}",
        tags=tags,
    )

"""The name of this host, in notifications and in the labels of exported metrics."""

from __future__ import annotations

import os
import socket
from typing import Final

__all__ = ["HOST_VARIABLE", "host_name"]

HOST_VARIABLE: Final = "KAYWATCH_HOST"


def host_name() -> str:
    """Return KAYWATCH_HOST, or else the system's host name.

    In a container, the system's name is new with each container, and a server would
    take its metrics for those of another host.
    """
    return os.environ.get(HOST_VARIABLE) or socket.gethostname()

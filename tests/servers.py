"""The real servers and tools that tests run against: found, started, stopped."""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["require"]

PACKAGES = {
    "promtool": "prometheus",
    "prometheus": "prometheus",
    "amtool": "prometheus-alertmanager",
    "systemctl": "systemd-sysv",
    "systemd-nspawn": "systemd-container",
    "dbus-daemon": "dbus",
    "ip": "iproute2",
    "setpriv": "util-linux",
}


def require(program: str) -> str:
    """Return the path of a program; without it skip, or fail where CI=true."""
    found = shutil.which(program)
    if found is not None:
        return found
    package = PACKAGES.get(program, program)
    reason = f"{program} is not installed (Debian's package {package})"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)

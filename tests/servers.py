"""The real servers and tools that tests run against: found, started, stopped."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

__all__ = ["absent", "find", "require"]

# Where Debian keeps servers; the PATH of a user who is not root lacks these folders.
SERVER_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")

PACKAGES = {
    "promtool": "prometheus",
    "prometheus": "prometheus",
    "amtool": "prometheus-alertmanager",
    "mosquitto_passwd": "mosquitto",
    "mosquitto_pub": "mosquitto-clients",
    "mosquitto_sub": "mosquitto-clients",
    "systemctl": "systemd-sysv",
    "systemd-nspawn": "systemd-container",
    "dbus-daemon": "dbus",
    "ip": "iproute2",
    "vmalert": "victoria-metrics",
    "setpriv": "util-linux",
}


def find(program: str) -> str | None:
    """Return the path of a program, None if it is not installed."""
    folders = (os.environ.get("PATH", os.defpath), *SERVER_FOLDERS)
    return shutil.which(program, path=os.pathsep.join(folders))


def require(program: str) -> str:
    """Return the path of a program; without it skip, or fail where CI=true."""
    result = find(program)
    if result is None:
        package = PACKAGES.get(program, program)
        absent(f"{program} is not installed (Debian's package {package})")
    return result


def absent(reason: str) -> NoReturn:
    """Skip the test, or fail it where CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)

"""Find the installed peers and their versions.

`install_peers.sh` installs them: PyPI packages into this environment, daemons into
`.bench`. Nothing is installed system-wide.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

__all__ = ["FOLDER", "PACKAGES", "REMEDY", "missing_package", "versions"]

FOLDER = Path(__file__).parents[2] / ".bench"
PACKAGES = (
    "datadog",
    "opentelemetry-sdk",
    "opentelemetry-exporter-otlp-proto-http",
    "pocketflow",
    "prometheus-client",
    "statsd",
)
REMEDY = "not installed; `make bench` installs it"


def missing_package(*names: str) -> str:
    """Return why a client library can't be measured; empty if it can."""
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return f"{name} is {REMEDY}"
    return ""


def versions() -> dict[str, str]:
    """Return the versions of the installed peers."""
    return {
        name: importlib.metadata.version(name)
        for name in ("kaywatch", *PACKAGES)
        if not missing_package(name)
    }

"""The peers that figures stand beside: which are here, and in which version.

`install_peers.sh` brings them: packages of PyPI into this environment, daemons into
`.bench`, so that nothing is installed for the whole machine.
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
REMEDY = "not installed: `make bench` does"


def missing_package(*names: str) -> str:
    """Return why a client library can't be measured, empty when it can."""
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return f"{name} is {REMEDY}"
    return ""


def versions() -> dict[str, str]:
    """Return the versions of the peers that are here."""
    return {
        name: importlib.metadata.version(name)
        for name in ("kaywatch", *PACKAGES)
        if not missing_package(name)
    }

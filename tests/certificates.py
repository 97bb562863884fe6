"""A certificate of our own for 127.0.0.1, made by openssl(1)."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.servers import require

__all__ = ["Certificate", "certificate"]


class Certificate(NamedTuple):
    """Its files."""

    certificate: Path
    key: Path


def certificate(folder: Path, name: str = "kaywatch") -> Certificate:
    """Make one that signs itself, valid for a day."""
    openssl = require("openssl")
    result = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-nodes", "-days", "1"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(result.key), "-out", str(result.certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return result

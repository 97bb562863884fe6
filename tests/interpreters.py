"""Pythons of the versions that we promise to work with, wherever they are."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

__all__ = ["VERSIONS", "find", "interpreter"]

VERSIONS = ("3.11", "3.12", "3.13")


@cache
def find(version: str) -> str | None:
    """Return the path of a Python of a version, None if there is none."""
    return next((path for path in _candidates(version) if _is(path, version)), None)


def interpreter(version: str) -> str:
    """Return the path of a Python of a version; skip the test if there is none."""
    result = find(version)
    if result is None:
        pytest.skip(f"no python{version}: neither in PATH nor among pyenv's")
    return result


def _candidates(version: str) -> Iterator[str]:
    result = shutil.which(f"python{version}")
    if result:
        yield result
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for path in sorted(root.glob(f"versions/{version}.*/bin/python")):
        yield str(path)


def _is(path: str, version: str) -> bool:
    # pyenv's shims are there also for versions that are not chosen, and fail.
    code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([path, "-c", code], capture_output=True, text=True)
    return done.returncode == 0 and done.stdout.strip() == version

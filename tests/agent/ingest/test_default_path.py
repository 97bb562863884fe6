"""Where the agent listens without configuration, and where clients then look."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kaywatch._send.transport import candidates
from kaywatch_agent.ingest.config import IngestConfig

UNKNOWN_USER = 4_000_000_000


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user without a runtime folder, as in a container; their home folder."""
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: UNKNOWN_USER)
    return tmp_path


def test_without_a_runtime_folder_the_socket_is_beside_the_store(user: Path) -> None:
    path = IngestConfig().path

    assert path == str(user / ".local/state/kaywatch/ingest.sock")
    assert path in list(candidates(None))


def test_a_runtime_folder_is_preferred(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(user / "run"))
    path = IngestConfig().path

    assert path == str(user / "run/kaywatch/ingest.sock")
    assert path in list(candidates(None))

"""One box for all tests of a run: booting it and installing takes a while."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.systemd.service import Service, installed_service


@pytest.fixture(scope="session")
def installed_units(wheel: Path) -> Iterator[Service]:
    with installed_service(wheel) as service:
        yield service


@pytest.fixture
def service(installed_units: Service) -> Iterator[Service]:
    """kaywatch, installed and not started, without data or configuration."""
    try:
        yield installed_units.begin()
    finally:
        installed_units.reset()

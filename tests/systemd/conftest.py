"""One box for all tests of a run: booting it and installing takes a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.systemd.service import Service, installed_service


@pytest.fixture(scope="session")
def installed_units(wheel: Path) -> Iterator[Service]:
    with installed_service(wheel) as service:
        yield service


@contextlib.contextmanager
def fresh(service: Service) -> Iterator[Service]:
    try:
        yield service.begin()
    finally:
        service.reset()


@pytest.fixture
def service(installed_units: Service) -> Iterator[Service]:
    """kaywatch, installed and not started, without data or configuration."""
    with fresh(installed_units) as service:
        yield service

"""Each test begins and ends with an unchanged root logger, and sends nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pocketflow
import pytest
import structlog
from tests.client.instrument import kaygraph_standin as kaygraph

import kaywatch
from kaywatch.logs import remove_logging


@pytest.fixture(autouse=True)
def _untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("ENVIRONMENT", raising=False)
    # Without an agent, the sender would log its problem in the middle of a test.
    monkeypatch.setattr(logging.getLogger("kaywatch"), "disabled", True)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    filters = [handler.filters[:] for handler in before]
    kaywatch.instrument(modules=[pocketflow, kaygraph])
    yield
    remove_logging()
    kaywatch.uninstrument()
    structlog.reset_defaults()
    # `remove_logging` leaves nothing behind, whatever was set up.
    assert root.handlers == before
    assert root.level == level
    assert [handler.filters for handler in before] == filters

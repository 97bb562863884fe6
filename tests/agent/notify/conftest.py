from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.receivers import Receivers, running_receivers

from kaywatch_agent.notify.http import HttpClient


@pytest.fixture
def fakes() -> Iterator[Receivers]:
    """Receivers that answer as the real ones do."""
    with running_receivers() as receivers:
        yield receivers


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with HttpClient(total_seconds=1.0) as http:
        yield http

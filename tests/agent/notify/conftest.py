from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest
from tests.receivers import Receivers, run_receivers

from kaywatch_agent.notify.http import HttpClient


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    """Receivers that respond like the real ones."""
    with run_receivers() as receivers:
        yield receivers


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with aclosing(HttpClient(total_seconds=1.0)) as http:
        yield http

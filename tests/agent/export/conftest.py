from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.receivers import Receivers, run_receivers


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    """A server that records what it is sent."""
    with run_receivers() as receivers:
        yield receivers

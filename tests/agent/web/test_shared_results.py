"""Results that readers share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.agents import DEADLINE

from kaywatch_agent.web.shared_results import FRESH_SECONDS, SharedResults


def counter() -> Callable[[], int]:
    """Return a function that returns how often it was called."""
    calls: list[None] = []

    def compute() -> int:
        calls.append(None)
        return len(calls)

    return compute


def test_a_result_is_computed_again_once_it_is_old() -> None:
    results, compute = SharedResults(), counter()
    assert results.get("a", 100.0, compute) == 1
    assert results.get("a", 100.0 + FRESH_SECONDS - 0.1, compute) == 1
    assert results.get("b", 100.0, compute) == 2
    assert results.get("a", 100.0 + FRESH_SECONDS, compute) == 3


def test_a_clock_that_was_set_back_makes_nothing_last_longer() -> None:
    results, compute = SharedResults(), counter()
    assert results.get("a", 100.0, compute) == 1
    assert results.get("a", 50.0, compute) == 2


def test_readers_at_the_same_time_share_one_computation() -> None:
    results, compute, entered = SharedResults(), counter(), threading.Barrier(8)

    def read(_: int) -> int:
        entered.wait(DEADLINE)
        return results.get("a", 1.0, compute)

    with ThreadPoolExecutor(8) as threads:
        assert [*threads.map(read, range(8))] == [1] * 8


def test_a_failed_computation_is_tried_again() -> None:
    results = SharedResults()
    with pytest.raises(ZeroDivisionError):
        results.get("a", 1.0, lambda: 1 // 0)
    assert results.get("a", 1.0, lambda: 7) == 7

"""A part of what `python -m tests.fuzz.requests` does."""

from __future__ import annotations

from tests.fuzz.requests import Fuzzer, check, fuzz


def test_hostile_requests_are_answered_and_each_refusal_is_counted() -> None:
    outcome = fuzz(1_000, seed=7)
    check(outcome)
    # It got everywhere: sound answers, and refusals of many kinds.
    assert outcome.client.statuses[200] > 50
    assert len(outcome.refused) >= 10


def test_a_seed_makes_the_same_requests() -> None:
    first, second = Fuzzer(3), Fuzzer(3)
    assert [first.request() for _ in range(50)] == [second.request() for _ in range(50)]

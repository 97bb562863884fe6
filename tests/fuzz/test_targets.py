"""No input raises an undocumented exception; see also `make fuzz`."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fuzz.seeds import mutated, seeds
from tests.fuzz.targets import TARGETS

calm = settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.parametrize("target", TARGETS)
def test_sound_inputs_are_taken(target: str) -> None:
    for seed in seeds(target):
        TARGETS[target](seed)


@pytest.mark.parametrize("target", TARGETS)
def test_noise_is_refused(target: str) -> None:
    @calm
    @given(st.binary(max_size=400))
    def refused(data: bytes) -> None:
        TARGETS[target](data)

    refused()


@pytest.mark.parametrize("target", TARGETS)
def test_mutated_inputs_are_accepted_or_rejected(target: str) -> None:
    result = seeds(target)

    @calm
    @given(st.integers(0, 2**32))
    def decided(seed: int) -> None:
        TARGETS[target](mutated(result, random.Random(seed)))

    decided()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "data",
    [
        b"a = " + b"[" * 20_000,
        b"[" + b"a." * 20_000 + b"a]",
        b"a." * 5_000 + b"b = 1",
        b"a = " + b"{b=" * 20_000,
        b"[" * 50_000,
        b'{"a":' * 50_000,
        b"\x91" * 50_000,
        b"a = 1e999999999",
        b"a = " + b"9" * 5_000,
        b"[limits]\nseries = " + b"9" * 300,
        b"[limits]\nseries = -1",
        b"[http]\nlisten = '" + b"\xf0\x9f\x92\xa9" * 100 + b":1'",
        b"",
    ],
    ids=range(13),
)
def test_endless_input_is_rejected(target: str, data: bytes) -> None:
    TARGETS[target](data)

"""Whether another agent takes from the same topics."""

from __future__ import annotations

import json

import pytest

from kaywatch_agent.ingest.rivals import Rivals


def about(agent: str, host: str = "box") -> bytes:
    return json.dumps({"agent": agent, "host": host, "version": "1"}).encode()


def test_we_ourselves_are_no_rival() -> None:
    rivals = Rivals("mine")
    rivals.online(True, retained=True)

    assert not rivals.meet(about("mine"), retained=True)
    assert not rivals.meet(about("mine"), retained=False)
    assert rivals.problem == ""


def test_one_that_is_there_is_a_rival() -> None:
    rivals = Rivals("mine")
    rivals.online(True, retained=True)

    assert rivals.meet(about("other", "worker-3"), retained=True)
    assert rivals.problem.startswith("another agent, other on worker-3, takes")
    assert not rivals.meet(about("other", "worker-3"), retained=False)


def test_one_that_comes_is_a_rival() -> None:
    rivals = Rivals("mine")

    assert rivals.meet(about("other"), retained=False)


def test_one_that_has_gone_is_none() -> None:
    rivals = Rivals("mine")
    rivals.online(False, retained=True)

    assert not rivals.meet(about("other"), retained=True)

    rivals.meet(about("other"), retained=False)
    rivals.online(False, retained=False)
    assert rivals.problem == ""


@pytest.mark.parametrize("junk", [b"", b"{}", b"[1]", b'{"agent": 3}', b"\xff"])
def test_junk_is_no_rival(junk: bytes) -> None:
    rivals = Rivals("mine")

    assert not rivals.meet(junk, retained=False)
    assert rivals.problem == ""


def test_a_long_name_is_cut() -> None:
    rivals = Rivals("mine")
    rivals.meet(about("x" * 100_000, "y" * 100_000), retained=False)

    assert len(rivals.problem) < 1_000

"""A second agent that reads the same topics."""

from __future__ import annotations

import json

import pytest

from kaywatch_agent.ingest.conflicts import ConflictDetector


def about(agent: str, host: str = "box") -> bytes:
    return json.dumps({"agent": agent, "host": host, "version": "1"}).encode()


def test_our_own_description_is_no_conflict() -> None:
    detector = ConflictDetector("mine")
    detector.status(True, retained=True)

    assert not detector.about(about("mine"), retained=True)
    assert not detector.about(about("mine"), retained=False)
    assert detector.problem == ""


def test_an_agent_that_is_online_already_is_a_conflict() -> None:
    detector = ConflictDetector("mine")
    detector.status(True, retained=True)

    assert detector.about(about("other", "worker-3"), retained=True)
    assert detector.problem.startswith("another agent, other on worker-3, reads")
    assert not detector.about(about("other", "worker-3"), retained=False)


def test_an_agent_that_comes_later_is_a_conflict() -> None:
    detector = ConflictDetector("mine")

    assert detector.about(about("other"), retained=False)


def test_an_agent_that_went_offline_is_no_conflict() -> None:
    detector = ConflictDetector("mine")
    detector.status(False, retained=True)

    assert not detector.about(about("other"), retained=True)

    detector.about(about("other"), retained=False)
    detector.status(False, retained=False)
    assert detector.problem == ""


@pytest.mark.parametrize("junk", [b"", b"{}", b"[1]", b'{"agent": 3}', b"\xff"])
def test_junk_is_no_conflict(junk: bytes) -> None:
    detector = ConflictDetector("mine")

    assert not detector.about(junk, retained=False)
    assert detector.problem == ""


def test_a_long_name_is_cut() -> None:
    detector = ConflictDetector("mine")
    detector.about(about("x" * 100_000, "y" * 100_000), retained=False)

    assert len(detector.problem) < 1_000

"""Output of commands: figures are complete, and names cannot move the cursor."""

from __future__ import annotations

from typing import Any

import pytest

from kaywatch_agent.cli.commands import output
from kaywatch_agent.cli.tables import show_node

EVIL = "evil\x1b[31m\nname"

NODE: dict[str, Any] = {
    "node": EVIL,
    "graphs": [EVIL],
    "window": 300,
    "total_executions": 7,
    "success_rate": 1.0,
    "total_retries": 0,
    **{f"{name}_execution_time": 0.02 for name in ("avg", "min", "max")},
    **{f"{name}_execution_time": 0.02 for name in ("p50", "p95", "p99")},
    "avg_exec_time": None,
    "total_items": None,
    "outcomes": {"ok": 7},
    "actions": {EVIL: 7},
    "error_breakdown": {},
    "peak_memory_mb": None,
    "last_execution": None,
    "completeness": 1.0,
}


@pytest.fixture(autouse=True)
def _width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_names_have_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    show_node(NODE)
    output.print_table({"rule": lambda row: row}, [EVIL])
    output.print_wrapped(f"RuntimeError: {EVIL}")

    text = capsys.readouterr().out
    assert text.count("evil [31m name") == 5
    assert text.replace("\n", "").isprintable()
    assert output.label_path({"node": EVIL}) == "evil [31m name"


def test_the_window_of_a_node_is_a_duration(capsys: pytest.CaptureFixture[str]) -> None:
    show_node(NODE)

    assert capsys.readouterr().out.splitlines()[0].endswith(", last 5m")


def test_names_make_room_for_figures(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(
        {"rule": lambda _: "a" * 60, "where": lambda _: "b" * 60, "since": str},
        ["12m 45s"],
        shortened=("rule", "where"),
    )

    _, line = capsys.readouterr().out.splitlines()
    assert len(line) <= 80
    assert line.endswith(" 12m 45s")


def test_a_long_matcher_is_shown_as_a_whole(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output.print_table(
        {"id": lambda _: "1", "matchers": str}, ["x" * 200], wrapped=("matchers",)
    )

    assert capsys.readouterr().out.count("x") == 200

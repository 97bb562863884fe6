"""Output of commands: figures are complete, and names cannot move the cursor."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from kaywatch_agent.cli.commands import output
from kaywatch_agent.cli.graph_tables import graph_table
from kaywatch_agent.cli.node_view import show_node

EVIL = "evil\x1b[31m\nname"

NODE: dict[str, Any] = {
    "node": EVIL,
    "graphs": [EVIL],
    "window": 300,
    "total_executions": 7,
    "success_rate": 1.0,
    "min_success_rate": 0.95,
    "total_retries": 0,
    **{f"{name}_execution_time": 0.02 for name in ("avg", "min", "max")},
    **{f"{name}_execution_time": 0.02 for name in ("p50", "p95", "p99")},
    "avg_exec_time": None,
    "total_items": None,
    "outcomes": {"ok": 7},
    "actions": {EVIL: 7},
    "error_breakdown": {},
    "retried_errors": {"OSError": 2},
    "custom": [],
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
    assert output.format_labels({"node": EVIL}) == "evil [31m name"


def test_the_window_of_a_node_is_a_duration(capsys: pytest.CaptureFixture[str]) -> None:
    show_node(NODE)

    assert capsys.readouterr().out.splitlines()[0].endswith(", last 5m")


def test_errors_that_a_retry_answered_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_node(NODE)

    (line,) = (t for t in capsys.readouterr().out.splitlines() if "retried" in t)
    assert line.split() == ["retried", "errors", "OSError", "2"]


def test_a_node_has_its_cost_tokens_and_custom_metrics(
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty = dict.fromkeys(("avg", "p95", "last"))
    sums = {"calls": 3, "errors": 1, "input_tokens": 12_345, "output_tokens": 678}
    sums |= {"cost_usd": 1.25, "wasted_cost_usd": 0.25}
    custom = [
        {**empty, "name": f"llm_{name}", "kind": "count", "labels": {"model": "m"}}
        | {"count": 3, "sum": float(total)}
        for name, total in sums.items()
    ]
    size = {**empty, "name": "cart_size", "kind": "observe", "labels": {"shop": "a"}}
    custom.append({**size, "count": 4, "sum": 10.0, "avg": 2.5, "p95": 4.0})
    show_node({**NODE, "custom": custom})

    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "model calls 3, 1 failed" in lines
    assert "tokens 12,345 in, 678 out" in lines
    assert "cost $1.25, $0.25 wasted on failed attempts" in lines
    assert lines[-1] == "cart_size {shop=a} observe 4 10 2.5 4 -"


@pytest.mark.parametrize(("errors", "is_red"), [(0, False), (1, True)])
def test_a_graph_is_red_once_a_run_failed(errors: int, is_red: bool) -> None:
    row = {
        "graph": "shop",
        "services": ["web"],
        "total_executions": 1_000,
        "outcomes": {"ok": 1_000 - errors, "error": errors},
        "success_rate": 1 - errors / 1_000,
        "never_reached": [],
        **dict.fromkeys(("dead_ends", "retries", "fallbacks"), 0),
        **dict.fromkeys(("max_execution_time", "cost_usd")),
    }
    text = StringIO()
    Console(file=text, force_terminal=True, color_system="standard").print(
        graph_table([row])
    )

    assert ("\x1b[31m" in text.getvalue()) is is_red


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


@pytest.mark.parametrize(("code", "shown"), [(202, "HTTP 202"), (250, "SMTP 250")])
def test_a_delivery_names_the_protocol_of_its_code(code: int, shown: str) -> None:
    message = {"status": "sent", "attempts": 0, "error": "", "code": code}
    text = output.format_delivery({**message, "settled": 1_795_608_060.0})
    assert text.startswith("delivered at ") and text.endswith(f" ({shown})")

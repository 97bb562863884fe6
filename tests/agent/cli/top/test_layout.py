"""The screen of `kaywatch top`, from given answers: at every size, for every name."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions, RenderableType
from rich.screen import Screen

from kaywatch_agent.cli.tables import shorten, show_nodes
from kaywatch_agent.cli.top.layout import (
    SORTS,
    Display,
    ViewOptions,
    render_list,
    render_screen,
)
from kaywatch_agent.cli.top.state import Answers, Query, covered_seconds, node_rows
from kaywatch_agent.cli.top.terminal import parse_keys

NAMES = [
    "pay",
    "Ein-ziemlich-langer-Name-für-einen-Knoten-der-am-Ende-verschieden-ist-A",
    "Ein-ziemlich-langer-Name-für-einen-Knoten-der-am-Ende-verschieden-ist-B",
    "請求書を送る請求書を送る請求書を送る",
    "new\nline\x1b[31m\x07",
    "e\u0301" * 30,
]


def node(name: str, **more: Any) -> dict[str, Any]:
    return {
        "node": name,
        "graphs": ["checkout", ""],
        "total_executions": 1_234_567,
        "success_rate": 0.96,
        "error_rate": 0.04,
        "total_retries": 123_456,
        "p50_execution_time": 0.0123,
        "p95_execution_time": 0.9996,
        **more,
    }


NOW = 1_000_005.0


def client(state: str = "connected", *ages: float) -> dict[str, Any]:
    flights = [{"node": "pay", "graph": "checkout", "start": NOW - age} for age in ages]
    return {"state": state, "events": 90, "recorded": 100, "in_flight": flights}


def answers(*nodes: dict[str, Any], **more: Any) -> Answers:
    stage = {"problem": more.pop("problem", "")}
    health = {
        "version": "1.2.3",
        "status": "degraded" if stage["problem"] else "healthy",
        "timestamp": NOW,
        "uptime": 90.0,
        "since": 0.0,
        "events": 7,
        "memory_mb": 65.4321,
        "store_mb": None,
        "stages": {"store": stage},
    }
    totals = {
        "calls": 9,
        "errors": 1,
        "cost_usd": 1.5,
        "wasted_cost_usd": 0.5,
        "unpriced_calls": 1,
        "calls_without_usage": 0,
    }
    costs = [{"node": "pay", "cost_usd": 1.0}, {"node": "pay", "cost_usd": 0.5}]
    defaults: dict[str, Any] = {
        "clients": [client()],
        "nodes": list(nodes),
        "llm": {"totals": totals, "nodes": costs},
        "failures": [
            {"node": "pay", "type": "A" * 60, "time": None},
            {"node": "pay", "type": "Older", "time": 1.0},
        ],
    }
    query = more.pop("query", Query())
    return Answers(query, health, **{**defaults, **more})


def on_screen(
    display: Display, options: ViewOptions, width: int, height: int
) -> list[str]:
    """Return the lines of a full screen, as rich's Live draws it."""
    frame = render_screen(display, options, ConsoleDimensions(width, height))
    return rendered(Screen(frame), width, height)


def rendered(renderable: RenderableType, width: int, height: int) -> list[str]:
    out = Console(
        width=width, height=height, markup=False, highlight=False, emoji=False
    )
    options = out.options.update(no_wrap=True, overflow="crop")
    lines = out.render_lines(renderable, options, pad=False)
    return ["".join(segment.text for segment in line) for line in lines]


@pytest.mark.parametrize("sort", SORTS)
def test_every_size_is_filled_and_no_line_is_too_long(sort: str) -> None:
    display = Display("http://127.0.0.1:9477", answers(*map(node, NAMES)), 12.5)
    for width in [*range(1, 100), 132, 250]:
        # Columns depend on the width alone, rows on the height alone.
        for height in (1, 5, 24, 60) if width in (1, 13, 80, 250) else (24,):
            for help in (False, True):
                options = ViewOptions(sort, help=help)
                lines = on_screen(display, options, width, height)
                assert len(lines) == height
                assert {cell_len(line) for line in lines} == {width}
                assert all(line.isprintable() for line in lines)


def test_shortened_names_keep_their_ends() -> None:
    display = Display("http://127.0.0.1:9477", answers(*map(node, NAMES)))
    lines = rendered(render_list(display, ViewOptions("name"), 80), 80, 24)

    assert all(cell_len(line) <= 80 for line in lines)
    assert sum("…" in line and "-A " in line for line in lines) == 1
    assert sum("…" in line and "-B " in line for line in lines) == 1
    assert "7 events" in lines[1] and "90.0 % complete" in lines[1]
    assert "$1.50+?" in lines[2]


@pytest.mark.parametrize(
    ("text", "width", "cut"),
    [
        ("summarise", 9, "summarise"),
        ("summarise", 8, "sum…rise"),
        ("summarise", 5, "su…se"),
        ("summarise", 2, "…e"),
        ("summarise", 1, "…"),
        ("summarise", 0, ""),
        ("請求書送", 8, ""),
        ("請求書送", 7, ""),
    ],
)
def test_a_name_is_shortened_in_the_middle(text: str, width: int, cut: str) -> None:
    if text.isascii():
        assert shorten(text, width) == cut
    assert cell_len(shorten(text, width)) == min(width, cell_len(text))


@pytest.mark.parametrize(
    ("age", "p95", "stuck"),
    [(9.0, 0.1, False), (11.0, 0.1, True), (50.0, 6.0, False), (61.0, 6.0, True)],
)
def test_an_execution_in_flight_for_too_long_is_marked(
    age: float, p95: float, stuck: bool
) -> None:
    slow = node("pay", p95_execution_time=p95, error_rate=0.0)
    (row,) = node_rows(answers(slow, clients=[client("connected", 1.0, age)]))

    assert (row.in_flight, row.oldest) == (2, age)
    assert row.stuck is row.unhealthy is stuck
    (dead,) = node_rows(answers(slow, clients=[client("died", age)]))
    assert dead.in_flight == 0


def test_a_row_has_the_last_failure_and_the_cost_of_its_node() -> None:
    pay, other = node_rows(answers(node("pay"), node("other")))

    assert (pay.failure, pay.failed_ago, pay.cost) == ("A" * 60, None, 1.5)
    assert (other.failure, other.cost) == ("", None)


def test_a_rate_covers_the_part_of_the_window_with_data() -> None:
    # Whole buckets of ten seconds, but not before the first data.
    assert covered_seconds(answers(query=Query("1m"))) == 65.0
    young = answers(query=Query("1h"))
    young.health["since"] = 1_000_000.0  # type: ignore[index]
    assert covered_seconds(young) == 5.0
    (row,) = node_rows(answers(node("pay", total_executions=130), query=Query("1m")))
    assert row.rate == 2.0


def test_a_problem_of_the_agent_is_in_the_header() -> None:
    full = Display("http://127.0.0.1:9477", answers(problem="the disk is full"))
    head = [line.rstrip() for line in on_screen(full, ViewOptions(), 80, 24)]
    assert "degraded" in head[0]
    assert head[3] == "store: the disk is full"

    unreachable = full._replace(problem="no agent answers")
    (line, *_) = on_screen(unreachable, ViewOptions(), 80, 24)
    assert "no answer since" in line


@pytest.mark.parametrize(
    ("typed", "pressed"),
    [
        ("", []),
        ("nq", ["n", "q"]),
        ("\x1b", ["escape"]),
        ("\x1b\x1b", ["escape", "escape"]),
        ("\x1b[A\x1bOB", ["up", "down"]),
        ("\x1b[5~x\x1b[6~", ["page up", "x", "page down"]),
        ("\x1b[1;5A", []),  # a modifier: no key of ours
        ("\x1b[", []),
        ("\x1b[15~?", ["?"]),
        ("é", ["é"]),
    ],
)
def test_keys_are_parsed(typed: str, pressed: list[str]) -> None:
    assert list(parse_keys(typed)) == pressed


def test_a_long_name_does_not_cut_the_figures_of_status() -> None:
    more = {"avg_execution_time": 0.02, "max_execution_time": 0.03}
    out = Console(width=80, markup=False, highlight=False, emoji=False)
    with out.capture() as capture:
        show_nodes(out, [node("Summarise" * 8, **more)], "Nodes")

    *_, line = capture.get().splitlines()
    assert re.match(r"Summ.*….*rise +1,234,567 +96.0 % +20ms +1s +30ms +123,456$", line)

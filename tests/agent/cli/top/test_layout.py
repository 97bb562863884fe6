"""The screen of `kaywatch top`, from given answers: at every size, for every name."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions, RenderableType
from rich.screen import Screen

from kaywatch_agent.cli.graph_tables import graph_table
from kaywatch_agent.cli.tables import shorten, show_nodes
from kaywatch_agent.cli.top.layout import (
    SORTS,
    Display,
    ViewOptions,
    render_list,
    render_screen,
)
from kaywatch_agent.cli.top.state import (
    Answers,
    Query,
    count_covered_seconds,
    node_rows,
)
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
        "services": ["shop"],
        "graphs": ["checkout"],
        "total_executions": 1_234_567,
        "outcomes": {"ok": 1_185_185, "error": 49_382, "suppressed": 0, "fallback": 0},
        "success_rate": 0.96,
        "error_rate": 0.04,
        "min_success_rate": 0.95,
        "total_retries": 123_456,
        "p50_execution_time": 0.0123,
        "p95_execution_time": 0.9996,
        **more,
    }


NOW = 1_000_005.0


def client(state: str = "connected", *ages: float) -> dict[str, Any]:
    flights = [{"node": "pay", "graph": "checkout", "start": NOW - age} for age in ages]
    figures = {"state": state, "events": 90, "recorded": 100, "service": "shop"}
    return {**figures, "in_flight": flights}


def graph(name: str, **more: Any) -> dict[str, Any]:
    return {
        "graph": name,
        "services": ["shop"],
        "total_executions": 1_234_567,
        "outcomes": {"ok": 1_185_185, "error": 49_382, "suppressed": 0, "fallback": 0},
        "success_rate": 0.96,
        "dead_ends": 12_345,
        "never_reached": ["refund"],
        "max_execution_time": 754.0,
        "retries": 123_456,
        "fallbacks": 12_345,
        "cost_usd": 1234.5,
        **more,
    }


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
    place = {"service": "shop", "graph": "checkout", "node": "pay"}
    defaults: dict[str, Any] = {
        "clients": [client()],
        "graphs": [],
        "runs": [],
        "nodes": list(nodes),
        "costs": {("shop", "checkout", "pay"): 1.5},
        "llm": {"totals": totals},
        "failures": [
            {**place, "type": "A" * 60, "time": None, "outcome": "error"},
            {**place, "type": "Older", "time": 1.0, "outcome": "error"},
        ],
    }
    query = more.pop("query", Query())
    return Answers(query, health, **{**defaults, **more})


def draw_screen(
    display: Display, options: ViewOptions, width: int, height: int
) -> list[str]:
    """Return the lines of a full screen, as rich's Live draws it."""
    frame = render_screen(display, options, ConsoleDimensions(width, height))
    return render_lines(Screen(frame), width, height)


def render_lines(renderable: RenderableType, width: int, height: int) -> list[str]:
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
                lines = draw_screen(display, options, width, height)
                assert len(lines) == height
                assert {cell_len(line) for line in lines} == {width}
                assert all(line.isprintable() for line in lines)


def test_shortened_names_keep_their_ends() -> None:
    display = Display("http://127.0.0.1:9477", answers(*map(node, NAMES)))
    lines = render_lines(render_list(display, ViewOptions("name"), 80), 80, 24)

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


@pytest.mark.parametrize("trouble", [[], ["stuck"]])
def test_a_node_with_a_stuck_run_is_marked(trouble: list[str]) -> None:
    healthy = {"ok": 1_234_567, "error": 0, "suppressed": 0, "fallback": 0}
    slow = node("pay", error_rate=0.0, outcomes=healthy)
    place = {"service": "shop", "graph": "checkout", "node": "pay"}
    run = {**place, "trouble": trouble}
    (row,) = node_rows(
        answers(slow, clients=[client("connected", 1.0, 9.0)], runs=[run])
    )

    assert (row.in_flight, row.oldest) == (2, 9.0)
    assert row.stuck is row.unhealthy is bool(trouble)
    (dead,) = node_rows(answers(slow, clients=[client("died", 9.0)]))
    assert dead.in_flight == 0


def test_a_row_has_the_last_failure_and_the_cost_of_its_node() -> None:
    pay, other = node_rows(answers(node("pay"), node("other")))

    assert (pay.failure, pay.failed_ago, pay.cost) == ("A" * 60, None, 1.5)
    assert (other.failure, other.cost) == ("", None)


def test_a_rate_covers_the_part_of_the_window_with_data() -> None:
    # Whole buckets of ten seconds, but not before the first data.
    assert count_covered_seconds(answers(query=Query("1m"))) == 65.0
    young = answers(query=Query("1h"))
    young.health["since"] = 1_000_000.0  # type: ignore[index]
    assert count_covered_seconds(young) == 5.0
    (row,) = node_rows(answers(node("pay", total_executions=130), query=Query("1m")))
    assert row.rate == 2.0


def test_a_problem_of_the_agent_is_in_the_header() -> None:
    full = Display("http://127.0.0.1:9477", answers(problem="the disk is full"))
    head = [line.rstrip() for line in draw_screen(full, ViewOptions(), 80, 24)]
    assert "degraded" in head[0]
    assert head[3] == "store: the disk is full"

    unreachable = full._replace(problem="no agent answers")
    (line, *_) = draw_screen(unreachable, ViewOptions(), 80, 24)
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
    assert re.match(
        r"Summ.*….*rise +1,234,567 +96.0 % +0 +20ms +1s +30ms +123,456$", line
    )


def test_names_of_graphs_make_room_for_their_figures() -> None:
    graphs = [graph("Summarise" * 8), graph("b" * 60, services=["x" * 40])]
    *_, first, second = render_lines(graph_table(graphs), 80, 24)

    figures = r"1,234,567 +96.0 % +12,345 +1 +12m +123,456 +12,345 +\$1,234.50 *$"
    for line in (first, second):
        assert cell_len(line) <= 80
        assert re.search(figures, line)
    assert "…" in first and "…" in second


def test_top_shows_graphs_and_the_run_to_look_at() -> None:
    run = {
        "service": "shop",
        "graph": "checkout",
        "node": "pay",
        "run": "r1",
        "visits": 1_985,
    }
    runs = [{**run, "start": NOW - 61.0, "trouble": ["looping"]}]
    shown = answers(node("pay"), graphs=[graph("checkout")] * 9, runs=runs)
    lines = draw_screen(Display("http://x", shown), ViewOptions(), 80, 24)

    text = "\n".join(line.rstrip() for line in lines)
    assert "Graphs, last 5m   3 of 9" in text
    assert "1 run in progress; checkout at pay: 1,985 visits, 1m 1s old, loop" in text
    assert "  pay" in text


def test_a_node_whose_fallbacks_hide_its_failures_is_unhealthy() -> None:
    hidden = {"ok": 90, "error": 0, "suppressed": 1, "fallback": 9}
    masked = node("b", error_rate=0.0, total_executions=100, outcomes=hidden)
    failed = {"ok": 92, "error": 8, "suppressed": 0, "fallback": 0}
    failing = node("a", error_rate=0.08, total_executions=100, outcomes=failed)
    display = Display("http://x", answers(failing, masked))
    rows = node_rows(display.answers)

    assert [row.unhealthy for row in rows] == [True, True]
    lines = render_lines(render_list(display, ViewOptions(), 120), 120, 24)
    assert [line[:3] for line in lines if line.startswith("!")] == ["! b", "! a"]
    out = Console(width=80, markup=False, highlight=False, emoji=False)
    with out.capture() as capture:
        times = {"avg_execution_time": 0.02, "max_execution_time": 0.03}
        healthy = node("c", outcomes={**failed, "ok": 1, "error": 0})
        show_nodes(out, [{**n, **times} for n in (failing, healthy, masked)], "Nodes")
    names = [line.split()[0] for line in capture.get().splitlines()[2:]]
    assert names == ["b", "a", "c"]


def test_the_same_node_of_two_services_has_two_rows() -> None:
    here, there = node("pay"), node("pay", services=["blog"], error_rate=1.0)
    lines = render_lines(
        render_list(Display("http://x", answers(here, there)), ViewOptions(), 120),
        *(120, 24),
    )

    assert sum("pay" in line and "shop" in line for line in lines) == 1
    assert sum("pay" in line and "blog" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("lowest", "errors", "is_marked"),
    [
        (0.95, 5, False),
        (0.95, 6, True),
        (0.7, 30, False),
        (0.7, 31, True),
        (0.999, 1, True),
        (None, 100, False),  # no rule applies
    ],
)
def test_a_node_is_marked_by_the_threshold_of_its_own_rules(
    lowest: float | None, errors: int, is_marked: bool
) -> None:
    outcomes = {"ok": 100 - errors, "error": errors, "suppressed": 0, "fallback": 0}
    figures = {"success_rate": 1 - errors / 100, "error_rate": errors / 100}
    one = node("a", total_executions=100, outcomes=outcomes, **figures)
    (row,) = node_rows(answers({**one, "min_success_rate": lowest}))

    assert row.unhealthy is is_marked

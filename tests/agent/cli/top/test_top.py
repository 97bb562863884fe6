"""`kaywatch top` on a real terminal, with a real agent."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests import forks
from tests.agent.cli.top.pushing import COMMAND, HANGING, push, push_shop, row
from tests.agents import DEADLINE, Agent, running_agent
from tests.terminals import BEGIN, END, ENTER, Terminal, on_terminal

CLEAR = b"\x1b[2J"


@pytest.fixture(scope="module")
def shop() -> Iterator[Agent]:
    """An agent that has seen a little; for tests that only look."""
    with running_agent() as agent:
        push_shop(agent)
        yield agent


@pytest.fixture
def lone() -> Iterator[Agent]:
    """An agent of the test's own."""
    with running_agent() as agent:
        yield agent


def top(agent: Agent, *options: str, columns: int = 80, lines: int = 24) -> Any:
    return on_terminal(["kaywatch", "top", *options], agent.environment, columns, lines)


def order(terminal: Terminal) -> list[str]:
    """Return the nodes from top to bottom."""
    lines = terminal.lines
    start = next((n for n, line in enumerate(lines) if line.startswith("  node")), None)
    if start is None:
        return []
    return [line[2:].split()[0] for line in lines[start + 1 : -1] if line.strip()]


def header(terminal: Terminal) -> str:
    return terminal.line("node")


def test_at_80_columns_the_failing_node_is_first_and_marked(shop: Agent) -> None:
    with top(shop) as terminal:
        terminal.shows("Nodes, last 5m", "q quit")

        assert order(terminal) == ["pay", "draft", "load", "sweep"]
        assert terminal.line("pay").startswith("! pay ")
        assert terminal.line("load").startswith("  load ")
        style = terminal.styles("pay")
        assert (style.fg, style.bold) == ("red", True)
        assert terminal.styles("load").fg == "default"

        # On a loaded machine, it may be late, and report it.
        terminal.until(lambda: ": healthy, " in terminal.lines[0], "it is healthy")
        lines = terminal.lines
        assert re.match(
            rf"kaywatch \S+ at {shop.url}: healthy, up .* \d\d:\d\d:\d\d$", lines[0]
        )
        assert re.match(
            r"\d clients   .*   100.0 % complete   agent \d+.* MiB   store", lines[1]
        )
        assert lines[2] == "models: 1 call, 0 failed, $0.25, $0.00 wasted"
        assert len(lines) == 24 and lines[-1].startswith(" n name  r rate")
        for name in ("rate/s", "errors", "p95", "in flight", "cost", "last failure"):
            assert name in header(terminal)
        pay, draft = terminal.line("pay"), terminal.line("draft")
        assert re.search(r" 20.0 % +30\dms +- +- +\d+s CardDeclined$", pay)
        assert re.search(r" 0.0 % +1\.\d+s +- +\$0.25$", draft)


def test_a_wide_terminal_shows_more_columns(shop: Agent) -> None:
    with top(shop, columns=120, lines=40) as terminal:
        terminal.shows("last failure")
        names = header(terminal).split()
        expected = "node graph service rate/s ok errors retries p50 p95 in flight cost"
        assert names == [*expected.split(), "last", "failure"]
        line = terminal.line("pay")
        assert re.search(r"^! pay +checkout +shop .* 80.0 % +20.0 % ", line)
        assert re.search(r" 100.0 % +0.0 % +29 ", terminal.line("draft"))


def test_a_narrow_terminal_shows_the_most_important_columns(shop: Agent) -> None:
    with top(shop, "--sort", "cost", columns=40, lines=8) as terminal:
        terminal.shows("Nodes, last 5m")
        # What is sorted by is always seen.
        assert header(terminal).split() == ["node", "rate/s", "errors", "cost"]
        # An agent that is late, on a loaded machine, has a line about it.
        terminal.until(lambda: order(terminal) == ["draft"], "there is one line")
        assert "1 to 1 of 4" in terminal.text


def test_keys_sort_and_the_same_key_again_reverses_the_order(shop: Agent) -> None:
    with top(shop) as terminal:
        terminal.shows("Nodes")
        for key, column, nodes in (
            ("n", "node", ["draft", "load", "pay", "sweep"]),
            ("n", "node", ["sweep", "pay", "load", "draft"]),
            ("r", "rate/s", ["load", "draft", "pay", "sweep"]),
            ("l", "p95", ["sweep", "draft", "pay", "load"]),
            ("c", "cost", ["draft", "load", "pay", "sweep"]),
            ("t", "retries", ["draft", "load", "pay", "sweep"]),
            ("e", "errors", ["pay", "draft", "load", "sweep"]),
        ):
            terminal.press(key)
            terminal.until(
                lambda n=nodes, c=column: (
                    order(terminal) == n
                    and c in terminal.text
                    and terminal.styles(c).underscore
                ),
                f"{key}: {nodes}",
            )


def test_a_key_changes_the_window(shop: Agent) -> None:
    with top(shop, "--window", "10m") as terminal:
        terminal.shows("last 10m")
        for key, window in (("w", "15m"), ("w", "1h"), ("W", "15m"), ("W", "10m")):
            terminal.press(key)
            terminal.shows(f"Nodes, last {window}")


def test_help_opens_and_closes(shop: Agent) -> None:
    with top(shop) as terminal:
        terminal.shows("Nodes")
        for leave in ("?", "\x1b", "h"):
            terminal.press("?")
            terminal.shows("sort by the age of the oldest", "more failures than a rule")
            assert max(map(len, terminal.lines)) <= 80
            terminal.press(leave)
            terminal.shows("Nodes, last 5m")


def test_it_scrolls_through_more_nodes_than_lines(lone: Agent) -> None:
    push(lone, *(row(f"node-{n:02}") for n in range(60)))
    with top(lone, "--sort", "name") as terminal:
        terminal.until(lambda: shown(terminal)[0] == 1, "it shows the first nodes")
        for key, is_right in (
            ("\x1b[B", lambda old, new: new[0] == old[0] + 1),
            ("j", lambda old, new: new[0] == old[0] + 1),
            ("k", lambda old, new: new[0] == old[0] - 1),
            ("\x1b[A", lambda old, new: new[0] == 1),
            ("\x1b[A", lambda old, new: new[0] == 1),
            ("\x1b[6~", follows),
            (" ", follows),
            ("\x1b[F", lambda old, new: new[1] >= 58),
            ("\x1b[B", lambda old, new: new[1] >= 58),
            ("\x1b[5~", lambda old, new: follows(new, old)),
            ("\x1bOH", lambda old, new: new[0] == 1),
        ):
            old = shown(terminal)
            terminal.press(key)
            terminal.until(
                lambda o=old, right=is_right: right(o, shown(terminal)), f"{key!r}"
            )


def shown(terminal: Terminal) -> tuple[int, int]:
    """Return the first and last of the nodes that it shows, from 1.

    How many these are varies: an agent that is late, on a loaded machine, has lines
    about it.
    """

    def one_image() -> tuple[int, int] | None:
        text, names = terminal.text, order(terminal)
        title = re.search(r"(\d+) to (\d+) of 60", text)
        first, last = (int(title[1]), int(title[2])) if title else (0, -1)
        expected = [f"node-{n:02}" for n in range(first - 1, last)]
        return (first, last) if title and names == expected else None

    result: tuple[int, int] = terminal.until(one_image, "the title and the nodes agree")
    return result


def follows(earlier: tuple[int, int], later: tuple[int, int]) -> bool:
    """Return whether a page follows another, with lines in common."""
    return earlier[0] + 10 < later[0] <= earlier[1] < later[1]


def test_it_adapts_to_the_size_of_the_terminal(shop: Agent) -> None:
    with top(shop) as terminal:
        terminal.shows("q quit")
        for columns, lines in ((120, 40), (50, 12), (80, 24)):
            terminal.resize(columns, lines)

            def fits(columns: int = columns, lines: int = lines) -> bool:
                shown = terminal.lines
                return (
                    len(shown) == lines
                    and shown[0].startswith("kaywatch")
                    and shown[-1].startswith(" n name")
                    and ("graph" in header(terminal)) == (columns == 120)
                    and order(terminal)[:1] == ["pay"]
                )

            terminal.until(fits, f"it fits {columns} x {lines}")


def test_it_redraws_without_clearing(shop: Agent) -> None:
    with top(shop, "--interval", "0.2") as terminal:
        terminal.until(lambda: terminal.written.count(END) > 5, "some frames")
        frames = terminal.written.partition(BEGIN)[2]
        assert CLEAR not in frames
        # Whole frames, and nothing between them.
        between = {part.partition(END)[2] for part in frames.split(BEGIN)[:-1]}
        assert between == {b""}


def test_an_execution_in_flight_is_shown_with_its_age(lone: Agent) -> None:
    child = lone.spawn(HANGING, KAYWATCH_SERVICE="worker")
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    with top(lone, "--interval", "0.2") as terminal:
        terminal.until(
            lambda: re.search(r" 0 .* 1 \(\d.*m?s\)", terminal.line("hanging")),
            "it is in flight, though it never ended",
        )
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.close()
        terminal.until(
            lambda: re.search(r" 0.0 % .* -$", terminal.line("hanging")), "it has ended"
        )


def test_a_dead_process_is_counted_and_has_nothing_in_flight(lone: Agent) -> None:
    child = lone.spawn(HANGING)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    with top(lone, "--interval", "0.2") as terminal:
        terminal.shows("1 client ", "hanging")
        child.kill()
        terminal.shows("0 clients, 1 died")
        assert terminal.line("before") and not terminal.line("hanging")


def test_it_survives_a_restart_of_the_agent(lone: Agent) -> None:
    push(lone, row("pay"))
    with top(lone, "--interval", "0.2") as terminal:
        terminal.shows("healthy", " pay ")
        lone.stop(signal.SIGKILL)
        terminal.shows("no answer since", "reconnecting")
        assert terminal.line("pay")  # the last figures stay
        terminal.press("n")
        terminal.until(lambda: terminal.styles("node ").underscore, "keys still work")

        lone.start("--http", lone.url.removeprefix("http://"))
        terminal.shows("healthy", " pay ")
        assert "no answer" not in terminal.text


@pytest.mark.parametrize(
    ("options", "nodes", "title"),
    [
        (["--service", "jobs"], ["sweep"], "last 5m, service jobs"),
        (["--graph", "nightly"], ["sweep"], "last 5m, graph nightly"),
        (["--node", "pay", "--node", "load"], ["pay", "load"], "node pay, load"),
        (["--node", "nobody"], ["Nothing"], "node nobody"),
    ],
)
def test_filters(shop: Agent, options: list[str], nodes: list[str], title: str) -> None:
    with top(shop, *options) as terminal:
        terminal.shows(title)
        assert (order(terminal) or ["Nothing"]) == nodes


# -- the terminal is given back ------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("q", 0),
        ("\x03", 0),
        (signal.SIGTERM, -signal.SIGTERM),
        (signal.SIGHUP, -signal.SIGHUP),
    ],
)
def test_the_terminal_is_restored_at_any_end(
    shop: Agent, end: str | int, code: int
) -> None:
    with top(shop) as terminal:
        terminal.shows("Nodes")
        assert not terminal.restored
        if isinstance(end, str):
            terminal.press(end)
        else:
            terminal.process.send_signal(end)

        assert terminal.ends() == code
        assert terminal.restored
        assert b"Traceback" not in terminal.written


def test_the_terminal_is_restored_before_an_error_is_printed() -> None:
    code = (
        "from kaywatch_agent.cli.top.terminal import LiveScreen\n"
        "with LiveScreen(lambda *_: []): raise RuntimeError('oops')"
    )
    with on_terminal([sys.executable, "-c", code], os.environ) as terminal:
        assert terminal.ends() == 1
        assert terminal.restored
        assert terminal.written.rfind(b"oops") > terminal.written.rfind(b"\x1b[?1049l")


def test_ctrl_z_restores_the_terminal_and_fg_continues(shop: Agent) -> None:
    shell = ["bash", "--norc", "--noprofile", "-i"]
    environment = {**shop.environment, "PS1": "ready> "}
    with on_terminal(shell, environment) as terminal:
        terminal.shows("ready>")
        command = shlex.join(COMMAND)
        terminal.press(f"clear; {command} top\n")
        terminal.shows("Nodes, last 5m", "q quit")

        terminal.press("\x1a")
        terminal.until(lambda: b"Stopped" in terminal.written, "it has stopped")
        assert terminal.written.rfind(b"\x1b[?1049l") > terminal.written.rfind(ENTER)
        terminal.press("clear; stty -a\n")
        terminal.until(lambda: re.search(r"[^-]icanon", terminal.text), "stty says")
        assert re.search(r"[^-]echo ", terminal.text)

        terminal.press("clear; fg\n")
        terminal.shows("Nodes, last 5m", "q quit")
        terminal.press("n")
        terminal.until(lambda: terminal.styles("node ").underscore, "keys work again")
        terminal.press("q")
        terminal.until(
            lambda: terminal.written.rfind(b"ready>") > terminal.written.rfind(ENTER),
            "the shell is back",
        )


def test_it_ends_when_the_terminal_is_closed(shop: Agent) -> None:
    terminal = Terminal(["kaywatch", "top"], shop.environment, 80, 24)
    try:
        terminal.shows("Nodes")
        os.close(terminal._ours)
        assert terminal.process.wait(DEADLINE) in (0, -signal.SIGHUP)
    finally:
        terminal.process.kill()
        terminal.process.wait(DEADLINE)


# -- without a terminal --------------------------------------------------------------


def run_top_once(
    agent: Agent, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    env = {**agent.environment, **environment}
    return forks.run(agent.python, "top", *options, env=env)


def test_without_a_terminal_the_nodes_are_printed_once(shop: Agent) -> None:
    done = run_top_once(shop, COLUMNS="80")

    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("kaywatch ")
    assert re.search(r"^! pay .* 20.0 % ", done.stdout, re.MULTILINE)
    assert "q quit" not in done.stdout


def test_once_also_works_on_a_terminal(shop: Agent) -> None:
    with top(shop, "--once", "--sort", "name") as terminal:
        assert terminal.ends() == 0
        assert ENTER not in terminal.written
        assert order(terminal) == ["draft", "load", "pay", "sweep"]
        assert terminal.styles("pay").fg == "red"


def test_json_has_all_answers_of_the_agent(shop: Agent) -> None:
    document = json.loads(run_top_once(shop, "--json", "--service", "jobs").stdout)

    names = {"health", "clients", "graphs", "runs", "nodes", "llm", "failures"}
    assert set(document) == names
    assert [node["node"] for node in document["nodes"]] == ["sweep"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--url", "http://127.0.0.1:1"], 1, "no agent answers at http://127.0.0.1:1"),
        (["--window", "5x"], 2, 'invalid duration "5x": expected a number'),
        (["--sort", "size"], 2, "'size' is not one of 'name', 'rate'"),
    ],
)
def test_errors_are_one_clear_line(
    shop: Agent, options: list[str], code: int, message: str
) -> None:
    done = run_top_once(shop, *options)
    assert done.returncode == code
    assert message in done.stderr
    with top(shop, *options) as terminal:
        assert terminal.ends() == code
        assert ENTER not in terminal.written

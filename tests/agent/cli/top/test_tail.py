"""`kaywatch tail` in pipes and on terminals, with a real agent."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests import forks
from tests.agent.cli.top.pushing import COMMAND, push, push_shop, row
from tests.agents import DEADLINE, Agent, running_agent, until
from tests.terminals import Terminal, on_terminal

from kaywatch_agent.cli.top.tail import LineFormatter

# Sections of a line: time, outcome, duration, node, and the rest.
LINE = re.compile(r"\d\d:\d\d:\d\d\.\d{3} (\w+) +([\d.]+\w+)  (\S+) +(.*)")


@pytest.fixture
def lone() -> Iterator[Agent]:
    with running_agent() as agent:
        yield agent


class Tail:
    """One `kaywatch tail` in a pipe, read as it prints."""

    def __init__(self, agent: Agent, *options: str) -> None:
        self.lines: list[str] = []
        self.notices: list[str] = []
        out, stdout = os.pipe()
        err, stderr = os.pipe()
        self.process = forks.start(
            *(agent.python, "tail", *options),
            env=agent.environment,
            stdout=stdout,
            stderr=stderr,
        )
        os.close(stdout)
        os.close(stderr)
        self._readers = [
            threading.Thread(target=self._read, args=pair)
            for pair in ((out, self.lines), (err, self.notices))
        ]
        for reader in self._readers:
            reader.start()

    def until(self, count: int) -> list[str]:
        """Wait for a number of lines; return them."""
        until(lambda: len(self.lines) >= count, f"{count} lines: {self.lines}")
        return self.lines

    def ends(self) -> int:
        code = self.process.wait(DEADLINE)
        for reader in self._readers:
            reader.join(DEADLINE)
        return code

    def _read(self, stream: int, into: list[str]) -> None:
        with open(stream) as lines:
            for line in lines:
                into.append(line.rstrip("\n"))


def subscriber_count(agent: Agent) -> int:
    body = subprocess.run(
        ["curl", "-s", f"{agent.url}/metrics"], capture_output=True, text=True
    ).stdout
    (result,) = re.findall(r"^kaywatch_event_subscribers (\d+)", body, re.MULTILINE)
    return int(result)


def clock(text: str) -> float:
    """Return the latest moment at which it was so late, local time."""
    return time.mktime(time.strptime(time.strftime("%x ") + text, "%x %H:%M:%S"))


@contextlib.contextmanager
def tailing(agent: Agent, *options: str) -> Iterator[Tail]:
    """Have one listen within the block."""
    before = subscriber_count(agent)
    tail = Tail(agent, *options)
    try:
        until(lambda: subscriber_count(agent) > before, "it listens")
        yield tail
    finally:
        tail.process.kill()
        tail.ends()


def test_a_line_for_each_execution_of_real_processes(lone: Agent) -> None:
    with tailing(lone) as tail:
        push_shop(lone)
        lines = tail.until(91)

    result = [LINE.fullmatch(line) for line in lines]
    assert all(result), lines
    nodes = [match[3] for match in result if match]
    assert {n: nodes.count(n) for n in nodes} == {
        "load": 40,
        "pay": 20,
        "draft": 30,
        "sweep": 1,
    }
    # This sender reports no time.
    (sweep,) = [line for line in lines if "sweep" in line]
    since = time.time() - clock(sweep[:8])
    assert since % 86_400 < 60
    assert re.search(r"ok +4s  sweep +default +nightly +jobs \d+$", sweep)
    assert any("default, 2 attempts" in line for line in lines if "draft" in line)
    failed = [line for line in lines if " error " in line]
    # A message is one line, and commands no terminal.
    assert len(failed) == 4
    assert "CardDeclined: no money left on �[31mcard 0  checkout" in failed[0]
    assert not any("\x1b" in line for line in lines)
    assert tail.notices == []


@pytest.mark.parametrize(
    ("options", "nodes"),
    [
        (["--failures"], ["b", "c", "d"]),
        (["--node", "a", "--node", "e"], ["a", "e"]),
        (["--graph", "other"], ["e"]),
        (["--service", "shop", "--outcome", "ok"], ["a", "e"]),
        (["--outcome", "error", "--outcome", "cancelled"], ["b", "f"]),
        (["--slower-than", "2s"], ["d", "e"]),
        (["--slower-than", "1500ms", "--failures"], ["c", "d"]),
    ],
)
def test_filters(lone: Agent, options: list[str], nodes: list[str]) -> None:
    with tailing(lone, *options, "--limit", str(len(nodes))) as tail:
        push(lone, row("x", 9.0, outcome="suppressed", graph="x"), service="y")
        outcomes = ("ok", "error", "fallback", "suppressed", "ok", "cancelled")
        events = zip("abcdef", outcomes, range(6), strict=True)
        rows = [row(n, s * 0.9, outcome=o) for n, o, s in events]
        rows[4]["graph"] = "other"
        expected = [*nodes]
        if not {"--service", "--node", "--graph"} & set(options):
            # Of another service and graph, and all that the others ask for.
            required = "suppressed" if "--outcome" not in options else ""
            expected = ["x", *nodes][: len(nodes)] if required else nodes
        push(lone, *rows)
        assert tail.ends() == 0

    result = [match[3] for match in map(LINE.fullmatch, tail.lines) if match]
    assert result == expected


def test_json_is_one_object_per_line(lone: Agent) -> None:
    with tailing(lone, "--json", "--rate", "2", "--limit", "2") as tail:
        push(lone, *(row("pay", n) for n in range(10)))
        assert tail.ends() == 0

    result = [json.loads(line) for line in tail.lines]
    assert [f["event"] for f in result if f["event"] != "missed"] == ["execution"] * 2
    assert {"time", "node", "seconds", "outcome", "pid"} <= set(result[0])
    assert tail.notices == []


def test_missed_events_are_reported_on_stderr(lone: Agent) -> None:
    with tailing(lone, "--rate", "2") as tail:
        push(lone, *(row("pay", n) for n in range(10)))
        until(lambda: tail.notices, "the notice is printed")
    assert tail.notices[0].startswith("kaywatch: not shown: 8 above --rate")
    assert len(tail.lines) == 2


def test_runs_are_shown_with_the_option(lone: Agent) -> None:
    flow = (
        "import kaywatch; kaywatch.instrument()\n"
        "from pocketflow import Flow, Node\n"
        "class Only(Node): pass\n"
        "Flow(start=Only()).run({})\n"
    )
    with tailing(lone, "--runs", "--limit", "2") as tail:
        lone.run(flow, KAYWATCH_SERVICE="flows")
        assert tail.ends() == 0
    (run,) = [line for line in tail.lines if "(run)" in line]
    assert re.search(
        r"ok .* \(run\) +no successors at Only with default, 1 visit  Flow\[Only\]", run
    )


def test_a_closed_pipe_ends_it_silently(lone: Agent) -> None:
    command = shlex.join(COMMAND)
    pipe = lone.start_process(
        *("bash", "-c", f'{command} tail | head -n 2; echo "${{PIPESTATUS[0]}}"'),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until(lambda: subscriber_count(lone), "it listens")
    # Then nothing happens any more, and still it ends.
    push(lone, row("pay"), row("pay"))
    out, err = pipe.communicate(timeout=DEADLINE)

    lines = out.splitlines()
    assert [bool(LINE.fullmatch(line)) for line in lines] == [True, True, False]
    assert (lines[-1], err) == ("0", "")
    until(lambda: not subscriber_count(lone), "the agent knows")


def test_ctrl_c_ends_it_without_an_error(lone: Agent) -> None:
    with tailing(lone) as tail:
        push(lone, row("pay"))
        tail.until(1)
        tail.process.send_signal(signal.SIGINT)
        assert tail.ends() == 0
        assert tail.notices == []


def test_it_reconnects_after_a_restart_of_the_agent(lone: Agent) -> None:
    address = lone.url.removeprefix("http://")
    with tailing(lone, "--node", "pay", "--limit", "2") as tail:
        push(lone, row("pay", 0.125))
        tail.until(1)
        lone.stop(signal.SIGKILL)
        until(lambda: tail.notices, "the notice is printed")
        assert tail.notices == [
            f"kaywatch: the agent at {lone.url} does not answer; waiting for it"
        ]
        lone.start("--http", address)
        until(lambda: len(tail.notices) == 2, "the notice is printed")
        assert "answers again" in tail.notices[1]
        push(lone, row("other"), row("pay", 0.25))
        assert tail.ends() == 0
    assert [LINE.fullmatch(line)[2] for line in tail.lines] == ["125ms", "250ms"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--url", "http://127.0.0.1:1"], 1, "no agent answers at http://127.0.0.1:1"),
        (["--node", "x" * 201], 1, "expected a text of at most 200 characters"),
        (
            ["--slower-than", "2x"],
            2,
            'invalid duration "2x": expected a number with s, m, h or d',
        ),
        (["--outcome", "fine"], 2, "'fine' is not one of 'ok', 'error'"),
    ],
)
def test_errors_are_one_clear_line(
    lone: Agent, options: list[str], code: int, message: str
) -> None:
    tail = Tail(lone, *options)

    assert tail.ends() == code
    assert tail.lines == []
    assert message in " ".join(" ".join(tail.notices).split())
    assert "Traceback" not in "".join(tail.notices)


# -- on a terminal -------------------------------------------------------------------


@contextlib.contextmanager
def on_screen(agent: Agent, *options: str, columns: int = 80) -> Iterator[Terminal]:
    command = ["kaywatch", "tail", *options]
    with on_terminal(command, agent.environment, columns) as terminal:
        until(lambda: subscriber_count(agent), "it listens")
        yield terminal


def test_on_a_terminal_lines_are_coloured_and_cut(lone: Agent) -> None:
    with on_screen(lone) as terminal:
        push(lone, row("pay", 0.5, action="a" * 90), row("pay", outcome="error"))
        terminal.shows(" ok ", " error ")
        lines = [line for line in terminal.lines if line]
        assert [len(line) for line in lines][:1] == [80]
        assert lines[0].endswith("a…")
        assert len(lines) == 2
        assert (terminal.styles(" ok "[1:]).fg, terminal.styles("error").fg) == (
            "green",
            "red",
        )
        terminal.resize(120, 24)
        push(lone, row("pay", 0.5, action="b" * 200))
        terminal.until(
            lambda: any(len(line) == 120 for line in terminal.lines), "it is wider"
        )
        terminal.press("\x03")
        assert terminal.ends() == 0
        assert b"Traceback" not in terminal.written


def test_at_80_columns_a_usual_line_is_not_cut(lone: Agent) -> None:
    with on_screen(lone) as terminal:
        push(lone, row("Retrieve", 0.0123, action="default"), service="support-desk")
        end = f"Retrieve  default  checkout  support-desk {os.getpid()}"
        terminal.shows(f"ok          12.3ms  {end}")


# -- lines ---------------------------------------------------------------------------


def event(**more: Any) -> dict[str, Any]:
    return {
        "time": 1_700_000_000.9996,
        "service": "shop",
        "graph": "checkout",
        "node": "pay",
        "outcome": "ok",
        "seconds": 0.5,
        "attempts": 1,
        "action": "default",
        "type": "",
        "message": "",
        "pid": 0,
        **more,
    }


def test_columns_stay_aligned_except_after_a_very_long_cell() -> None:
    formatter = LineFormatter()
    made = [
        formatter.format(event(node=name)).plain
        for name in ("notification", "pay", "x" * 50, "pay")
    ]

    assert made[0].index("default") == made[1].index("default")
    assert made[3].index("default") == made[1].index("default") + 12
    assert made[0].endswith("checkout  shop -")


def test_a_line_contains_the_outcome_as_text() -> None:
    formatter = LineFormatter()
    error = event(outcome="fallback", attempts=3, type="OSError", message="a\nb\tc")
    text = formatter.format(error).plain

    assert re.match(r"\d\d:\d\d:\d\d\.999 fallback ", text)
    assert "OSError after 3 attempts: a b c -> default  checkout" in text
    bare = formatter.format(
        event(action="", outcome="error", type="KeyError", graph="")
    )
    assert "KeyError" in bare.plain and "KeyError:" not in bare.plain

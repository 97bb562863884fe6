"""Run each benchmark with minimal effort; its figures are meaningless."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.agents import running_agent
from tests.bench import __main__ as program
from tests.bench import bench_alerts, bench_http, bench_scaling
from tests.bench.load import Clients, known_series_load
from tests.bench.modules import NAMES, measure_module
from tests.bench.plots import draw_plots
from tests.bench.report import (
    Figure,
    Promise,
    Row,
    as_json,
    missing_figure,
    print_table,
    summarize,
)
from tests.bench.rounds import SMOKE, Effort, interleave, next_line, run_in_process


def measure_all(names: Sequence[str]) -> dict[str, list[Row]]:
    return {name: measure_module(name, SMOKE) for name in names}


# Two that need neither servers nor other processes, and that measure the whole path.
SHORT = ["client", "store"]
LONG = [name for name in NAMES if name not in SHORT]


def test_every_benchmark_can_be_imported() -> None:
    assert {*SHORT} < {*NAMES}
    for name in NAMES:
        module = importlib.import_module(f"tests.bench.bench_{name}")
        assert next(iter(inspect.signature(module.measure).parameters)) == "effort"


# A new process takes a second to import what they measure, so several share one.
@pytest.mark.parametrize(
    "names",
    [SHORT, *(pytest.param(LONG[n::3], marks=pytest.mark.long) for n in range(3))],
    ids=repr,
)
def test_a_benchmark_has_rows(names: Sequence[str]) -> None:
    seconds = SMOKE.seconds * len(names)
    for name, rows in run_in_process(seconds, measure_all, names).items():
        assert rows, name
        assert len({row.what for row in rows}) == len(rows)
        for row in rows:
            assert row.ours.median is not None
            assert row.ours.rounds


@pytest.mark.parametrize("series", {bench_alerts.ALERTS, bench_http.SERIES})
def test_all_series_of_a_full_row_are_within_the_default_limits(series: int) -> None:
    with running_agent() as agent, known_series_load(agent, series) as push:
        push(1)
        assert {client["overflow"] for client in agent.clients()} == {0}
        assert sum(agent.executions().values()) >= 2 * series


def test_a_load_beyond_the_limits_is_not_measured(tmp_path: Path) -> None:
    config = tmp_path / "kaywatch.toml"
    config.write_text("[limits]\nseries_per_client = 9\n")
    with (
        running_agent(sys.executable, "--config", str(config)) as agent,
        pytest.raises(AssertionError, match="executions are counted under __other__"),
        known_series_load(agent, 20),
    ):
        pass


def test_clients_can_be_separate_processes() -> None:
    with running_agent() as agent:
        for processes in (True, False):
            load = Clients(agent.socket, 2, 5, processes=processes)
            with contextlib.closing(load):
                load.push()
                load.settle()
                pids = {
                    client["pid"]
                    for client in agent.clients()
                    if client["state"] == "connected"
                }
            assert len(pids) == 2 if processes else pids == {os.getpid()}


def broken(name: str, effort: Effort) -> list[Row]:
    """Return a row for one module; fail, hang or die in the others."""
    if name == "alerts":
        raise ValueError("why")
    if name == "client":
        time.sleep(60)
    if name == "run":
        os._exit(3)
    return [row(summarize("kaywatch", [1.0]))]


def test_a_failing_module_does_not_affect_the_rows_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["alerts", "client", "run", "store"]
    out = tmp_path / "bench.json"
    monkeypatch.setattr(program, "measure_module", broken)
    monkeypatch.setattr(program, "FULL", Effort(1, seconds=1))
    monkeypatch.setattr(sys, "argv", ["bench", "--json", str(out), *names])

    assert program.main() == 1

    printed = capsys.readouterr().out
    assert "bench_alerts" in printed
    assert "FAILED: ValueError: why" in printed
    document = json.loads(out.read_text())
    assert document["failed"]["alerts"] == "ValueError: why"
    assert document["failed"]["client"] == "TimeoutError: not done within 1 s"
    assert "BrokenProcessPool" in document["failed"]["run"]
    assert [each["what"] for each in document["rows"]] == [
        *("bench_alerts", "bench_client", "bench_run", "what")
    ]


def test_the_exit_code_reports_a_failed_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(program, "measure_module", broken)
    monkeypatch.setattr(sys, "argv", ["bench", "store"])

    assert program.main() == 0


def test_waiting_for_output_has_a_deadline() -> None:
    with subprocess.Popen(["cat"], stdin=-1, stdout=-1, text=True) as silent:
        with pytest.raises(AssertionError, match="no line within"):
            next_line(silent, 0.1)
        silent.kill()


def row(ours: Figure, *peers: Figure, promise: Promise | None = None) -> Row:
    return Row("what", "ns", ours, promise, peers)


def test_a_figure_is_the_rounds_median_with_its_extremes() -> None:
    assert summarize("kaywatch", [3, 1, 7]) == Figure("kaywatch", 3, 1, 7, 3)


def test_a_ratio_is_the_peer_s_cost_over_ours() -> None:
    peer = summarize("statsd", [300.0])
    assert row(summarize("kaywatch", [100.0]), peer).ratio(peer) == 3


def test_a_promise_is_kept_or_not() -> None:
    assert Promise(100).is_met(100)
    assert not Promise(100).is_met(101)
    assert Promise(100, at_least=True).is_met(101)


def test_an_absent_peer_is_shown_with_the_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine = {
        "cpu": "some",
        "cores": 2,
        "python": "3",
        "kernel": "6",
        "date": "today",
        "load_average": 0.0,
        "versions": {},
    }
    gone = missing_figure("collectd", "not installed")
    shown = row(summarize("kaywatch", [120.0]), gone, promise=Promise(100))
    print_table([shown], machine)
    printed = capsys.readouterr().out
    assert "collectd: not installed" in printed
    assert "NO" in printed
    assert "times as much" not in printed
    as_read = json.loads(json.dumps(as_json(shown)))
    assert as_read["promise"]["kept"] is False
    assert as_read["peers"][0]["ratio"] is None


def scaling_run() -> dict[str, Any]:
    """Return the document of a run of `scaling`."""
    names = [
        *map(bench_scaling.client_row_name, bench_scaling.CLIENTS),
        *map(bench_scaling.series_row_name, bench_scaling.SERIES),
    ]
    ours = summarize("kaywatch", [3.0, 4.0])
    return {
        "machine": {
            "cpu": "some",
            "cores": 2,
            "python": "3",
            "date": "2026-11-30T05:00:00",
            "load_average": 0.0,
        },
        "rows": [as_json(Row(name, "% of a core", ours)) for name in names],
    }


@pytest.mark.long
def test_the_same_figures_result_in_the_same_plots(tmp_path: Path) -> None:
    draw_plots(scaling_run(), tmp_path)
    plots = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(plots) == {"scaling-clients.svg", "scaling-series.svg"}
    for plot, texts in {
        "scaling-clients.svg": ("5,000", "3.50 %", "CPU of the agent, % of a core"),
        "scaling-series.svg": ("50,000", "3.50 %", "CPU per event, ns"),
    }.items():
        for text in texts:
            assert f">{text}<" in plots[plot]
    draw_plots(scaling_run(), tmp_path)
    assert plots == {path.name: path.read_text() for path in tmp_path.iterdir()}


def test_a_run_without_a_figure_is_not_drawn(tmp_path: Path) -> None:
    run = scaling_run()
    run["rows"].pop(0)
    with pytest.raises(SystemExit, match="no figure for 'agent CPU, 50 clients"):
        draw_plots(run, tmp_path)
    assert not list(tmp_path.iterdir())


def test_each_round_starts_with_another_measure() -> None:
    taken: list[str] = []
    measurements = interleave(
        2, {name: lambda name=name: taken.append(name) for name in "ab"}
    )
    assert taken == ["a", "b", "b", "a"]
    assert {name: len(samples) for name, samples in measurements.items()} == {
        "a": 2,
        "b": 2,
    }

"""The settings of a process, and the life of its sender."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import types
from importlib.machinery import ModuleSpec

import pytest
from tests.agents import free_port, until

import kaywatch
from kaywatch._process import Process, process
from kaywatch._process import _program as program
from kaywatch._settings import Settings, settings_from_environment
from kaywatch.testing import MemoryTransport, capture


@pytest.mark.parametrize("value", ["false", "False", " 0 ", "no", "off"])
def test_environment_disables_collection(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("KAYGRAPH_COLLECT_METRICS", value)
    assert not settings_from_environment().enabled


@pytest.mark.parametrize("value", ["true", "1", "", "yes"])
def test_collection_is_enabled_otherwise(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("KAYGRAPH_COLLECT_METRICS", value)
    assert settings_from_environment().enabled


def test_tags_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KAYWATCH_TAGS", "zone=b, tier = web,zone=c,sum=1+1=2,empty=,")

    tags = settings_from_environment().tags

    assert tags == {"zone": "c", "tier": "web", "sum": "1+1=2", "empty": ""}
    assert not caplog.messages


def test_malformed_tags_are_logged_once_and_others_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KAYWATCH_TAGS", "zone, =b, tier=web")

    assert settings_from_environment().tags == {"tier": "web"}
    assert caplog.messages == [
        "KAYWATCH_TAGS: expected key=value,..., got ['zone', '=b']; ignored"
    ]


@pytest.mark.parametrize(
    ("argv", "spec", "name"),
    [
        (["/srv/shop.py"], None, "shop"),
        (["/srv/shop/__main__.py"], "shop.__main__", "shop"),
        (["/srv/shop.pyz"], "__main__", "shop"),
        (["-c"], None, "python"),
        ([""], None, "python"),
    ],
)
def test_service_is_named_after_its_program(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], spec: str | None, name: str
) -> None:
    main = types.ModuleType("__main__")
    main.__spec__ = ModuleSpec(spec, None) if spec else None
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", argv)

    assert program() == name


def test_invalid_setting_changes_nothing() -> None:
    before = process.settings
    with pytest.raises(kaywatch.ConfigurationError, match="unknown scheme"):
        kaywatch.configure(endpoint="smoke://signal", service="other")
    with pytest.raises(kaywatch.ConfigurationError, match="buffer_bytes=5"):
        kaywatch.configure(buffer_bytes=5)
    assert process.settings == before


def test_nothing_runs_before_the_first_event_and_after_a_stop() -> None:
    received: list[dict[str, object]] = []
    one = Process(Settings(connect=lambda: MemoryTransport(received)))
    assert one.stats()["recorded"] == 0
    assert one.flush(1.0)
    before = threading.active_count()

    one.recorder.series("g", "n").record(0.1)
    assert threading.active_count() == before + 1
    assert one.stop(2.0)
    assert threading.active_count() == before
    kinds = [message["type"] for message in received]
    assert kinds[0] == "hello"
    assert kinds[-1] == "bye"

    one.recorder.series("g", "n").record(0.1)
    assert one.stop(2.0)
    clients = {message["client"] for message in received}
    assert len(clients) == 2


def test_a_thread_that_waits_while_another_stops_the_sender_ends_quietly() -> None:
    sending, proceed = threading.Event(), threading.Event()

    class SlowTransport(MemoryTransport):
        def send(self, message: bytes) -> None:
            if threading.current_thread().name == "stopper":
                sending.set()
                assert proceed.wait(10.0)
            super().send(message)

    received: list[dict[str, object]] = []
    one = Process(Settings(connect=lambda: SlowTransport(received)))
    one.recorder.series("g", "n").record(0.1)
    assert one.flush(10.0)
    sender = one.sender
    assert sender is not None
    sender.pause()
    stopper = threading.Thread(target=sender.stop, args=(10.0,), name="stopper")
    stopper.start()
    assert sending.wait(10.0)
    before = threading.active_count()
    sender.start()
    assert threading.active_count() == before + 1
    proceed.set()
    stopper.join()

    # An exception in the thread would fail this test.
    until(lambda: threading.active_count() == before - 1, "the thread has ended")
    assert [message["type"] for message in received].count("bye") == 1


SLOW_IMPORT = """
import importlib.abc, os, sys, threading, time
import kaywatch
importing = threading.Event()
class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "paho.mqtt.client":
            importing.set()
            time.sleep(1.5)
sys.meta_path.insert(0, Slow())
with kaywatch.execution("g", "n"):
    pass
assert importing.wait(20)
pid = os.fork()
if pid == 0:
    from kaywatch._send.mqtt import MqttTransport
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""


def test_a_fork_during_the_import_of_a_transport_leaves_it_usable() -> None:
    endpoint = f"mqtt://127.0.0.1:{free_port()}"
    run = subprocess.run(
        [sys.executable, "-c", SLOW_IMPORT],
        env={**os.environ, "KAYWATCH_ENDPOINT": endpoint},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr


def test_a_flush_from_several_threads_answers_each() -> None:
    with capture():
        answers: list[bool] = []

        def work() -> None:
            for _ in range(20):
                with kaywatch.execution("g", "n"):
                    pass
                answers.append(kaywatch.flush(5.0))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [True] * 80


def test_an_execution_measures_blocks_functions_and_coroutines() -> None:
    @kaywatch.execution("g", "function")
    def double(x: int) -> int:
        """Double it."""
        return 2 * x

    @kaywatch.execution("g", "coroutine")
    async def triple(x: int) -> int:
        await asyncio.sleep(0)
        return 3 * x

    async def both() -> list[int]:
        return await asyncio.gather(triple(1), triple(2))

    with capture() as captured:
        with kaywatch.execution("g", "block") as block:
            block.action = "next"
            block.attempts = 3
        assert double(4) == 8
        assert asyncio.run(both()) == [3, 6]

    assert double.__doc__ == "Double it."
    (result,) = captured.executions("block")
    assert (result.action, result.attempts) == ("next", 3)
    assert len(captured.executions("function")) == 1
    assert len(captured.executions("coroutine")) == 2


def test_an_exception_goes_through_and_is_recorded_with_its_details() -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    with capture() as captured:
        with pytest.raises(OddError), kaywatch.execution("g", "odd"):
            raise OddError
        with pytest.raises(KeyboardInterrupt), kaywatch.execution("g", "cut"):
            raise KeyboardInterrupt

    (odd,) = captured.executions("odd")
    assert (odd.outcome.name, odd.error, odd.phase) == ("ERROR", "OddError", "exec")
    (cut,) = captured.executions("cut")
    assert cut.outcome.name == "CANCELLED"
    (failure,) = captured.failures()
    assert failure.message == "<__str__ raised RuntimeError>"


def test_metrics_belong_to_the_innermost_node_of_their_own_task() -> None:
    async def task(node: str) -> None:
        with kaywatch.execution("g", node):
            await asyncio.sleep(0)
            kaywatch.observe("size", 1.5)

    async def main() -> None:
        await asyncio.gather(task("a"), task("b"))

    with capture() as captured:
        kaywatch.count("outside")
        asyncio.run(main())
        with kaywatch.execution("g", "outer"):
            with kaywatch.execution("g", "inner"):
                kaywatch.gauge("level", 2, zone="x")
            kaywatch.count("left", 3)

    result = {(p.name, p.node): p for p in captured.points()}
    assert set(result) == {
        ("outside", ""),
        ("size", "a"),
        ("size", "b"),
        ("level", "inner"),
        ("left", "outer"),
    }
    assert result["level", "inner"].labels == {"zone": "x"}
    assert result["left", "outer"].value == 3


def test_llm_call_records_sums_by_model() -> None:
    with capture() as captured, kaywatch.execution("g", "ask"):
        kaywatch.record_llm(model="m", input_tokens=10, output_tokens=3, cost_usd=0.5)
        kaywatch.record_llm(model="m", input_tokens=1)

    sums: dict[str, float] = {}
    for point in captured.points():
        assert (point.node, point.labels) == ("ask", {"model": "m"})
        sums[point.name] = sums.get(point.name, 0) + point.value
    assert sums == {
        "llm_calls": 2,
        "llm_input_tokens": 11,
        "llm_output_tokens": 3,
        "llm_cost_usd": 0.5,
        "llm_unpriced_calls": 1,
    }


@pytest.mark.parametrize(
    "record",
    [
        lambda: kaywatch.observe("x", "no number"),  # type: ignore[arg-type]
        lambda: kaywatch.observe("x", float("nan")),
        lambda: kaywatch.count("x", None),  # type: ignore[arg-type]
        lambda: kaywatch.count("x", [-1]),  # type: ignore[arg-type]
        lambda: kaywatch.count(3),  # type: ignore[arg-type]
        lambda: kaywatch.gauge("x", 10**400),
        lambda: kaywatch.observe("x" * 1000, 1),
        lambda: kaywatch.observe("\ud800", 1, **{"\udfff": "\ud800"}),
        lambda: kaywatch.record_llm(model=None),  # type: ignore[arg-type]
    ],
)
def test_recording_invalid_values_never_raises_or_affects_others(
    record: object,
) -> None:
    with capture() as captured:
        kaywatch.observe("good", 1)
        record()  # type: ignore[operator]
        kaywatch.observe("good", 2)

    assert [p.value for p in captured.points("good")] == [1, 2]


@pytest.mark.parametrize(("graph", "node"), [(None, "n"), ("g", None), ("g", "")])
def test_invalid_name_raises_at_the_call(graph: object, node: object) -> None:
    with pytest.raises(kaywatch.ConfigurationError):
        kaywatch.execution(graph, node)  # type: ignore[arg-type]


def test_nothing_is_recorded_when_disabled() -> None:
    with capture() as captured:
        process.settings = process.settings._replace(enabled=False)
        with kaywatch.execution("g", "n") as e:
            e.action = "x"
            kaywatch.observe("x", 1)
        process.settings = process.settings._replace(enabled=True)

    assert captured.executions() == []
    assert captured.points() == []


def test_a_negative_count_is_warned_of_once_and_not_recorded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with capture() as captured:
        for value in (10, -3, -1):
            kaywatch.count("orders", value)

    assert [point.value for point in captured.points()] == [10]
    (record,) = caplog.records
    assert "kaywatch.count('orders', -3)" in record.getMessage()
    assert "kaywatch.gauge" in record.getMessage()

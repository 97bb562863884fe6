"""Names that are made per request are folded into patterns, and others are not."""

from __future__ import annotations

import hashlib
import uuid

import msgpack
import pocketflow
import pytest

import kaywatch
from kaywatch._names import MAX_SIBLINGS, NameFolder
from kaywatch._send.packer import Packer
from kaywatch._tables import MAX_SERIES
from kaywatch.recorder import Recorder, Topology
from kaywatch.testing import capture

ID = uuid.UUID("8d0ed4c8-ac00-4847-8670-b5fced4236c7")


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        (f"Sub_{ID}", "Sub_*"),
        (f"Sub{ID.hex}", "Sub*"),
        (f"Sub_{str(ID).replace('-', '_')}", "Sub_*"),
        (str(ID).upper(), "*"),
        (f"Flow[Sub_{ID}]", "Flow[Sub_*]"),
        (f"job-{ID.hex[:8]}-end", "job-*-end"),
        (f"job-{hashlib.sha256(b'x').hexdigest()}", "job-*"),
        ("t1795908015.53", "t*"),
        ("1795908015530-retry", "*-retry"),
        ("run 2026-11-28T23:18:33.123Z", "run *"),
        ("run 2026-11-28 23:18:33+01:00", "run *"),
        ("run_20261128_231833", "run_*"),
        ("call 01ARZ3NDEKTSV4RRFFQ69G5FAV", "call *"),
    ],
)
def test_an_id_is_folded_at_once(name: str, folded: str) -> None:
    assert NameFolder().node("g", name) == folded
    assert NameFolder().graph(name) == folded


@pytest.mark.parametrize(
    "name",
    [
        *("Load", "step1", "Node2", "sha256", "md5sum", "Base64Decode", "S3Upload"),
        *("gpt-4", "gpt-4-0613", "claude-3-5-sonnet-20241022", "v1.2.3"),
        *("facade", "deadbeef", "report_2026_11", "2026-11-28", "int32_to_float16"),
        *("Schritt 1", "étape2", "", "*"),
    ],
)
def test_other_names_stay(name: str) -> None:
    names = NameFolder()
    assert names.node("g", name) == name
    assert names.graph(name) == name
    assert not names.patterns


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ("req-{}", "req-*"),
        ("Req{}Handler", "Req*Handler"),
        ("user_{}_step_{}", "user_*_step_*"),
        ("Sub_{:04x}", "Sub_*"),
        ("{}", "*"),
    ],
)
def test_numbers_are_folded_once_there_are_many(form: str, pattern: str) -> None:
    names = NameFolder()
    originals = [form.format(number, number) for number in range(1_000, 3_000)]
    folded = [names.node("g", name) for name in originals]
    assert folded[:MAX_SIBLINGS] == originals[:MAX_SIBLINGS]
    assert set(folded[MAX_SIBLINGS:]) == {pattern}
    # The first ones keep their names, and so do those of other graphs.
    assert names.node("g", originals[0]) == originals[0]
    assert names.node("h", originals[-1]) == originals[-1]
    assert names.patterns == {("g", pattern)}


def test_names_per_request_never_fill_the_limit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = Recorder()
    for number in range(2 * MAX_SERIES):
        recorder.series("shop", f"Sub_{uuid.uuid4()}")
        recorder.series(f"req-{number}", "Load")
        recorder.point("count", "sold", "shop", f"item{number}")
    assert len(recorder.series_table.objects) == 1 + MAX_SIBLINGS + 1
    assert len(recorder.points_table.objects) == MAX_SIBLINGS + 1
    assert recorder.folded == 0
    assert len(caplog.messages) == 3
    assert "nodes of the graph 'shop'" in caplog.messages[0]
    assert "'Sub_*'" in caplog.messages[0]
    assert "kaywatch.name(...)" in caplog.messages[0]


def test_runs_topologies_and_failures_have_the_folded_names() -> None:
    class Fails(pocketflow.Node):  # type: ignore[misc]
        def exec(self, prepared: object) -> None:
            raise LookupError

    kaywatch.instrument(modules=[pocketflow])
    try:
        with capture() as captured:
            for _ in range(3):
                load = kaywatch.name(pocketflow.Node(), f"Load_{uuid.uuid4()}")
                load >> kaywatch.name(Fails(), f"Sub_{uuid.uuid4()}")
                flow = kaywatch.name(pocketflow.Flow(load), f"shop-{uuid.uuid4()}")
                with pytest.raises(LookupError):
                    flow.run({})
    finally:
        kaywatch.uninstrument()
    names = {(e.graph, e.node) for e in captured.executions()}
    assert names == {("shop-*", "Load_*"), ("shop-*", "Sub_*")}
    assert {r.graph for r in captured.runs()} == {"shop-*"}
    assert {(f.graph, f.node) for f in captured.failures()} == {("shop-*", "Sub_*")}
    nodes, edges = ("Load_*", "Sub_*"), (("Load_*", "default", "Sub_*"),)
    topology = captured.topologies()["shop-*"]
    assert topology == Topology("shop-*", "Load_*", nodes, edges)
    assert "shop-*/Sub_*" in kaywatch.client_stats()["name_patterns"]


def test_actions_and_metrics_have_the_folded_names_wherever_they_are_sent() -> None:
    class Routes(pocketflow.Node):  # type: ignore[misc]
        def post(self, shared: object, prepared: object, result: object) -> str:
            kaywatch.count(f"sold-{uuid.uuid4()}")
            return action

    kaywatch.instrument(modules=[pocketflow])
    try:
        with capture() as captured:
            for _ in range(3):
                action = f"to-{uuid.uuid4()}"
                node = Routes()
                node - action >> pocketflow.Node()
                kaywatch.name(pocketflow.Flow(node), "shop").run({})
    finally:
        kaywatch.uninstrument()
    (point,) = {point.name for point in captured.points()}
    actions = {e.action for e in captured.executions()}
    edges = {action for _, action, _ in captured.topologies()["shop"].edges}
    assert (point, actions, edges) == ("sold-*", {"to-*", "default"}, {"to-*"})
    patterns = kaywatch.client_stats()["name_patterns"]
    assert {"(actions)/to-*", "(metrics)/sold-*"} <= set(patterns)


def test_numbered_actions_never_fill_the_table() -> None:
    recorder = Recorder()
    record = recorder.series("shop", "Route").record
    packer = Packer(recorder)
    for number in range(3 * MAX_SIBLINGS):
        record(0.1, action=f"to-{number}")
    content = packer.take()
    assert content is not None
    table = msgpack.unpackb(content.sections["table"])
    actions = [text for text in table["strings"] if text.startswith("to-")]
    assert actions == [*(f"to-{n}" for n in range(MAX_SIBLINGS)), "to-*"]
    assert content.events == 3 * MAX_SIBLINGS
    assert ("(actions)", "to-*") in recorder.names.patterns

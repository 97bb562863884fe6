"""deploy/grafana: valid dashboards, whose every query a real Prometheus answers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest
from build_dashboards import DASHBOARDS, FOLDER, build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from tests.agents import DEADLINE, Agent, until
from tests.e2e.test_peers import push_from_here
from tests.e2e.test_remote_write import RECEIVER, agent_that_writes, write_url
from tests.prometheus import NATIVE, Prometheus, running_prometheus

from kaywatch import wire

# Without these, it does not look into targets and options.
register_default_plugins()

FILES: Final = sorted(FOLDER.glob("*.json"))
RUNS: Final = 22  # in each round
# Each kind of event that a panel shows.
WORKLOAD: Final = """
import warnings
import kaywatch
from pocketflow import Flow, Node
kaywatch.instrument(service="shop")
warnings.simplefilter("ignore")  # of the dead end

class Ask(Node):
    def exec(self, _):
        usage = {"input_tokens": 90, "output_tokens": 20, "cost_usd": 0.25}
        kaywatch.record_llm(
            model="large", seconds=0.5, first_token_seconds=0.2, **usage
        )
        if self.cur_retry == 0:
            raise ValueError("the answer is not JSON")
        kaywatch.record_llm(model="small", seconds=0.5, error=OSError("overloaded"))

class Pay(Node):
    def prep(self, shared):
        return shared["case"]

    def exec(self, case):
        if case == "error":
            raise KeyError("card")
        return case

    def post(self, shared, prep_res, exec_res):
        return exec_res

class Ship(Node):
    pass

def record():
    for case in [*["done"] * 20, "error", "refund"]:
        ask, pay = Ask(max_retries=2), Pay()
        ask >> pay
        pay - "done" >> Ship()
        try:
            kaywatch.name(Flow(start=ask), "checkout").run({"case": case})
        except KeyError:
            pass
    assert kaywatch.flush(10)

record()
print("recorded", flush=True)
input()
record()
"""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus to which two agents have written two rounds of the workload each."""
    folder = tmp_path_factory.mktemp("prometheus")
    with running_prometheus(folder, (), NATIVE, RECEIVER) as server:
        url = write_url(server)
        with (
            agent_that_writes(url, labels={"instance": "one"}) as one,
            agent_that_writes(url, labels={"instance": "two"}) as two,
        ):
            fill(server, one, two)
            yield server


def fill(server: Prometheus, agent: Agent, other: Agent) -> None:
    children = [each.spawn(WORKLOAD) for each in (agent, other)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "recorded\n"
    count = 'sum(kaygraph_node_executions_total{node="Pay"})'
    until(lambda: server.value(count) == 2 * RUNS, "the first round")
    # A client of one agent lost events.
    message = wire.batch(
        client=bytes(16),
        seq=1,
        sent=time.time(),
        service="shop",
        recorded=4,
        sections={"events": [{"graph": "checkout", "node": "Ask", "seconds": 0.5}]},
        drops={"buffer_full": 3},
    )
    _, link = push_from_here(agent.socket, message)
    link.close()
    for child in children:
        child.communicate("\n", timeout=DEADLINE)
        assert child.returncode == 0
    until(lambda: server.value(count) == 4 * RUNS, "the second round")
    lost = "sum(kaywatch_series_dropped_total)"
    until(lambda: server.value(lost) == 3, "the lost events")


def dashboards() -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in FILES}


def panels() -> list[Any]:
    return [
        pytest.param(panel, id=f"{name}: {panel['title']} {panel['type']}")
        for name, dashboard in dashboards().items()
        for panel in dashboard["panels"]
    ]


def test_the_files_are_those_of_the_table() -> None:
    assert dashboards() == {each.name: build(each) for each in DASHBOARDS}
    assert set(dashboards()) == {"overview", "graph", "node", "models", "fleet"}


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_grafana_s_own_types_know_every_key(name: str) -> None:
    """What they do not know, they leave out."""
    assert unknown_keys(dashboards()[name]) == []


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ((), "titel"),
        (("panels", 0), "gridPoss"),
        (("panels", 0, "gridPos"), "width"),
        (("panels", 0, "targets", 0), "expression"),
        (("panels", 0, "options"), "graphModee"),
        (("templating", "list", 1), "multiple"),
    ],
)
def test_a_misspelt_key_is_found(place: tuple[str | int, ...], key: str) -> None:
    dashboard = dashboards()["node"]
    part = dashboard
    for step in place:
        part = part[step]
    part[key] = 1
    (text,) = unknown_keys(dashboard)
    assert f".{key}: " in text


def unknown_keys(dashboard: Any) -> list[str]:
    encoded = JSONEncoder().encode(Dashboard.from_json(dashboard))
    return missing(dashboard, json.loads(encoded))


def missing(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Return the paths of what the other side lacks or has changed."""
    if isinstance(ours, dict):
        return [
            text
            for key, value in ours.items()
            for text in missing(
                value,
                theirs.get(key) if isinstance(theirs, dict) else None,
                f"{path}.{key}",
            )
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [text for n, pair in pairs for text in missing(*pair, f"{path}[{n}]")]
    return [] if ours == theirs else [f"{path}: {ours!r} is {theirs!r}"]


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_panels_are_distinct_and_within_the_grid(name: str) -> None:
    dashboard = dashboards()[name]
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells
        cells |= own
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_queries_use_variables_of_the_dashboard(name: str) -> None:
    dashboard = dashboards()[name]
    names = {each["name"] for each in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard)))
    assert used - {"__all"} == names
    # Completeness is next to the numbers.
    assert "Completeness" in {panel["title"] for panel in dashboard["panels"]}


def fill_in(query: str, **values: str) -> str:
    """Return a query as Grafana sends it when everything is selected."""
    values = {"window": "5m", **values}
    return re.sub(r"\$(\w+)", lambda match: values.get(match[1], ".*"), query)


@pytest.mark.parametrize("panel", panels())
def test_prometheus_answers_each_panel(prometheus: Prometheus, panel: Any) -> None:
    (target,) = panel["targets"]
    samples = until(
        lambda: prometheus.query(fill_in(target["expr"])), f"data of {panel['title']}"
    )
    assert all(value == value for _, value in samples)  # not NaN
    for label in re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")):
        assert any(labels.get(label) for labels, _ in samples), label


def test_variables_select_what_exists(prometheus: Prometheus) -> None:
    values = {}
    for dashboard in dashboards().values():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                series, label = re.fullmatch(
                    r"label_values\((.+), (\w+)\)", variable["query"]
                ).groups()  # type: ignore[union-attr]
                labels = prometheus.query(fill_in(series))
                values[label] = {each.get(label) for each, _ in labels}
    assert values.pop("instance")
    assert values["service"] == {"shop"}
    assert values["graph"] == {"checkout"}
    assert values["node"] == {"Ask", "Pay", "Ship"}


def expression(board: str, title: str) -> str:
    """Return the query of a single number."""
    (found,) = (
        panel["targets"][0]["expr"]
        for panel in dashboards()[board]["panels"]
        if panel["title"] == title and panel["type"] == "stat"
    )
    return str(found)


def test_counts_are_exact_for_one_agent_and_for_all(prometheus: Prometheus) -> None:
    executions = expression("node", "Executions")
    assert prometheus.value(fill_in(executions, node="Pay")) == 4 * RUNS
    one = fill_in(executions, node="Pay", instance="one")
    assert prometheus.value(one) == 2 * RUNS
    assert prometheus.value(fill_in(executions, instance="none")) is None
    assert prometheus.value(fill_in(expression("fleet", "Agents"))) == 2


def test_completeness_is_the_ratio_of_the_sums(prometheus: Prometheus) -> None:
    complete = expression("overview", "Completeness")
    received = prometheus.value("sum(kaywatch_series_received_total)")
    assert received is not None
    assert prometheus.value(fill_in(complete)) == received / (received + 3)
    # The other agent has lost nothing.
    values = {prometheus.value(fill_in(complete, instance=i)) for i in ("one", "two")}
    assert max(v for v in values if v is not None) == 1
    assert len(values) == 2

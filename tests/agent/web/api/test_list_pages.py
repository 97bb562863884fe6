"""Pages of the lists of nodes and graphs, and the parts of buckets read for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.web.serving import Served, serving

from kaywatch.wire import Outcome
from kaywatch_agent.web.api.list_pages import SORT_FIGURES, page_of

WORDS = ["alpha", "beta", "gamma", "delta", "épsilon", "zeta", "eta", "theta"]
NODES = [f"{one} {other}" for one in WORDS for other in WORDS]


@pytest.fixture(scope="module")
def crowd() -> Iterator[Served]:
    """An agent with many more nodes than a page has."""
    with serving() as served:
        with served.recording("shop") as recorder:
            for n, name in enumerate(NODES):
                series = recorder.series("checkout", name)
                for m in range(1 + n % 7):
                    outcome = Outcome.ERROR if m and n % 3 == 0 else Outcome.OK
                    error = ("KeyError", "exec") if outcome else None
                    series.record(
                        0.01 * (1 + n * m % 11), outcome, 1 + m % 2, error=error
                    )
        yield served


@pytest.fixture(scope="module")
def graphs() -> Iterator[Served]:
    """An agent with many more graphs than a page has, some in two services."""
    with serving() as served:
        for service in ("shop", "depot"):
            with served.recording(service) as recorder:
                for n, name in enumerate(
                    NODES[:40] if service == "shop" else NODES[20:]
                ):
                    recorder.series(name, "pay").record(0.1)
                    for m in range(n % 5):
                        outcome = Outcome.ERROR if m and n % 3 == 0 else Outcome.OK
                        reason = "error" if outcome else "finished"
                        seconds = 0.01 * (1 + n * m % 11)
                        recorder.run_ended(
                            name, seconds, outcome, reason, "pay", "default", 1
                        )
        yield served


def names(answer: Any) -> list[str]:
    return [node["node"] for node in answer["nodes"]]


def read_pages(
    served: Served, kind: str = "nodes", **parameters: Any
) -> list[dict[str, Any]]:
    """Return the items of all pages."""
    items: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = served.get(f"/api/v1/{kind}", **parameters, **cursor)
        assert answer["matching"] == len(NODES)
        items += answer[kind]
        if answer["next"] is None:
            return items
        assert len(answer[kind]) == parameters["limit"]
        cursor = {"cursor": answer["next"]}


@pytest.mark.parametrize("limit", [1, 7, 63, 64, 65])
@pytest.mark.parametrize("window", [{}, {"window": "5m"}])
def test_pages_make_up_the_list(
    crowd: Served, limit: int, window: dict[str, str]
) -> None:
    everything = crowd.get("/api/v1/nodes", **window)

    assert read_pages(crowd, limit=limit, **window) == everything["nodes"]
    assert names(everything) == sorted(NODES)
    assert everything["next"] is None


@pytest.mark.parametrize("sort", SORT_FIGURES)
def test_pages_have_the_largest_figures_first(crowd: Served, sort: str) -> None:
    nodes = read_pages(crowd, sort=sort, limit=10)
    figures = [node[sort] for node in nodes]

    assert sorted(node["node"] for node in nodes) == sorted(NODES)
    assert figures == sorted(figures, reverse=True)
    everything = {node["node"]: node for node in crowd.get("/api/v1/nodes")["nodes"]}
    assert all(node == everything[node["node"]] for node in nodes)


def test_one_node_has_the_figures_of_the_list(crowd: Served) -> None:
    for window in ({}, {"window": "1h"}):
        listed = crowd.get("/api/v1/nodes", **window)["nodes"][17]
        alone = crowd.node(listed["node"], **window)
        assert {key: alone[key] for key in listed} == listed


def test_a_page_by_name_begins_after_any_name(crowd: Served) -> None:
    answer = crowd.get("/api/v1/nodes", limit=3, cursor="beta m")
    assert names(answer) == ["beta theta", "beta zeta", "beta épsilon"]


def test_a_page_by_figure_begins_after_a_known_node(crowd: Served) -> None:
    answer = crowd.ask("/api/v1/nodes?limit=3&sort=error_rate&cursor=beta+m")
    assert answer.status == 404
    assert answer.error["code"] == "unknown_node"
    assert "beta" in answer.error["hint"]


def test_an_unknown_order_is_an_error_that_lists_the_orders(crowd: Served) -> None:
    answer = crowd.ask("/api/v1/nodes?sort=p95")
    assert answer.status == 400
    assert "p95_execution_time" in answer.error["hint"]


@pytest.mark.parametrize("limit", [1, 7, 63, 64, 65])
@pytest.mark.parametrize("window", [{}, {"window": "5m"}])
def test_pages_of_graphs_make_up_the_list(
    graphs: Served, limit: int, window: dict[str, str]
) -> None:
    everything = graphs.get("/api/v1/graphs", **window)

    pages = read_pages(graphs, "graphs", limit=limit, **window)
    assert pages == everything["graphs"]
    assert [graph["graph"] for graph in pages] == sorted(NODES)
    assert sum(len(graph["services"]) for graph in pages) == 40 + len(NODES) - 20


@pytest.mark.parametrize("sort", sorted(SORT_FIGURES.keys() - {"retry_rate"}))
def test_pages_of_graphs_have_the_largest_figures_first(
    graphs: Served, sort: str
) -> None:
    pages = read_pages(graphs, "graphs", sort=sort, limit=10)
    everything = graphs.get("/api/v1/graphs")["graphs"]
    assert sorted(pages, key=lambda graph: graph["graph"]) == everything

    def figure(graph: dict[str, Any]) -> float | None:
        if sort != "error_rate":
            return graph[sort]  # type: ignore[no-any-return]
        success = graph["success_rate"]
        return None if success is None else 1.0 - success

    figures = [figure(graph) for graph in pages]
    known = [value for value in figures if value is not None]
    assert known == pytest.approx(sorted(known, reverse=True))
    assert figures[len(known) :] == [None] * (len(figures) - len(known))


def test_pages_of_graphs_of_one_service(graphs: Served) -> None:
    answer = graphs.get("/api/v1/graphs", service="depot", limit=5)
    assert answer["matching"] == len(NODES) - 20
    assert [graph["services"] for graph in answer["graphs"]] == [["depot"]] * 5


def test_a_page_of_graphs_begins_after_a_known_graph(graphs: Served) -> None:
    answer = graphs.ask("/api/v1/graphs?limit=3&sort=error_rate&cursor=beta+m")
    assert answer.status == 404
    assert answer.error["code"] == "unknown_graph"


@given(
    st.dictionaries(st.text(), st.none() | st.floats(-1e300, 1e300), max_size=20),
    st.integers(1, 6),
)
def test_every_item_is_on_one_page(items: dict[str, float | None], limit: int) -> None:
    figures = list(items.values())
    cursor, seen = None, []
    while True:
        names, cursor = page_of(list(items), figures, limit, cursor)
        seen += names
        if cursor is None:
            break
    assert sorted(seen) == sorted(items)
    known = [-items[name] for name in seen if items[name] is not None]  # type: ignore[operator]
    assert known == sorted(known)
    assert all(items[name] is None for name in seen[len(known) :])

"""Names that stand for many nodes are listed with their source."""

from __future__ import annotations

from kaywatch_agent.cli.shared_names import MAX_LISTED, describe_shared_names


def node(
    name: str, *graphs: str, services: tuple[str, ...] = ("shop",)
) -> dict[str, object]:
    return {"node": name, "graphs": graphs, "services": services}


def test_patterns_and_overflow_are_listed() -> None:
    nodes = [
        node("Load", "Checkout"),
        node("Sub_*", "Checkout", ""),
        node("__other__", "Refund", services=("shop", "web")),
        node("Load", "req-*"),
        node("Save", "req-*"),
    ]
    assert describe_shared_names(nodes) == [
        "service shop, graph Checkout: Sub_* stands for many nodes",
        "service shop, web, graph Refund: __other__ stands for many nodes",
        "service shop: req-* stands for many graphs",
    ]


def test_the_list_is_bounded() -> None:
    nodes = [node(f"{number}_*") for number in range(20)]
    lines = describe_shared_names(nodes)
    assert len(lines) == MAX_LISTED + 1
    assert lines[0] == "service shop, no graph: 0_* stands for many nodes"
    assert lines[-1] == "and 15 more"

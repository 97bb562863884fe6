"""Finds names that stand for many nodes or graphs, and how to avoid them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from kaywatch_agent.model.series import OTHER

__all__ = ["NAME_FIX", "describe_shared_names"]

WILDCARD: Final = "*"  # what a client puts in place of an id
MAX_LISTED: Final = 5

NAME_FIX: Final = (
    "name nodes and graphs without an id of the request: kaywatch.name(node, NAME), or"
    " node_id=NAME"
)


def describe_shared_names(nodes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for each name of many nodes or graphs, with its source.

    Args:
        nodes: of `/api/v1/nodes`.
    """
    lines = {
        f"{_list_names(node['services'], 'service')},"
        f" {_list_names(node['graphs'], 'graph')}: {node['node']} stands for many nodes"
        for node in nodes
        if _is_shared(node["node"])
    }
    lines |= {
        f"{_list_names(node['services'], 'service')}: {graph} stands for many graphs"
        for node in nodes
        for graph in node["graphs"]
        if _is_shared(graph)
    }
    more = len(lines) - MAX_LISTED
    listed = sorted(lines)[:MAX_LISTED]
    return [*listed, f"and {more} more"] if more > 0 else listed


def _is_shared(name: str) -> bool:
    return name == OTHER or WILDCARD in name


def _list_names(names: Iterable[str], kind: str) -> str:
    listed = [name for name in names if name]
    return f"{kind} {', '.join(listed[:3])}" if listed else f"no {kind}"

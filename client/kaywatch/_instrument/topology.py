"""Reports how graphs are wired, once for each graph.

Strategy: a graph is recognized by the identity of its start node, which copies of the
graph share. The start node is held by a weak reference that removes the entry. An
application that builds a graph per request is recognized by the name: after 100 walks
under one name, the next ones are at least a second apart.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from typing import Any, Final

from kaywatch._instrument.naming import (
    NAME,
    NodeClass,
    explicit_name,
    node_name,
    start_of,
)
from kaywatch._process import process
from kaywatch._spans.runs import action_name
from kaywatch.recorder import Topology

__all__ = ["TopologyReporter", "walk"]

MAX_NODES: Final = 1_000
MAX_EDGES: Final = 10_000
MAX_NAMES: Final = 1_000  # graphs reported; more of them are a leak of names

# Walking ten nodes costs some 20 us, as much as running them.
FREE_WALKS: Final = 100
WALK_EVERY: Final = 1.0  # seconds, after that


class _StartNode:
    """The reported topology of the graphs that start with one node.

    Attributes:
        names: of a framework's own graphs, by the class's name.
        reported: names of graphs.
    """

    __slots__ = ("names", "reference", "reported")

    def __init__(self) -> None:
        self.reference: weakref.ref[Any] | None = None
        self.names: dict[str, str] = {}
        self.reported: set[str] = set()


class TopologyReporter:
    """Names graphs, and reports the topology of each at its first run."""

    def __init__(self) -> None:
        self._start_nodes: dict[int, _StartNode] = {}  # by the start node's id
        self._walks: dict[str, tuple[int, float]] = {}  # name: (walks, last one)

    def name_of(self, graph: Any, node_class: NodeClass) -> str:
        """Return a graph's name; at its first run also report its topology."""
        own = graph.__dict__
        start = own.get("start_node")
        entry = self._start_nodes.get(id(start))
        if entry is None:
            start = start_of(graph)
            entry = self._start_nodes.get(id(start)) or self._add(start)
        name: str | None = None
        if node_class.has_id or NAME in own or "node_id" in own:
            name = explicit_name(graph, node_class)
        if name is None:
            name = node_class.name
            if node_class.is_own:
                name = entry.names.get(name)
                if name is None:
                    name = entry.names[node_class.name] = node_name(graph)
        if name not in entry.reported:
            name = process.recorder.names.graph(name)
            if name not in entry.reported:
                self._report(name, start, entry)
        return name

    def forget(self, start: object) -> None:
        """Report the graphs that start with a node again: it has another name."""
        self._start_nodes.pop(id(start), None)

    def clear(self) -> None:
        """Report all graphs again."""
        self._start_nodes.clear()
        self._walks.clear()

    def _add(self, start: Any) -> _StartNode:
        entry = _StartNode()
        entries, key = self._start_nodes, id(start)
        try:
            entry.reference = weakref.ref(start, lambda _: entries.pop(key, None))
        except TypeError:  # None, or a class with __slots__: reported at every run
            return entry
        return entries.setdefault(key, entry)

    def _report(self, name: str, start: Any, entry: _StartNode) -> None:
        if len(entry.reported) >= MAX_NAMES:
            entry.reported.clear()
        entry.reported.add(name)
        walks, last = self._walks.get(name, (0, 0.0))
        now = time.monotonic()
        if walks >= FREE_WALKS and now - last < WALK_EVERY:
            return
        if walks or len(self._walks) < MAX_NAMES:
            self._walks[name] = (walks + 1, now)
            if start is not None:
                process.recorder.add_topology(walk(name, start))


def walk(graph: str, start: Any) -> Topology:
    """Return the nodes and edges reachable from `start`, up to 1,000 nodes."""
    seen = {id(start)}
    queue = deque([start])
    nodes: dict[str, None] = {}
    edges: dict[tuple[str, str, str], None] = {}
    while queue:
        node = queue.popleft()
        source = node_name(node)
        nodes[source] = None
        for action, successor in _successors(node):
            if id(successor) not in seen and len(seen) < MAX_NODES:
                seen.add(id(successor))
                queue.append(successor)
            if id(successor) in seen and len(edges) < MAX_EDGES:
                edges[source, action, node_name(successor)] = None
    return Topology(graph, node_name(start), tuple(nodes), tuple(edges))


def _successors(node: Any) -> list[tuple[str, Any]]:
    successors = getattr(node, "successors", None)
    if not isinstance(successors, dict):
        return []
    return [
        (_edge_name(action), successor)
        for action, successor in list(dict.items(successors))
        if successor is not None
    ]


def _edge_name(action: object) -> str:
    # Unlike a returned action, an empty action is a separate edge.
    is_empty = isinstance(action, str) and not str.__len__(action)
    return "" if is_empty else action_name(action)

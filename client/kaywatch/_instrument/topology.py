"""Tells how graphs are wired, once for each.

Strategy: a graph is recognised by its start node's identity, which copies of the graph
share; the start node is held by a weak reference that removes the entry. Applications
that build a graph per request are told apart by name: after so many walks under one
name the next are a second apart.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from typing import Any, Final

from kaywatch._instrument.naming import (
    MAX_ACTION,
    NAME,
    Kind,
    given_name,
    node_name,
    start_of,
)
from kaywatch._process import process
from kaywatch.recorder import Topology

__all__ = ["Wirings", "walk"]

MAX_NODES: Final = 1_000
MAX_EDGES: Final = 10_000
MAX_NAMES: Final = 1_000  # graphs told of; more are no topologies but a leak

# Walking ten nodes costs some 20 us, as much as running them.
FREE_WALKS: Final = 100
WALK_EVERY: Final = 1.0  # seconds, after that


class _Wiring:
    """What was told about the graphs that start with one node."""

    __slots__ = ("names", "reference", "told")

    def __init__(self) -> None:
        self.reference: weakref.ref[Any] | None = None
        self.names: dict[str, str] = {}  # by class's name, of a framework's graphs
        self.told: set[str] = set()


class Wirings:
    """The graphs whose topology was told, by their start nodes' ids."""

    def __init__(self) -> None:
        self._known: dict[int, _Wiring] = {}
        self._walks: dict[str, tuple[int, float]] = {}  # name: (walks, last one)

    def name_of(self, graph: Any, kind: Kind) -> str:
        """Return a graph's name, having told its topology at its first run."""
        own = graph.__dict__
        start = own.get("start_node")
        wiring = self._known.get(id(start))
        if wiring is None:
            start = start_of(graph)
            wiring = self._known.get(id(start)) or self._add(start)
        name: str | None = None
        if kind.identified or NAME in own or "node_id" in own:
            name = given_name(graph, kind)
        if name is None:
            name = kind.name
            if kind.own:
                name = wiring.names.get(name)
                if name is None:
                    name = wiring.names[kind.name] = node_name(graph)
        if name not in wiring.told:
            self._tell(name, start, wiring)
        return name

    def forget(self, start: object) -> None:
        """Tell anew of the graphs that start with a node: it has another name."""
        self._known.pop(id(start), None)

    def clear(self) -> None:
        """Forget what was told."""
        self._known.clear()
        self._walks.clear()

    # -- inside ------------------------------------------------------------------

    def _add(self, start: Any) -> _Wiring:
        wiring = _Wiring()
        known, key = self._known, id(start)
        try:
            wiring.reference = weakref.ref(start, lambda _: known.pop(key, None))
        except TypeError:  # None, or a class with __slots__: told again at every run
            return wiring
        return known.setdefault(key, wiring)

    def _tell(self, name: str, start: Any, wiring: _Wiring) -> None:
        if len(wiring.told) >= MAX_NAMES:
            wiring.told.clear()
        wiring.told.add(name)
        walks, last = self._walks.get(name, (0, 0.0))
        now = time.monotonic()
        if walks >= FREE_WALKS and now - last < WALK_EVERY:
            return
        if walks or len(self._walks) < MAX_NAMES:
            self._walks[name] = (walks + 1, now)
            if start is not None:
                process.recorder.wired(walk(name, start))


def walk(graph: str, start: Any) -> Topology:
    """Return what is reachable from `start`, up to 1,000 nodes."""
    seen = {id(start)}
    todo = deque([start])
    nodes: dict[str, None] = {}
    edges: dict[tuple[str, str, str], None] = {}
    while todo:
        node = todo.popleft()
        source = node_name(node)
        nodes[source] = None
        for action, successor in _successors(node):
            if id(successor) not in seen and len(seen) < MAX_NODES:
                seen.add(id(successor))
                todo.append(successor)
            if id(successor) in seen and len(edges) < MAX_EDGES:
                edges[source, action, node_name(successor)] = None
    return Topology(graph, node_name(start), tuple(nodes), tuple(edges))


def _successors(node: Any) -> list[tuple[str, Any]]:
    successors = getattr(node, "successors", None)
    if not isinstance(successors, dict):
        return []
    return [
        (_edge(action), successor)
        for action, successor in list(dict.items(successors))
        if successor is not None
    ]


def _edge(action: object) -> str:
    if isinstance(action, str):
        return str.__getitem__(action, slice(MAX_ACTION))
    return f"<{type(action).__name__}>"[:MAX_ACTION]

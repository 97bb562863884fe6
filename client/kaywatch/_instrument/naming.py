"""The names of nodes and graphs.

A node is named by `kaywatch.name`, else by its explicit `node_id`, else by its class. A
graph likewise; the name of a framework's own class, such as `Flow`, is followed by the
node that the graph starts with: `Flow[Load]`.

Strategy: the metadata of a class is computed once and kept in its `NodeClass`,
under the class's id. The entry is removed when the class is.
"""

from __future__ import annotations

import re
import weakref
from typing import TYPE_CHECKING, Any, Final

from kaywatch._instrument.patching import is_graph
from kaywatch._process import process
from kaywatch.wire import MAX_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from kaywatch.recorder import Series

__all__ = [
    "NAME",
    "NodeClass",
    "NodeClasses",
    "explicit_name",
    "is_batch",
    "node_classes",
    "node_name",
    "start_of",
]

NAME: Final = "_kaywatch_name"  # the attribute that `kaywatch.name` sets

# KayGraph's default id: a prefix and the object's address, new for every object.
_ADDRESS: Final = re.compile(r"_\d{9,}\Z")
_MAX_DEPTH: Final = 3  # of graphs that start with graphs, in a name
_MAX_CACHED: Final = 1_000  # graphs, and ids, per class of nodes
_UNREAD: Final = ""  # never a name


class NodeClass:
    """The properties of one class of nodes or graphs.

    Attributes:
        name: the class's name.
        is_own: whether it is the framework's own class.
        is_graph: whether its instances run other nodes.
        is_batch: whether its instances work on many items, judging by its name and
            those of its base classes.
        has_id: whether the class itself declares `node_id`.
        series: of the nodes that are named by their class, by the enclosing graph.
        ids: the name that a `node_id` gives, None for a default id.
    """

    __slots__ = (
        "_reference",
        "has_id",
        "ids",
        "is_batch",
        "is_graph",
        "is_own",
        "name",
        "series",
    )

    def __init__(
        self, cls: type, is_own: bool, forget: Callable[[int], object]
    ) -> None:
        key = id(cls)
        self._reference = weakref.ref(cls, lambda _: forget(key))
        self.name = cls.__name__[:MAX_NAME]
        self.is_own = is_own
        self.is_graph = is_graph(cls)
        self.is_batch = any("Batch" in base.__name__ for base in cls.__mro__)
        self.has_id = any("node_id" in vars(base) for base in cls.__mro__)
        self.series: dict[str, Series] = {}
        self.ids: dict[str, str | None] = {}

    def series_in(self, graph: str) -> Series:
        """Return the series of this class's nodes in `graph`, and cache it."""
        series = process.recorder.series(graph, self.name)
        if len(self.series) < _MAX_CACHED:
            self.series[graph] = series
        return series

    def read_id(self, node_id: str) -> str | None:
        """Return the name that an id gives, None for a default id, and cache it."""
        if len(self.ids) >= _MAX_CACHED:
            self.ids.clear()
        text = str.__getitem__(node_id, slice(None))  # of a StrEnum's member, say
        is_default = not text or _ADDRESS.search(text) is not None
        return self.ids.setdefault(text, None if is_default else text[:MAX_NAME])


class NodeClasses:
    """The known classes of nodes and graphs, by their ids."""

    def __init__(self) -> None:
        self.nodes: dict[int, NodeClass] = {}
        self.graphs: dict[int, NodeClass] = {}
        # Set while instrumented: is it a class of ours, and is it a framework's own?
        self.adopt: Callable[[type], bool] | None = None
        self.is_own: Callable[[type], bool] | None = None

    def of(self, cls: type) -> NodeClass | None:
        """Return the metadata of a class; None if it is not a framework's."""
        node_class = self.nodes.get(id(cls)) or self.graphs.get(id(cls))
        if node_class is not None or self.adopt is None or self.is_own is None:
            return node_class
        if not self.adopt(cls):
            return None
        table = self.graphs if is_graph(cls) else self.nodes
        node_class = NodeClass(cls, self.is_own(cls), lambda key: table.pop(key, None))
        return table.setdefault(id(cls), node_class)

    def node(self, cls: type) -> NodeClass | None:
        """Return the metadata of a class of nodes; None for a class of graphs."""
        node_class = self.of(cls)
        return (
            node_class if node_class is not None and not node_class.is_graph else None
        )

    def graph(self, cls: type) -> NodeClass | None:
        """Return the metadata of a class of graphs; None for a class of nodes."""
        node_class = self.of(cls)
        return node_class if node_class is not None and node_class.is_graph else None

    def clear(self) -> None:
        """Remove all classes, and add no more."""
        self.adopt = self.is_own = None
        self.nodes.clear()
        self.graphs.clear()


node_classes: Final = NodeClasses()


def explicit_name(thing: Any, node_class: NodeClass) -> str | None:
    """Return the name that a node or graph was given, None without one."""
    own = thing.__dict__
    name = own.get(NAME)
    if name is not None:
        return str.__getitem__(name, slice(MAX_NAME))
    node_id = own.get("node_id")
    if node_id is None and node_class.has_id:
        try:
            node_id = thing.node_id  # declared by the class, as a value or a property
        except Exception:  # noqa: BLE001 - a property of the application's
            return None
    if not isinstance(node_id, str):
        return None
    cached = node_class.ids.get(node_id, _UNREAD)
    return node_class.read_id(node_id) if cached is _UNREAD else cached


def is_batch(thing: object) -> bool:
    """Return whether a node or graph works on many items."""
    node_class = node_classes.of(type(thing))
    return node_class is not None and node_class.is_batch


def node_name(thing: Any, depth: int = 0) -> str:
    """Return the name of a node, or of a graph that is a node of another one."""
    node_class = node_classes.of(type(thing))
    if node_class is None:
        return type(thing).__name__[:MAX_NAME]
    name = explicit_name(thing, node_class)
    if name is not None:
        return name
    if not node_class.is_graph or not node_class.is_own:
        return node_class.name
    start = start_of(thing)
    if start is None or depth >= _MAX_DEPTH:
        return node_class.name
    return f"{node_class.name}[{node_name(start, depth + 1)}]"[:MAX_NAME]


def start_of(graph: Any) -> Any:
    """Return the node that a graph starts with, None without one."""
    start = graph.__dict__.get("start_node")
    return start if start is not None else getattr(graph, "start_node", None)

"""What nodes, graphs and actions are called.

A node is what `kaywatch.name` said, else its explicit `node_id`, else its class. A
graph likewise; a framework's own class such as `Flow` says nothing by itself, so it
is followed by the node that it starts with: `Flow[Load]`.

Strategy: what can be known about a class is found once and kept in its `Kind`, under
the class's id, which is dropped when the class is.
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
    "MAX_ACTION",
    "NAME",
    "Kind",
    "Kinds",
    "action_name",
    "given_name",
    "is_batch",
    "kinds",
    "node_name",
    "start_of",
]

NAME: Final = "_kaywatch_name"  # the attribute that `kaywatch.name` sets
MAX_ACTION: Final = 100

# KayGraph's default id: a prefix and the object's address, new for every object.
_ADDRESS: Final = re.compile(r"_\d{9,}\Z")
_MAX_DEPTH: Final = 3  # of graphs that start with graphs, in a name
_MAX_CACHED: Final = 1_000  # graphs, and ids, per class of nodes
_UNREAD: Final = ""  # no name


class Kind:
    """What is known about one class of nodes or graphs.

    Attributes:
        name: the class's name.
        own: whether it is the framework's own class.
        graph: whether its instances run other nodes.
        batch: whether its instances work on many items; so its name, or that of a
            class that it comes from, says.
        identified: whether the class itself has something to say about `node_id`.
        series: by the name of the graph around; for nodes named by their class.
        ids: what a `node_id` says: a name, or None for a default one.
    """

    __slots__ = (
        "_reference",
        "batch",
        "graph",
        "identified",
        "ids",
        "name",
        "own",
        "series",
    )

    def __init__(self, cls: type, own: bool, forget: Callable[[int], object]) -> None:
        key = id(cls)
        self._reference = weakref.ref(cls, lambda _: forget(key))
        self.name = cls.__name__[:MAX_NAME]
        self.own = own
        self.graph = is_graph(cls)
        self.batch = any("Batch" in base.__name__ for base in cls.__mro__)
        self.identified = any("node_id" in vars(base) for base in cls.__mro__)
        self.series: dict[str, Series] = {}
        self.ids: dict[str, str | None] = {}

    def series_in(self, graph: str) -> Series:
        """Return the series of this class's nodes in `graph`, and keep it."""
        found = process.recorder.series(graph, self.name)
        if len(self.series) < _MAX_CACHED:
            self.series[graph] = found
        return found

    def read_id(self, node_id: str) -> str | None:
        """Return the name that an id gives, None for a default one, and keep it."""
        if len(self.ids) >= _MAX_CACHED:
            self.ids.clear()
        text = str.__getitem__(node_id, slice(None))  # of a StrEnum's member, say
        default = not text or _ADDRESS.search(text) is not None
        return self.ids.setdefault(text, None if default else text[:MAX_NAME])


class Kinds:
    """The classes that were met, by their ids."""

    def __init__(self) -> None:
        self.nodes: dict[int, Kind] = {}
        self.graphs: dict[int, Kind] = {}
        # Set while instrumented: is it a class of ours, and is it a framework's own?
        self.adopt: Callable[[type], bool] | None = None
        self.is_own: Callable[[type], bool] | None = None

    def of(self, cls: type) -> Kind | None:
        """Return what is known about a class, None if it is none of ours."""
        found = self.nodes.get(id(cls)) or self.graphs.get(id(cls))
        return found if found is not None else self._learn(cls)

    def node(self, cls: type) -> Kind | None:
        """Return what is known about a class of nodes, None for one of graphs."""
        found = self.of(cls)
        return found if found is not None and not found.graph else None

    def graph(self, cls: type) -> Kind | None:
        """Return what is known about a class of graphs, None for one of nodes."""
        found = self.of(cls)
        return found if found is not None and found.graph else None

    def clear(self) -> None:
        """Forget all classes, and learn no more."""
        self.adopt = self.is_own = None
        self.nodes.clear()
        self.graphs.clear()

    def _learn(self, cls: type) -> Kind | None:
        if self.adopt is None or self.is_own is None or not self.adopt(cls):
            return None
        table = self.graphs if is_graph(cls) else self.nodes
        made = Kind(cls, self.is_own(cls), lambda key: table.pop(key, None))
        return table.setdefault(id(cls), made)


kinds: Final = Kinds()


def given_name(thing: Any, kind: Kind) -> str | None:
    """Return the name that someone gave to a node or graph, None without one."""
    own = thing.__dict__
    name = own.get(NAME)
    if name is not None:
        return str.__getitem__(name, slice(MAX_NAME))
    node_id = own.get("node_id")
    if node_id is None and kind.identified:
        node_id = _declared_id(thing)
    if not isinstance(node_id, str):
        return None
    found = kind.ids.get(node_id, _UNREAD)
    return kind.read_id(node_id) if found is _UNREAD else found


def is_batch(thing: object) -> bool:
    """Return whether a node or graph works on many items."""
    kind = kinds.of(type(thing))
    return kind is not None and kind.batch


def node_name(thing: Any, depth: int = 0) -> str:
    """Return the name of a node, or of a graph that is one."""
    kind = kinds.of(type(thing))
    if kind is None:
        return type(thing).__name__[:MAX_NAME]
    given = given_name(thing, kind)
    if given is not None:
        return given
    if not kind.graph or not kind.own:
        return kind.name
    start = start_of(thing)
    if start is None or depth >= _MAX_DEPTH:
        return kind.name
    return f"{kind.name}[{node_name(start, depth + 1)}]"[:MAX_NAME]


def start_of(graph: Any) -> Any:
    """Return the node that a graph starts with, None without one."""
    start = graph.__dict__.get("start_node")
    return start if start is not None else getattr(graph, "start_node", None)


def action_name(action: object) -> str:
    """Return what to call an action that isn't None, without looking into it."""
    if not isinstance(action, str):
        return f"<{type(action).__name__}>"[:MAX_ACTION]
    # An empty one takes the default edge, as None does. Not `action[:100]`: a
    # subclass may have its own idea of it.
    return str.__getitem__(action, slice(MAX_ACTION)) or "default"


def _declared_id(thing: Any) -> Any:
    """Read a `node_id` that the class declares, as a value or a property."""
    try:
        return thing.node_id
    except Exception:  # noqa: BLE001 - a property of the application's
        return None

"""The wrappers around a graph's functions: they open and close its runs.

Strategy: `_run` opens a run before anything is known about the loop, since some graphs
replace it. A loop that is entered without parameters is what the run is about. One
with parameters is an item of a batch, and gets a run of its own. If no loop was
entered but nodes ran, then `_run` was the loop.

A graph that the loop of another graph calls is a node there, with a span around its
own run. Called from within a node it is not: the innermost span tells.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from kaywatch._instrument.naming import Kind, action_name, is_batch, kinds
from kaywatch._instrument.topology import Wirings
from kaywatch._instrument.wrapping import WrapperPair, mirror, takes
from kaywatch._process import process
from kaywatch._spans import spans as _spans
from kaywatch._spans.details import ItemTiming
from kaywatch._spans.spans import Run, Span, current_run, current_span
from kaywatch._wrappers import Function, seal, warn_once
from kaywatch.wire import EndReason

if TYPE_CHECKING:
    from types import FunctionType

__all__ = ["LOOP", "RUN", "next_node", "wirings"]

NO_SUCCESSORS: Final = EndReason.NO_SUCCESSORS.value
UNMATCHED_ACTION: Final = EndReason.UNMATCHED_ACTION.value

MAX_AVAILABLE: Final = 20  # actions of a dead end's node that are told

# Of a run's loop.
WAITING: Final = 0
LOOPING: Final = 1
LOOPED: Final = 2

_span: Final = current_span.get
_run: Final = current_run.get
_graphs: Final = kinds.graphs

wirings: Final = Wirings()


class GraphRun(Run):
    """A run, and what its wrappers know about it.

    Attributes:
        span: of the graph as a node of another one.
        by_run: whether `_run` opened it, rather than the loop.
        batch: for an item, the run of the batch.
        loop: WAITING, LOOPING or LOOPED.
        split: whether items had their own runs.
        told: whether an error was recorded, of this run or of an item's.
    """

    __slots__ = ("batch", "by_run", "loop", "span", "split", "told")

    def __init__(self, graph: str, owner: object, parent: Span | None) -> None:
        self.span: Span | None = None
        self.by_run = False
        self.batch: GraphRun | None = None
        self.loop = WAITING
        self.split = False
        self.told = False
        super().__init__(graph, owner, parent)

    def item(self) -> GraphRun:
        """Open the run of an item of this batch."""
        self.split = True
        if self.span is not None:
            details = self.span.detail()
            details.batch = is_batch(self.owner)
            # Attempts and waiting are of the nodes in it.
            details.timings.append(ItemTiming(0, 0.0, 0.0))
        made = GraphRun(self.graph, self.owner, _span())
        made.batch = self
        return made

    def finish(self, error: BaseException | None = None) -> None:
        """Record the run if there was one: a loop, nodes, or an error."""
        ran = self.loop != WAITING or (self.visits > 0 and not self.split)
        if not self.told and (ran or error is not None):
            self.told = True
            self.close(error)


# -- _run, _run_async ------------------------------------------------------------


def _run_plain(original: Function) -> Function:
    def run(self: Any, shared: Any) -> Any:
        entered = _enter(self, shared)
        if entered is None:
            return original(self, shared)
        try:
            action = original(self, shared)
        except BaseException as error:
            _leave(entered, None, error)
            raise
        _leave(entered, action, None)
        return action

    return run


def _run_waiting(original: Function) -> Function:
    async def run(self: Any, shared: Any) -> Any:
        entered = _enter(self, shared)
        if entered is None:
            return await original(self, shared)
        try:
            action = await original(self, shared)
        except BaseException as error:
            _leave(entered, None, error)
            raise
        _leave(entered, action, None)
        return action

    return run


RUN: Final = WrapperPair(_run_plain, _run_waiting, 2)


def _enter(graph: Any, shared: object) -> GraphRun | None:
    """Open a graph's run, None if it isn't to be recorded or is open already."""
    try:
        kind = _kind(graph)
        return _open(graph, kind, shared) if kind is not None else None
    except Exception:  # noqa: BLE001 - the application goes on without us
        warn_once(f"graph {type(graph).__name__}")
        return None


def _open(graph: Any, kind: Kind, shared: object) -> GraphRun | None:
    around, outer = _run(), _span()
    looping = around if around is not None and outer is around.parent else None
    if looping is not None and looping.owner is graph:
        return None
    name = wirings.name_of(graph, kind)
    span = None
    if looping is not None:
        series = process.recorder.series(looping.graph, name)
        outer = span = Span(series, looping, outer, graph)
        span.tell(shared)
    run = GraphRun(name, graph, outer)
    run.by_run = True
    run.span = span
    return run


def _leave(run: GraphRun, action: object, error: BaseException | None) -> None:
    run.leave()
    run.finish(error)
    span = run.span
    if span is not None:
        if action is not None:
            span.action = action_name(action)
        span.close(error)


# -- _orch, _orch_async ----------------------------------------------------------


def _loop_plain(original: Function) -> Function:
    def loop(self: Any, shared: Any, params: Any) -> Any:
        run = _begin(self, params)
        if run is None:
            return original(self, shared, params)
        try:
            action = original(self, shared, params)
        except BaseException as error:
            _end(run, error)
            raise
        _end(run, None)
        return action

    return loop


def _loop_waiting(original: Function) -> Function:
    async def loop(self: Any, shared: Any, params: Any) -> Any:
        run = _begin(self, params)
        if run is None:
            return await original(self, shared, params)
        try:
            action = await original(self, shared, params)
        except BaseException as error:
            _end(run, error)
            raise
        _end(run, None)
        return action

    return loop


LOOP: Final = WrapperPair(_loop_plain, _loop_waiting, 3)


def _begin(graph: Any, params: Any) -> GraphRun | None:
    """Enter a graph's loop, in its open run or a new one; None within the loop."""
    try:
        kind = _kind(graph)
        run = _run_to_loop_in(graph, params, kind) if kind is not None else None
    except Exception:  # noqa: BLE001 - the application goes on without us
        warn_once(f"graph {type(graph).__name__}")
        return None
    if run is not None:
        run.loop = LOOPING
    return run


def _run_to_loop_in(graph: Any, params: Any, kind: Kind) -> GraphRun | None:
    around, outer = _run(), _span()
    if (
        not isinstance(around, GraphRun)
        or around.owner is not graph
        or outer is not around.parent
    ):
        return GraphRun(wirings.name_of(graph, kind), graph, outer)
    if around.loop == LOOPING:
        return None
    if around.span is not None:
        around.span.enter()
    if params is None and around.loop == WAITING and not around.split:
        return around
    return around.item()


def _end(run: GraphRun, error: BaseException | None) -> None:
    run.loop = LOOPED
    whole = run.batch or run
    if error is None and whole.span is not None:
        whole.span.leave()
    if not run.by_run:
        run.leave()
        run.finish(error)
    elif error is not None:
        run.finish(error)
    if error is not None:
        whole.told = True


# -- get_next_node ---------------------------------------------------------------


def next_node(original: FunctionType) -> Function:
    """Wrap `get_next_node(node, action)`: where it finds none, the run ends."""

    def find(self: Any, node: Any, action: Any) -> Any:
        found = original(self, node, action)
        # Not by its truth: a node's class may have a `__len__`.
        if found is None:
            _note_end(self, node)
        return found

    def find_any(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(self, *args, **kwargs)
        if found is None:
            _note_end(self, next(iter((*args, *kwargs.values())), None))
        return found

    if takes(original, 3):
        return mirror(find, original)
    return seal(find_any, original)


def _note_end(graph: Any, node: Any) -> None:
    run = _run()
    if run is None or run.owner is not graph:
        return
    try:
        successors = getattr(node, "successors", None)
        if not isinstance(successors, dict) or not dict.__len__(successors):
            run.ends(NO_SUCCESSORS)
            return
        run.ends(UNMATCHED_ACTION)
        if _spans.listener is not None:
            known = islice(list(dict.keys(successors)), MAX_AVAILABLE)
            run.available = tuple(map(action_name, known))
    except Exception:  # noqa: BLE001 - of a property of the application's
        warn_once(f"successors of {type(node).__name__}")


def _kind(graph: Any) -> Kind | None:
    cls = type(graph)
    kind = _graphs.get(id(cls)) or kinds.graph(cls)
    return kind if kind is not None and process.settings.enabled else None

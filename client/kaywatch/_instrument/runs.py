"""The wrappers around a graph's functions: they open and close its runs.

Strategy: `_run` opens a run before anything is known about the loop, because some
graphs replace it. A loop that is entered without parameters belongs to that run. A loop
with parameters is an item of a batch, and has a run of its own. If no loop was entered
but nodes ran, then `_run` was the loop.

A graph that is called by the loop of another graph is a node there, with a span around
its own run. A graph that is called from within a node is not; the innermost span
distinguishes the two.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from kaywatch._inline import pair
from kaywatch._instrument.naming import NodeClass, is_batch, node_classes
from kaywatch._instrument.topology import TopologyReporter
from kaywatch._process import process
from kaywatch._spans import spans as _spans
from kaywatch._spans.details import ItemTiming
from kaywatch._spans.runs import Run, action_name, current_run
from kaywatch._spans.spans import Span, current_span, open_span
from kaywatch._wrappers import Hooks, second_argument, warn_once
from kaywatch.wire import EndReason

__all__ = ["LOOP", "NEXT_NODE", "RUN", "topology_reporter"]

NO_SUCCESSORS: Final = EndReason.NO_SUCCESSORS.value
UNMATCHED_ACTION: Final = EndReason.UNMATCHED_ACTION.value

MAX_AVAILABLE: Final = 20  # actions of a dead end's node that the listener gets

# The states of a run's loop.
NOT_ENTERED: Final = 0
LOOPING: Final = 1
LOOPED: Final = 2

_span: Final = current_span.get
_run: Final = current_run.get
_graphs: Final = node_classes.graphs

topology_reporter: Final = TopologyReporter()


class GraphRun(Run):
    """A run that is opened by the wrappers.

    Attributes:
        span: of the graph as a node of another one.
        opened_by_run: whether `_run` opened it, rather than the loop.
        batch: for an item, the run of the batch.
        loop: NOT_ENTERED, LOOPING or LOOPED.
        has_items: whether items had runs of their own.
        is_recorded: whether it was recorded, or an error of one of its items.
    """

    span: Span | None = None
    opened_by_run = False
    batch: GraphRun | None = None
    loop = NOT_ENTERED
    has_items = False
    is_recorded = False

    def open_item(self) -> GraphRun:
        """Open the run of an item of this batch."""
        self.has_items = True
        if self.span is not None:
            details = self.span.ensure_details()
            details.is_batch = is_batch(self.owner)
            # Attempts and waiting belong to the nodes in it.
            details.item_timings.append(ItemTiming(0, 0.0, 0.0))
        item = GraphRun(self.graph, self.owner, _span())
        item.batch = self
        return item

    def finish(self, error: BaseException | None = None) -> None:
        """Record the run if there was one: a loop, nodes, or an error."""
        ran = self.loop != NOT_ENTERED or (self.visits > 0 and not self.has_items)
        if self.is_recorded or not (ran or error is not None):
            return
        self.is_recorded = True
        seconds, reason = self.close(error)
        if _spans.listener is not None:
            _spans.listener.run_ended(self, seconds, reason, error)


# -- _run, _run_async ------------------------------------------------------------


def _enter_run(graph: Any, shared: object) -> GraphRun | None:
    """Open a graph's run, None if it isn't to be recorded or is open already."""
    try:
        node_class = _graph_class(graph)
        return _open_run(graph, node_class, shared) if node_class is not None else None
    except Exception:  # noqa: BLE001 - the application continues without us
        warn_once(f"graph {type(graph).__name__}")
        return None


def _open_run(graph: Any, node_class: NodeClass, shared: object) -> GraphRun | None:
    around, outer = _run(), _span()
    looping = around if around is not None and outer is around.parent else None
    if looping is not None and looping.owner is graph:
        return None
    name = topology_reporter.name_of(graph, node_class)
    span = None
    if looping is not None:
        series = process.recorder.series(looping.graph, name)
        outer = span = open_span(series, looping, outer, graph)
        span.notify_started(shared)
    run = GraphRun(name, graph, outer)
    run.opened_by_run = True
    run.span = span
    return run


def _leave_run(run: GraphRun, action: object, error: BaseException | None) -> None:
    run.leave()
    run.finish(error)
    if run.span is not None:
        run.span.close(action, error)


RUN: Final = Hooks(_enter_run, _leave_run)


# -- _orch, _orch_async ----------------------------------------------------------


def _enter_loop(graph: Any, params: Any) -> GraphRun | None:
    """Enter a graph's loop, in its open run or a new one; None within the loop."""
    try:
        run = _run_of_loop(graph, params)
    except Exception:  # noqa: BLE001 - the application continues without us
        warn_once(f"graph {type(graph).__name__}")
        return None
    if run is not None:
        run.loop = LOOPING
    return run


def _run_of_loop(graph: Any, params: Any) -> GraphRun | None:
    around, outer = _run(), _span()
    if (
        not isinstance(around, GraphRun)
        or around.owner is not graph
        or outer is not around.parent
    ):
        node_class = _graph_class(graph)
        if node_class is None:
            return None
        return GraphRun(topology_reporter.name_of(graph, node_class), graph, outer)
    if around.loop == LOOPING:
        return None
    if around.span is not None:
        around.span.enter_exec()
    if params is None and around.loop == NOT_ENTERED and not around.has_items:
        return around
    return around.open_item()


def _leave_loop(run: GraphRun, _: object, error: BaseException | None) -> None:
    run.loop = LOOPED
    whole = run.batch or run
    if error is None and whole.span is not None:
        whole.span.leave_exec()
    if not run.opened_by_run:
        run.leave()
        run.finish(error)
    elif error is not None:
        run.finish(error)
    if error is not None:
        whole.is_recorded = True


LOOP: Final = Hooks(_enter_loop, _leave_loop, second_argument)


# -- get_next_node ---------------------------------------------------------------


def _leave_next_node(
    call: tuple[Any, Any], successor: object, error: BaseException | None
) -> None:
    """Note why the graph's run ends at the node."""
    # Not by its truth: a node's class may define `__len__`.
    if successor is not None or error is not None:
        return
    graph, node = call
    run = _run()
    if run is None or run.owner is not graph:
        return
    try:
        successors = getattr(node, "successors", None)
        if not isinstance(successors, dict) or not dict.__len__(successors):
            run.set_reason(NO_SUCCESSORS)
            return
        run.set_reason(UNMATCHED_ACTION)
        if _spans.listener is not None:
            actions = islice(list(dict.keys(successors)), MAX_AVAILABLE)
            run.available_actions = tuple(map(action_name, actions))
    except Exception:  # noqa: BLE001 - of a property of the application's
        warn_once(f"successors of {type(node).__name__}")


# Of `get_next_node(node, action)`: if it returns None, the run ends.
NEXT_NODE: Final = Hooks(pair, _leave_next_node, only_none=True)


def _graph_class(graph: Any) -> NodeClass | None:
    """Return the metadata of a graph; None if it is not recorded."""
    if not process.settings.enabled:
        run = _run()
        # A run in progress is recorded to its end, with the graphs that are its nodes.
        if run is None or run.owner is None:
            return None
    cls = type(graph)
    return _graphs.get(id(cls)) or node_classes.graph(cls)

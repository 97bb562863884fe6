"""Instruments KayGraph and PocketFlow: every node, run and transition is recorded.

Strategy: the functions of the frameworks' classes are wrapped (`patching`), those of
nodes by the hooks of `visits` and `attempts`, those of graphs by the hooks of `runs`.
The application sees the same results, exceptions, warnings and `shared`.
"""

from __future__ import annotations

import inspect
import logging
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kaywatch._instrument import attempts as _attempts
from kaywatch._instrument import pickling as _pickling
from kaywatch._instrument import runs as _runs
from kaywatch._instrument import threads as _threads
from kaywatch._instrument import visits as _visits
from kaywatch._instrument.imports import forget, when_imported
from kaywatch._instrument.naming import NAME, node_classes
from kaywatch._instrument.patching import Patches
from kaywatch._instrument.payloads import Measurements, with_measurements
from kaywatch._process import configure, process
from kaywatch.errors import ConfigurationError
from kaywatch.wire import MAX_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import FunctionType

    from kaywatch._wrappers import Function, Hooks

__all__ = ["instrument", "instrument_when_imported", "name", "uninstrument"]

T = TypeVar("T")

FRAMEWORKS: Final = ("kaygraph", "pocketflow")
SDKS: Final = ("anthropic", "openai")

# The frameworks await the results of some functions, and never those of others.
_AWAITED: Final = frozenset(
    {"_run_async", "_orch_async", "exec_async", "exec_fallback_async"}
)
_NOT_AWAITED: Final = frozenset({"on_error", "get_next_node"})
_NODES: Final[Mapping[str, Hooks[Any]]] = {
    "_run": _visits.RUN,
    "_run_async": _visits.RUN,
    "exec": _attempts.EXEC,
    "exec_async": _attempts.EXEC,
    "exec_fallback": _visits.FALLBACK,
    "exec_fallback_async": _visits.FALLBACK,
    "on_error": _visits.ON_ERROR,
}
_GRAPHS: Final[Mapping[str, Hooks[Any]]] = {
    **_NODES,
    "_run": _runs.RUN,
    "_run_async": _runs.RUN,
    "_orch": _runs.LOOP,
    "_orch_async": _runs.LOOP,
    "get_next_node": _runs.NEXT_NODE,
}
_NAMES: Final = (*_GRAPHS, "_exec")

log = logging.getLogger("kaywatch")


def instrument(
    *,
    service: str | None = None,
    endpoint: str | None = None,
    tags: Mapping[str, str] | None = None,
    modules: Iterable[ModuleType | str] | None = None,
    data_sizes: bool | None = None,
    memory: bool | None = None,
    llm: bool = True,
    threads: bool | None = None,
) -> list[str]:
    """Record every node, run and transition of KayGraph and PocketFlow from now on.

    Also record every call of a language model through the packages `openai` and
    `anthropic`: its tokens, cost, duration and errors, by the node that makes it. No
    text is read.

    Call it once, early; calling it again is harmless. It covers nodes and graphs that
    exist already and classes that are defined later. It imports nothing: a framework
    that the application imports or reloads later is instrumented then. With
    `KAYGRAPH_COLLECT_METRICS=false` it does nothing.

    Args:
        service: the name to report under; see `kaywatch.configure`.
        endpoint: where the agent listens; see `kaywatch.configure`.
        tags: labels of this process; see `kaywatch.configure`.
        modules: frameworks, or their names, instead of `kaygraph` and `pocketflow`:
            a fork of one, for instance.
        data_sizes: also record the length of the text of each payload that `prep`
            returns, and the characters per second: KayGraph's `data_size` and
            `processing_rate`. Costs a `str()` of each payload. Off by default.
        memory: also record the process's memory after each node, for the node's
            `peak_memory_mb`. Costs some 10 us a node. Off by default.
        llm: False leaves `openai` and `anthropic` alone.
        threads: False attributes nothing that a thread records to the node that
            started it or submitted a task to its pool. Default: `KAYWATCH_THREADS`,
            else True.

    Returns:
        The names of the modules that are instrumented now; modules that are not
        imported yet follow later.

    Example:
        kaywatch.instrument(service="shop", tags={"zone": "b"}, memory=True)

    Threads and forks:
        Call it once, in the main thread or while a module is imported. Children of a
        fork are instrumented as well.

    Raises:
        ConfigurationError: if a setting is invalid, before anything has changed.
    """
    configure(service=service, endpoint=endpoint, tags=tags)
    if not process.settings.enabled:
        return []
    _set_measurements(data_sizes, memory)
    if llm:
        _await_sdks()
    _set_threads(_threads.is_on_by_default() if threads is None else threads)
    _pickling.pickle_originals()
    requested = list(FRAMEWORKS if modules is None else modules)
    patched = [m.__name__ for m in requested if isinstance(m, ModuleType) and _patch(m)]
    for name in requested:
        if not isinstance(name, ModuleType):
            when_imported(name, _patch)
            patched += _patches.names_of(name)
    if requested and not patched and not any(map(_can_be_imported, requested)):
        names = ", ".join(str(getattr(m, "__name__", m)) for m in requested)
        log.warning("nothing to instrument: no framework found in %s", names)
    return patched


def instrument_when_imported() -> None:
    """Instrument each framework and SDK once the application imports it.

    For `kaywatch run`, whose settings are environment variables.
    """
    if process.settings.enabled:
        for framework in FRAMEWORKS:
            when_imported(framework, _patch)
        _await_sdks()
        _set_threads(_threads.is_on_by_default())
        _pickling.pickle_originals()


def uninstrument() -> None:
    """Restore every function that `instrument` replaced.

    Frameworks that are imported later are not instrumented, either. Executions in
    progress are recorded to their end.

    Example:
        kaywatch.instrument()
        kaywatch.uninstrument()
    """
    global _measurements  # noqa: PLW0603 - as the patches are, once for the process
    _measurements = Measurements()
    forget(_patch)
    # `kaywatch run` has a finder of its own, which imports this module when needed.
    finders = [f for f in sys.meta_path if type(f).__name__ == "FrameworkFinder"]
    for finder in finders:
        sys.meta_path.remove(finder)
    _patches.restore()
    _threads.restore()
    _pickling.restore()
    forget(_patch_sdk)
    if "kaywatch._llm.sdks" in sys.modules:
        sys.modules["kaywatch._llm.sdks"].restore()
    node_classes.clear()
    _runs.topology_reporter.clear()


def name(node_or_graph: T, text: str) -> T:
    """Name a node or a graph, instead of by its id or class.

    Example:
        flow = kaywatch.name(Flow(start=Node()), "checkout")

    Args:
        node_or_graph: the object; copies of it keep the name.
        text: the name; only the first 200 characters are used.

    Returns:
        The object.

    Raises:
        ConfigurationError: if the text is empty or not a str, or the object cannot be
            named.
    """
    value: object = text
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"name(..., {text!r}): expected a str, not empty")
    try:
        # Bypasses a class that forbids it, such as a frozen dataclass.
        object.__setattr__(node_or_graph, NAME, str(text)[:MAX_NAME])
    except (AttributeError, TypeError) as error:
        cls = type(node_or_graph).__name__
        raise ConfigurationError(
            f"name(...): a {cls} cannot be named; name a node or a graph"
        ) from error
    _runs.topology_reporter.forget(node_or_graph)
    return node_or_graph


def _set_measurements(data_sizes: bool | None, memory: bool | None) -> None:
    """Change the measurements at each node; None keeps a setting."""
    global _measurements
    options = {"data_sizes": data_sizes, "memory": memory}
    changes = {key: value for key, value in options.items() if value is not None}
    before, _measurements = _measurements, _measurements._replace(**changes)
    if _measurements != before:
        for module in _patches.restore():
            _patches.add(module)


def _set_threads(is_on: bool) -> None:
    if is_on:
        _threads.carry_into_threads()
    else:
        _threads.restore()


def _patch(module: ModuleType) -> bool:
    """Instrument a framework; return whether the module is one."""
    if not process.settings.enabled:
        return False  # disabled while its import was awaited
    # Now, rather than by the first node that runs: it takes some 45 ms.
    import kaywatch._send.sender  # noqa: F401

    node_classes.adopt = _patches.adopt
    node_classes.is_own = _patches.is_own
    return _patches.add(module)


def _await_sdks() -> None:
    for sdk in SDKS:
        when_imported(sdk, _patch_sdk)


def _patch_sdk(module: ModuleType) -> None:
    # Not before: applications without language models don't import it.
    from kaywatch._llm import sdks

    sdks.patch(module)


def _can_be_imported(module: ModuleType | str) -> bool:
    """Return whether a module that isn't imported yet may become one to instrument."""
    if isinstance(module, ModuleType) or module in sys.modules:
        return False
    try:
        return find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _wrap(
    cls: type, graph: bool, function_name: str, function: FunctionType
) -> Function | None:
    if function_name in _NOT_AWAITED and inspect.iscoroutinefunction(function):
        return None
    if function_name == "_exec":
        is_override = _attempts.overrides_loop(cls)
        hooks = _attempts.EXEC_OVERRIDE if is_override else _attempts.EXEC_LOOP
        if any(_measurements):
            hooks = with_measurements(hooks, _measurements)
        return hooks.wrap(function, awaited=hasattr(cls, "_run_async"))
    table = _GRAPHS if graph else _NODES
    if function_name not in table:
        return None
    awaited = function_name in _AWAITED
    return table[function_name].wrap(function, awaited=awaited)


_measurements = Measurements()
_patches: Final = Patches(_NAMES, _wrap)

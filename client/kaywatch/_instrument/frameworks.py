"""Instruments KayGraph and PocketFlow: every node, run and transition from then on.

Strategy: the functions of the frameworks' classes are wrapped (`_patching`), those of
nodes by `_visits` and `_attempts`, those of graphs by `_runs`. What an application
sees stays the same: results, exceptions, warnings, and what is in `shared`. Only
tracebacks have a line more for each wrapper, and a warning whose `stacklevel` points
at a caller may point at one.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Final, TypeVar

from kaywatch._instrument import attempts as _attempts
from kaywatch._instrument import runs as _runs
from kaywatch._instrument import visits as _visits
from kaywatch._instrument.imports import forget, when_imported
from kaywatch._instrument.naming import NAME, kinds
from kaywatch._instrument.patching import Patches
from kaywatch._instrument.payloads import Measures, measured
from kaywatch._process import configure, process
from kaywatch.errors import ConfigurationError
from kaywatch.wire import MAX_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import FunctionType

    from kaywatch._instrument.wrapping import WrapperPair
    from kaywatch._wrappers import Function

__all__ = ["instrument", "instrument_when_imported", "name", "uninstrument"]

T = TypeVar("T")

FRAMEWORKS: Final = ("kaygraph", "pocketflow")
SDKS: Final = ("anthropic", "openai")

# What the caller of a function of this name does with the result.
_AWAITED: Final = frozenset(
    {"_run_async", "_orch_async", "exec_async", "exec_fallback_async"}
)
_NOT_AWAITED: Final = frozenset({"on_error", "get_next_node"})
_NODES: Final[Mapping[str, WrapperPair]] = {
    "_run": _visits.RUN,
    "_run_async": _visits.RUN,
    "exec": _attempts.EXECUTE,
    "exec_async": _attempts.EXECUTE,
    "exec_fallback": _attempts.FALLBACK,
    "exec_fallback_async": _attempts.FALLBACK,
    "on_error": _visits.ON_ERROR,
}
_GRAPHS: Final[Mapping[str, WrapperPair]] = {
    **_NODES,
    "_run": _runs.RUN,
    "_run_async": _runs.RUN,
    "_orch": _runs.LOOP,
    "_orch_async": _runs.LOOP,
}
_NAMES: Final = (*_GRAPHS, "_exec", "get_next_node")

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
) -> list[str]:
    """Record every node, run and transition of KayGraph and PocketFlow from here on.

    And every call of a language model through the packages `openai` and `anthropic`:
    its tokens, cost, time and errors, by the node that makes it. No text is looked at.

    Call it once, early; calling it again is harmless. Nodes and graphs that exist
    already are recorded too, and so are classes that are defined later. With
    `KAYGRAPH_COLLECT_METRICS=false` nothing is touched.

    Args:
        service: the name to report under; see `kaywatch.configure`.
        endpoint: where the agent listens; see `kaywatch.configure`.
        tags: a few words about this process; see `kaywatch.configure`.
        modules: frameworks, or their names, instead of `kaygraph` and `pocketflow`:
            a fork of one, for instance.
        data_sizes: also record how long the text of each payload is that `prep`
            returned, and the characters per second: KayGraph's `data_size` and
            `processing_rate`. Costs a `str()` of each payload. Off by default.
        memory: also record the process's memory after each node, for the node's
            `peak_memory_mb`. Costs some 10 us a node. Off by default.
        llm: False leaves `openai` and `anthropic` alone.

    Returns:
        The names of the modules that are instrumented, empty if none was found.

    Raises:
        ConfigurationError: if a setting can't be used, before anything has changed.
    """
    configure(service=service, endpoint=endpoint, tags=tags)
    if not process.settings.enabled:
        return []
    _measure(data_sizes, memory)
    if llm:
        _await_sdks()
    wanted = list(FRAMEWORKS if modules is None else modules)
    found = [module for module in map(_imported, wanted) if module is not None]
    done = [module.__name__ for module in found if _patch(module)]
    if wanted and not done:
        looked_for = ", ".join(str(getattr(m, "__name__", m)) for m in wanted)
        log.warning("nothing to instrument: no framework found in %s", looked_for)
    return done


def instrument_when_imported() -> None:
    """Do as `instrument`, with each module not before the application imports it.

    For `kaywatch run`, whose settings come by the environment.
    """
    if process.settings.enabled:
        for framework in FRAMEWORKS:
            when_imported(framework, _patch)
        _await_sdks()


def uninstrument() -> None:
    """Put back every function that `instrument` replaced, and wait for no import.

    What runs at this moment is recorded to its end.
    """
    global _measures  # noqa: PLW0603 - as the patches are, once for the process
    _measures = Measures()
    forget(_patch)
    # That of `kaywatch run`, which knows nothing of this module before it is needed.
    waiting = [f for f in sys.meta_path if type(f).__name__ == "FrameworkFinder"]
    for finder in waiting:
        sys.meta_path.remove(finder)
    _patches.restore()
    forget(_patch_sdk)
    if "kaywatch._llm.sdks" in sys.modules:
        sys.modules["kaywatch._llm.sdks"].restore()
    kinds.clear()
    _runs.wirings.clear()


def name(node_or_graph: T, text: str) -> T:
    """Name a node or a graph, instead of by its id or class.

        flow = kaywatch.name(Flow(start=load), "checkout")

    Args:
        node_or_graph: the object; copies of it keep the name.
        text: the name, at most 200 characters of which count.

    Returns:
        The object.

    Raises:
        ConfigurationError: if the text is no str or empty, or the object can't be
            named.
    """
    given: object = text
    if not isinstance(given, str) or not given:
        raise ConfigurationError(f"name(..., {text!r}): expected a str, not empty")
    try:
        # Past a class that forbids it, such as a frozen dataclass.
        object.__setattr__(node_or_graph, NAME, str(text)[:MAX_NAME])
    except (AttributeError, TypeError) as error:
        kind = type(node_or_graph).__name__
        raise ConfigurationError(f"name: a {kind} can't be named") from error
    _runs.wirings.forget(node_or_graph)
    return node_or_graph


def _measure(data_sizes: bool | None, memory: bool | None) -> None:
    """Change what is measured beside; what isn't given stays as it is."""
    global _measures
    given = {"data_sizes": data_sizes, "memory": memory}
    changes = {key: value for key, value in given.items() if value is not None}
    before, _measures = _measures, _measures._replace(**changes)
    if _measures != before:
        for module in _patches.restore():
            _patches.add(module)


def _patch(module: ModuleType) -> bool:
    """Instrument a framework; return whether it is one."""
    if not process.settings.enabled:
        return False  # switched off since somebody began to wait for its import
    # Now, rather than by the first node that runs: some 45 ms.
    import kaywatch._send.sender  # noqa: F401

    kinds.adopt = _patches.adopt
    kinds.is_own = _patches.is_own
    return _patches.add(module)


def _await_sdks() -> None:
    for sdk in SDKS:
        when_imported(sdk, _patch_sdk)


def _patch_sdk(module: ModuleType) -> None:
    # Not before: an application without language models does without it.
    from kaywatch._llm import sdks

    sdks.patch(module)


def _imported(module: ModuleType | str) -> ModuleType | None:
    if isinstance(module, ModuleType):
        return module
    try:
        return importlib.import_module(module)
    except ImportError:
        return None
    except Exception:
        log.warning("%s can't be imported", module, exc_info=True)
        return None


def _wrap(
    cls: type, graph: bool, function_name: str, function: FunctionType
) -> Function | None:
    if function_name in _NOT_AWAITED and inspect.iscoroutinefunction(function):
        return None
    if function_name == "get_next_node":
        return _runs.next_node(function)
    if function_name == "_exec":
        pair = _attempts.BATCH if _attempts.overrides_loop(cls) else _attempts.LOOP
        wrapper = pair.wrap(function, awaited=hasattr(cls, "_run_async"))
        return measured(wrapper, function, _measures) if any(_measures) else wrapper
    pairs = _GRAPHS if graph else _NODES
    if function_name not in pairs:
        return None
    return pairs[function_name].wrap(function, awaited=function_name in _AWAITED)


_measures = Measures()
_patches: Final = Patches(_NAMES, _wrap)

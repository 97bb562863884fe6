"""Production monitoring for KayGraph and PocketFlow, and for the code around them.

    import kaywatch

    kaywatch.instrument()     # every node, run and transition from here on

The client records on the application's threads in well under a microsecond, and one
background thread pushes batches to the kaywatch agent on this host. Without an agent,
the application runs as usual.
"""

import _thread
import atexit
import sys

from kaywatch import _early

TYPE_CHECKING = False  # that of `typing` takes ten times as long as this import
if TYPE_CHECKING:
    from kaywatch._instrument.frameworks import instrument, name, uninstrument
    from kaywatch._llm.calls import record_llm
    from kaywatch._process import client_stats, configure, flush
    from kaywatch._spans.blocks import execution
    from kaywatch._spans.metrics import count, gauge, observe
    from kaywatch._version import __version__
    from kaywatch.errors import (
        AgentRefused,
        AgentUnreachable,
        ConfigurationError,
        KaywatchError,
        QueryError,
    )
    from kaywatch.prices import Price
    from kaywatch.query import stats

__all__ = [
    "AgentRefused",
    "AgentUnreachable",
    "ConfigurationError",
    "KaywatchError",
    "Price",
    "QueryError",
    "__version__",
    "client_stats",
    "configure",
    "count",
    "execution",
    "flush",
    "gauge",
    "instrument",
    "name",
    "observe",
    "record_llm",
    "stats",
    "uninstrument",
]

# Imported at first use: a program that imports kaywatch without using it pays nothing.
_LAZY = {
    "AgentRefused": "kaywatch.errors",
    "AgentUnreachable": "kaywatch.errors",
    "ConfigurationError": "kaywatch.errors",
    "KaywatchError": "kaywatch.errors",
    "Price": "kaywatch.prices",
    "QueryError": "kaywatch.errors",
    "__version__": "kaywatch._version",
    "client_stats": "kaywatch._process",
    "configure": "kaywatch._process",
    "count": "kaywatch._spans.metrics",
    "errors": "kaywatch.errors",
    "execution": "kaywatch._spans.blocks",
    "flush": "kaywatch._process",
    "gauge": "kaywatch._spans.metrics",
    "instrument": "kaywatch._instrument.frameworks",
    "name": "kaywatch._instrument.frameworks",
    "observe": "kaywatch._spans.metrics",
    "record_llm": "kaywatch._llm.calls",
    "stats": "kaywatch.query",
    "uninstrument": "kaywatch._instrument.frameworks",
}

_importing: "list[int]" = []  # the threads that import one of these modules


def __getattr__(attribute: str) -> object:
    """Import a name at its first use."""
    module = _LAZY.get(attribute)
    if module is None:
        raise AttributeError(f"module 'kaywatch' has no attribute {attribute!r}")
    thread = _thread.get_ident()
    if thread in _importing and (early := _early.stand_in(attribute)) is not None:
        return early  # a finalizer or signal handler interrupts this thread's import
    _importing.append(thread)
    try:
        from importlib import import_module

        imported = import_module(module)
    finally:
        _importing.remove(thread)
    value: object = getattr(imported, attribute, imported)
    globals()[attribute] = value
    if thread not in _importing:
        _early.repeat_calls()
    return value


def __dir__() -> "list[str]":
    return sorted({*globals(), *__all__})


def _end_last() -> None:
    """Send what is pending, if anything was recorded."""
    process = getattr(sys.modules.get("kaywatch._process"), "process", None)
    if process is not None:
        process.end_last()


# Exit handlers run in reverse order. Those that the application registers from now on
# may still record something after the call that `kaywatch._exits` registers.
atexit.register(_end_last)

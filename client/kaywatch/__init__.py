"""Production monitoring for KayGraph and PocketFlow, and for the code around them.

    import kaywatch

    kaywatch.instrument()     # every node, run and transition from here on

The client records on the application's threads in well under a microsecond, and one
background thread pushes batches to the kaywatch agent on this host. Without an agent,
the application runs as usual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from kaywatch._instrument.frameworks import instrument, name, uninstrument
    from kaywatch._llm.calls import record_llm
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

# Imported at first use, so that `import kaywatch` takes at most 20 ms.
_LAZY = {
    "Price": "kaywatch.prices",
    "instrument": "kaywatch._instrument.frameworks",
    "name": "kaywatch._instrument.frameworks",
    "record_llm": "kaywatch._llm.calls",
    "stats": "kaywatch.query",
    "uninstrument": "kaywatch._instrument.frameworks",
}


def __getattr__(attribute: str) -> Any:
    module = _LAZY.get(attribute)
    if module is None:
        raise AttributeError(f"module 'kaywatch' has no attribute {attribute!r}")
    from importlib import import_module

    value = getattr(import_module(module), attribute)
    globals()[attribute] = value
    return value

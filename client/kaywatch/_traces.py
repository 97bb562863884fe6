"""The application's own traces, if it records any with OpenTelemetry."""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["current_trace_id"]

_modules: Final = sys.modules


def current_trace_id() -> str:
    """Return the id of the caller's current trace; empty without a trace.

    It has 32 hexadecimal digits, as in `traceparent` (W3C Trace Context). kaywatch does
    not import OpenTelemetry: an application that has a trace already did.
    """
    api = _modules.get("opentelemetry.trace")
    if api is None:
        return ""
    try:
        number: int = api.get_current_span().get_span_context().trace_id
    except Exception:  # noqa: BLE001 - half imported, or replaced by something else
        return ""
    return f"{number:032x}" if number else ""

"""Reads a server's answers to OTLP requests.

Source: opentelemetry.io/docs/specs/otlp, "OTLP/HTTP Response", and google/rpc/status.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)

from kaywatch_agent.notify.http import Response
from kaywatch_agent.protobuf import Field, message_types

__all__ = ["PROTOBUF", "error_text", "is_otlp", "partial_success"]

MAX_ERROR: Final = 200  # characters of a server's error message
PROTOBUF: Final = "application/x-protobuf"

_messages: Final = message_types(
    "google.rpc",
    {"Status": (Field("code", "int32", 1), Field("message", "string", 2))},
)


def error_text(response: Response) -> str:
    """Return the message of an error: of a Status in protobuf, or the first line."""
    if _is_protobuf(response):
        try:
            status = _messages.Status.FromString(response.body)
        except DecodeError:
            return ""
        return str(status.message)[:MAX_ERROR]
    return response.text.partition("\n")[0][:MAX_ERROR]


def is_otlp(response: Response) -> bool:
    """Return whether a 2xx is one of OTLP, as far as it can be seen.

    Some servers, such as Prometheus, answer nothing but the status.
    """
    if not response.body:
        return True
    try:
        ExportMetricsServiceResponse.FromString(response.body)
    except DecodeError:
        return False
    return _is_protobuf(response)


def partial_success(body: bytes) -> Any:
    """Return what a server rejected; nothing, if its answer is not of OTLP."""
    try:
        return ExportMetricsServiceResponse.FromString(body).partial_success
    except DecodeError:
        return ExportMetricsServiceResponse().partial_success


def _is_protobuf(response: Response) -> bool:
    return response.headers.get("Content-Type", "").partition(";")[0] == PROTOBUF

"""Sends a canary to an OTLP server, and reads its answer.

Strategy: a counter and an exponential histogram in one request, under names of their
own, so that no exported series changes. OTLP has no queries, so nothing is read back.
Cumulative series are ended by a second request.
"""

from __future__ import annotations

import gzip
import secrets
import time
from typing import Any, Final, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from kaywatch._version import __version__
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.export.canary import COUNTER, HISTOGRAM
from kaywatch_agent.export.client import request_options
from kaywatch_agent.export.config import OtlpConfig
from kaywatch_agent.export.otlp import HEADERS
from kaywatch_agent.export.otlp_points import AGENT
from kaywatch_agent.export.otlp_response import error_text, is_otlp, partial_success
from kaywatch_agent.notify.http import HttpClient, NoResponse, Response
from kaywatch_agent.runtime.host import host_name

__all__ = ["POINTS", "OtlpCanaryResult", "send_otlp_canary"]

POINTS: Final = 2  # of the canary
# The point says that its series has no value any more.
ENDED: Final = pb.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK
_SECOND: Final = 1_000_000_000
_TEMPORALITIES: Final = {
    "cumulative": pb.AGGREGATION_TEMPORALITY_CUMULATIVE,
    "delta": pb.AGGREGATION_TEMPORALITY_DELTA,
}


class OtlpCanaryResult(NamedTuple):
    """The answer to a canary.

    Attributes:
        unavailable: why there was no answer; empty if there was one.
        status: the HTTP status.
        message: the server's own text.
        rejected: how many points of an accepted request the server rejected.
        is_otlp: whether a 2xx can be one of an OTLP server.
    """

    unavailable: str = ""
    status: int = 0
    message: str = ""
    rejected: int = 0
    is_otlp: bool = True


async def send_otlp_canary(config: OtlpConfig) -> OtlpCanaryResult:
    """Send a canary, and end its series if it was accepted."""
    http = HttpClient()
    canary, now = secrets.token_hex(4), time.time_ns()
    try:
        response = await _post(http, config, _request(config, canary, now, 0))
        result = _result(response)
        if 200 <= response.status < 300 and config.temporality == "cumulative":
            await _post(http, config, _request(config, canary, now + 1, ENDED))
    except (NoResponse, ConfigError) as error:
        return OtlpCanaryResult(unavailable=str(error))
    finally:
        await http.aclose()
    return result


async def _post(http: HttpClient, config: OtlpConfig, data: bytes) -> Response:
    body = gzip.compress(data, 1, mtime=0)
    options = request_options(config)
    return await http.post(config.url, body, HEADERS, options=options)


def _result(response: Response) -> OtlpCanaryResult:
    if not 200 <= response.status < 300:
        return OtlpCanaryResult(status=response.status, message=error_text(response))
    partial = partial_success(response.body)
    return OtlpCanaryResult(
        status=response.status,
        message=partial.error_message,
        rejected=partial.rejected_data_points,
        is_otlp=is_otlp(response),
    )


def _request(config: OtlpConfig, canary: str, now: int, flags: int) -> bytes:
    """Return an encoded request.

    Args:
        config: of the server.
        canary: the value of the label that no other canary has.
        now: the time of the points, Unix nanoseconds.
        flags: of the points.
    """
    request = ExportMetricsServiceRequest()
    resource = request.resource_metrics.add()
    attributes = {
        "service.name": AGENT,
        "host.name": host_name(),
        **config.resource,
    }
    resource.resource.attributes.extend(
        _attribute(name, value) for name, value in attributes.items()
    )
    scope = resource.scope_metrics.add()
    scope.scope.name, scope.scope.version = "kaywatch", __version__
    counter = scope.metrics.add(name=COUNTER).sum
    counter.is_monotonic = True
    histogram = scope.metrics.add(name=HISTOGRAM).exponential_histogram
    for field in (counter, histogram):
        field.aggregation_temporality = _TEMPORALITIES[config.temporality]
        point = field.data_points.add(
            start_time_unix_nano=now - _SECOND, time_unix_nano=now, flags=flags
        )
        point.attributes.append(_attribute("canary", canary))
        if not flags:
            _set_one(point)
    encoded: bytes = request.SerializeToString()
    return encoded


def _set_one(point: Any) -> None:
    """Set a point to a single value, 1."""
    if isinstance(point, pb.NumberDataPoint):
        point.as_double = 1.0
    else:
        # One value between 2 ** (-1 / 32) and 1.
        point.count, point.sum, point.scale = 1, 1.0, 5
        point.positive.offset = -1
        point.positive.bucket_counts.append(1)


def _attribute(name: str, value: str) -> KeyValue:
    return KeyValue(key=name, value=AnyValue(string_value=value))

"""Writes a canary to a server, and reads it back: a 2xx alone proves nothing.

Strategy: a counter and a histogram in one request, with a label of their own, so that
an earlier canary is not mistaken for this one. At the end both are marked as stale.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from kaywatch_agent.aggregate.native_histogram import BucketSpans, NativeHistogram
from kaywatch_agent.export.client import QueryFailed, RemoteWriteClient, Unavailable
from kaywatch_agent.export.config import RemoteWriteConfig
from kaywatch_agent.export.encoding import (
    STALE,
    encode_histogram,
    encode_labels,
    encode_request,
    encode_sample,
    messages,
)
from kaywatch_agent.export.histogram_support import stored_names
from kaywatch_agent.export.sender import NATIVE_DISABLED
from kaywatch_agent.notify.http import HttpClient

__all__ = ["COUNTER", "HISTOGRAM", "CanaryResult", "send_canary"]

COUNTER: Final = "kaywatch_canary_total"
HISTOGRAM: Final = "kaywatch_canary_seconds"
# A server that stores a sample returns it within a second or two. After a query that
# came too early, VictoriaMetrics caches for ten seconds that the series does not exist.
READ_SECONDS: Final = 12.0
READ_EVERY: Final = 1.0
# How much later than the counter a histogram of the same request may be found.
HISTOGRAM_SECONDS: Final = 2.0
# One value between 2 ** (-1 / 32) and 1.
_ONE: Final = NativeHistogram(5, 0, BucketSpans([], [], []), BucketSpans([0], [1], [1]))
_VALUE: Final = 1.0
_BOUNDS: Final = ("1.0", "+Inf")


class CanaryResult(NamedTuple):
    """The result of a canary.

    Attributes:
        refused: why the server refused the whole request; empty if it did not.
        native_refused: whether it refused the native histogram.
        unread: why it could not be read back; empty if it was.
        missing: the metrics that were accepted but not found.
    """

    refused: str = ""
    native_refused: bool = False
    unread: str = ""
    missing: frozenset[str] = frozenset()


async def send_canary(
    config: RemoteWriteConfig, seconds: float = READ_SECONDS
) -> CanaryResult:
    """Write a canary, read it back, and end its series.

    Args:
        config: of the server.
        seconds: how long to wait until it can be read.
    """
    http = HttpClient()
    try:
        return await _Canary(config, RemoteWriteClient(config, http)).run(seconds)
    finally:
        await http.aclose()


class _Canary:
    def __init__(self, config: RemoteWriteConfig, client: RemoteWriteClient) -> None:
        self._config = config
        self._client = client
        self._labels = {**config.all_labels, "canary": secrets.token_hex(4)}
        self._time = int(time.time() * 1000)

    async def run(self, seconds: float) -> CanaryResult:
        try:
            counter, *histogram = self._series()
            response = await self._client.post(encode_request([counter, *histogram]))
            native_refused = NATIVE_DISABLED in response.text.lower()
            if native_refused:
                response = await self._client.post(encode_request([counter]))
        except Unavailable as error:
            return CanaryResult(refused=str(error))
        if not 200 <= response.status < 300:
            text = response.text.partition("\n")[0][:200]
            return CanaryResult(refused=f"HTTP {response.status}: {text}")
        expected = {COUNTER} if native_refused else {COUNTER, HISTOGRAM}
        result = await self._read(expected, seconds)
        await self._end()
        return result._replace(native_refused=native_refused)

    async def _read(self, expected: set[str], seconds: float) -> CanaryResult:
        """Wait until all metrics are stored, or until only some are."""
        if not self._config.query_address:
            return CanaryResult(unread="the address of its query API is not known")
        end = time.monotonic() + seconds
        while True:
            await asyncio.sleep(READ_EVERY)
            try:
                stored = await stored_names(self._client, expected, self._labels)
            except (QueryFailed, Unavailable) as error:
                return CanaryResult(unread=str(error))
            if stored == expected or time.monotonic() >= end:
                return CanaryResult(missing=frozenset(expected - stored))
            if stored:
                end = min(end, time.monotonic() + HISTOGRAM_SECONDS)

    async def _end(self) -> None:
        """Mark the series as stale, if the server can be reached."""
        ended = [
            encode_sample(_labels_of(series), STALE, self._time + 1)
            for series in self._series()
        ]
        # Otherwise they end five minutes later.
        with contextlib.suppress(Unavailable):
            await self._client.post(encode_request(ended))

    def _series(self) -> list[bytes]:
        """Return the counter, and then the series of the histogram."""
        encoded = [self._sample(COUNTER)]
        if self._config.histograms == "classic":
            encoded += [
                self._sample(f"{HISTOGRAM}_bucket", {"le": bound}) for bound in _BOUNDS
            ]
            encoded += [
                self._sample(f"{HISTOGRAM}_{part}") for part in ("count", "sum")
            ]
        else:
            labels = encode_labels(HISTOGRAM, (), self._labels)
            encoded.append(encode_histogram(labels, _ONE, 1, _VALUE, self._time))
        return encoded

    def _sample(self, name: str, labels: Mapping[str, str] = {}) -> bytes:
        encoded = encode_labels(name, labels.items(), self._labels)
        return encode_sample(encoded, _VALUE, self._time)


def _labels_of(series: bytes) -> bytes:
    parsed = messages.TimeSeries.FromString(series)
    labels: bytes = messages.TimeSeries(labels=parsed.labels).SerializeToString()
    return labels

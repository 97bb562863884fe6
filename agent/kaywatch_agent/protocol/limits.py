"""How much of anything one message may hold; with those of `kaywatch.wire`, all."""

from __future__ import annotations

from typing import Final

__all__ = [
    "CLIENT_BYTES",
    "MAX_ATTEMPTS",
    "MAX_COUNT",
    "MAX_LABELS",
    "MAX_LIST",
    "MAX_MESSAGE",
    "MAX_PID",
    "MAX_ROWS",
    "MAX_SEQ",
    "MAX_SKIP",
    "MAX_TAGS",
    "MAX_TIME",
    "MAX_TRACEBACK",
]

CLIENT_BYTES: Final = 16
MAX_TAGS: Final = 16
MAX_LABELS: Final = 16
MAX_MESSAGE: Final = 500  # characters of a failure's message
MAX_TRACEBACK: Final = 4_000  # and of its traceback

# Failures, topologies, nodes in flight, a topology's nodes and its edges, each. Our
# client sends 1,000 at most.
MAX_LIST: Final = 5_000

# Rows cost a loop in Python, 2 us each: 40 ms. A sender of more should use columns.
MAX_ROWS: Final = 20_000

# A frame over MAX_FRAME is skipped, so that the stream stays in step. Beyond this the
# four bytes are more likely no length at all: "GET " read as one is 1.2 GB.
MAX_SKIP: Final = 64 * 1024 * 1024

# Later stages calculate with these numbers and store them as 64-bit integers. One
# beyond its bound is a sender's bug, and must not become an error over there.
MAX_SEQ: Final = 2**63 - 1
MAX_COUNT: Final = 2**48  # sums of thousands of such reports still fit
MAX_ATTEMPTS: Final = 65_535
MAX_PID: Final = 2**31 - 1
MAX_TIME: Final = 253_402_300_799.0  # the last second of the year 9999

"""Limits of a message, besides those in `kaywatch.wire` and `model.bounds`."""

from __future__ import annotations

from typing import Final

__all__ = [
    "CLIENT_BYTES",
    "MAX_LABELS",
    "MAX_PID",
    "MAX_ROWS",
    "MAX_SEQ",
    "MAX_SKIP",
    "MAX_TAGS",
]

CLIENT_BYTES: Final = 16
MAX_TAGS: Final = 16
MAX_LABELS: Final = 16

# Rows cost a loop in Python, 2 us each: 40 ms. A sender of more should use columns.
MAX_ROWS: Final = 20_000

# A frame over MAX_FRAME is skipped, so that the stream stays in step. Beyond this the
# four bytes are more likely no length at all: "GET " read as one is 1.2 GB.
MAX_SKIP: Final = 64 * 1024 * 1024

# Later stages store them as 64-bit integers.
MAX_SEQ: Final = 2**63 - 1
MAX_PID: Final = 2**31 - 1

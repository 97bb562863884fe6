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

# Rows are read in a Python loop, at 2 us each: 40 ms. Columns are for larger batches.
MAX_ROWS: Final = 20_000

# A frame larger than MAX_FRAME is skipped, so that the next one can be read. A length
# beyond this limit is probably not a length: "GET " read as one is 1.2 GB.
MAX_SKIP: Final = 64 * 1024 * 1024

# Later stages store sequence numbers as 64-bit integers.
MAX_SEQ: Final = 2**63 - 1
MAX_PID: Final = 2**31 - 1

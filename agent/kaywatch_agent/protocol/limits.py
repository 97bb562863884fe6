"""Limits of a message, besides those in `kaywatch.wire` and `model.bounds`."""

from __future__ import annotations

from typing import Final

__all__ = [
    "CLIENT_BYTES",
    "MAX_GAP",
    "MAX_LABELS",
    "MAX_PID",
    "MAX_ROWS",
    "MAX_SEQ",
    "MAX_SKIP",
    "MAX_TAGS",
    "MAX_VALUE",
]

CLIENT_BYTES: Final = 16
MAX_TAGS: Final = 16
MAX_LABELS: Final = 16

# Rows are read in a Python loop, at 2 us each: 40 ms. Columns are for larger batches.
MAX_ROWS: Final = 20_000

# A frame larger than MAX_FRAME is skipped, so that the next one can be read. A length
# beyond this limit is probably not a length: "GET " read as one is 1.2 GB.
MAX_SKIP: Final = 64 * 1024 * 1024

# At a thousand batches a second, it takes 8,900 years to get there.
MAX_SEQ: Final = 2**48

# Numbers that a client may skip between two batches, unless its hello names the first
# that follows. A number that is wrong by more would make all later ones duplicates.
MAX_GAP: Final = 1_000_000

# Sums of any number of these stay finite.
MAX_VALUE: Final = 1e140
MAX_PID: Final = 2**31 - 1

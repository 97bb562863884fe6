"""When the share of bad events rose: the most likely point of change.

Strategy: the events before and after a point of change have two shares of bad events.
The point with the highest likelihood of both binomial samples is the best one, and it
counts only if it is much more likely than one constant share.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["find_onset"]

# The logarithm of the likelihood ratio. In one of ten histories without a change, one
# of some 360 points reaches 7 by chance.
MIN_EVIDENCE: Final = 9.0

Ints = NDArray[np.int64]


def find_onset(bad: Ints, all_events: Ints) -> int | None:
    """Return the step in which the share of bad events rose.

    Args:
        bad: the number of bad events, by step.
        all_events: the number of events, by step.

    Returns:
        None if no rise is likely, so that the share was high all the time.
    """
    before_bad, before = np.cumsum(bad) - bad, np.cumsum(all_events) - all_events
    after_bad, after = bad.sum() - before_bad, all_events.sum() - before
    constant = _log_likelihood(bad.sum()[None], all_events.sum()[None])[0]
    gain = (
        _log_likelihood(before_bad, before)
        + _log_likelihood(after_bad, after)
        - constant
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        rises = after_bad / after > before_bad / before
    # A change begins with a bad event.
    gain[~rises | (bad == 0)] = 0.0
    best = int(np.argmax(gain)) if len(gain) else 0
    return best if len(gain) and gain[best] >= MIN_EVIDENCE else None


def _log_likelihood(bad: Ints, events: Ints) -> NDArray[np.float64]:
    """Return the largest log-likelihood of binomial samples."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share = bad / events
        parts = bad * np.log(share) + (events - bad) * np.log1p(-share)
    # Zero times the logarithm of zero counts as zero.
    return np.nan_to_num(parts, nan=0.0, posinf=0.0, neginf=0.0)

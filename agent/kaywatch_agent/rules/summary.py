"""One sentence for an alert: a template filled in, or the usual words."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any, Final

from kaywatch_agent.units import duration, quantity

__all__ = ["FIELDS", "check", "fill", "usual"]

# What a template may name, besides the alert's labels.
FIELDS: Final = (
    "rule", "value", "threshold", "clear", "window", "executions", "errors", "metric"
)  # fmt: skip


def check(template: str) -> None:
    """Look whether a template can be filled in.

    Raises:
        ValueError: saying what in it can't.
    """
    try:
        fields = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{template!r}: {error}") from None
    for _, name, form, conversion in fields:
        if name is None:
            continue
        if not name.isidentifier() or conversion:
            raise ValueError(f"{{{name}}}: write a plain name such as {{node}}")
        if form and name in ("value", "threshold", "clear"):
            try:
                format(1.5, form)
            except ValueError as error:
                raise ValueError(f"{{{name}:{form}}}: {error}") from None


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Return a template with its values; what isn't known is left as it stands."""
    parts = []
    for text, name, form, _ in string.Formatter().parse(template):
        parts.append(text)
        if name is None:
            continue
        value = values.get(name, f"{{{name}}}")
        try:
            parts.append(format(value, form or ""))
        except (ValueError, TypeError):
            parts.append(str(value))
    return "".join(parts)


def usual(
    where: str,
    metric: str,
    op: str,
    value: float | None,
    threshold: float | None,
    unit: str,
    counts: tuple[int, int, float],
) -> str:
    """Return the usual words.

    Args:
        where: what it is about, such as `checkout / pay`.
        metric: its name; underscores become spaces.
        op: how it compares with the threshold.
        value: what is.
        threshold: what should be.
        unit: of both.
        counts: executions, how many of them failed, and the window's seconds.
    """
    name = metric.removeprefix("custom.").replace("_", " ")
    text = f"{where}: {name} {quantity(value, unit)}"
    if threshold is not None:
        text += f", {_side(op, value, threshold)} {quantity(threshold, unit)}"
    executions, errors, window = counts
    if executions:
        text += f" ({errors} of {executions} failed in {duration(window)})"
    return text


# -- inside --------------------------------------------------------------------------


def _side(op: str, value: float | None, threshold: float) -> str:
    """Return on which side of the threshold a value is, if that is the bad one."""
    if value is None:
        return "limit"
    if value == threshold and not op.endswith("="):
        return "limit"
    if op.startswith("<"):
        return "below" if value <= threshold else "limit"
    return "above" if value >= threshold else "limit"

"""One sentence for an alert: a template filled in, or the usual words."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any, Final

from kaywatch_agent import durations

__all__ = ["FIELDS", "check", "fill", "quantity", "usual"]

# What a template may name, besides the alert's labels.
FIELDS: Final = (
    "rule", "value", "threshold", "clear", "window", "executions", "errors", "metric"
)  # fmt: skip

_STEPS: Final = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def quantity(value: float | None, unit: str) -> str:
    """Return a value as people read it: `95.0 %`, `2.31 s`, `1.2 GiB`, `$0.42`."""
    if value is None:
        return "no data"
    match unit:
        case "ratio":
            return f"{100 * value:.1f} %"
        case "percent":
            return f"{value:.0f} %"
        case "seconds":
            return _seconds(value)
        case "bytes":
            for size, name in _STEPS:
                if abs(value) >= size:
                    return f"{value / size:.1f} {name}"
            return f"{value:.0f} B"
        case "usd":
            return f"${value:.2f}" if abs(value) >= 0.01 else f"${value:.4g}"
        case "per_second":
            return f"{value:.3g}/s"
    return f"{value:.6g}"


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
    side = "below" if op.startswith("<") else "above"
    name = metric.removeprefix("custom.").replace("_", " ")
    text = f"{where}: {name} {quantity(value, unit)}"
    if threshold is not None:
        text += f", {side} {quantity(threshold, unit)}"
    executions, errors, window = counts
    if executions:
        text += f" ({errors} of {executions} failed in {durations.text(window)})"
    return text


def _seconds(value: float) -> str:
    if abs(value) < 1.0:
        return f"{1000 * value:.3g} ms"
    return f"{value:.2f} s" if abs(value) < 120 else durations.text(value)

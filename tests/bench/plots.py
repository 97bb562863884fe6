"""Draw the plots of docs/benchmarks.md from the figures of one run.

python -m tests.bench.plots [bench.json]

The same figures result in the same files: texts are not converted to outlines, and
neither ids nor metadata depend on the run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.bench.bench_scaling import (
    CLIENT_RATE,
    CLIENTS,
    SERIES,
    TOTAL_RATE,
    client_row_name,
    series_row_name,
)
from tests.bench.report import format_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_plots"]

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
STYLE: Final = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kaywatch",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
}
SIZE: Final = (7.2, 4.0)  # inches
COLOR: Final = "#1f5fa8"
NANOSECONDS_PER_PERCENT: Final = 1e7  # of one second


def draw_plots(document: dict[str, Any], folder: Path = IMAGES) -> None:
    """Write the plots of a run to a folder, as SVG on white.

    Args:
        document: what `python -m tests.bench --json` writes.
        folder: where the files are written.

    Raises:
        SystemExit: the run has no figure for a point.
    """
    _draw(
        document,
        folder / "scaling-clients.svg",
        f"clients, each with {CLIENT_RATE} events/s",
        CLIENTS,
        client_row_name,
    )
    _draw(
        document,
        folder / "scaling-series.svg",
        f"series, with {TOTAL_RATE:,} events/s in all",
        SERIES,
        series_row_name,
        _add_cost_per_event,
    )


def _draw(
    document: dict[str, Any],
    path: Path,
    label: str,
    sizes: Sequence[int],
    row_name: Callable[[int], str],
    add: Callable[[Axes], None] | None = None,
) -> None:
    """Draw the CPU of the agent over a number; the bars are the extremes of rounds."""
    figures = [_find_figure(document, row_name(size)) for size in sizes]
    # Importing it takes half a second, which the other figures do not need.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(SIZE, layout="constrained")
        axes = figure.subplots()
        _plot(axes, sizes, figures)
        axes.set_xlabel(f"{label}\n{_describe_run(document['machine'])}")
        axes.set_ylabel("CPU of the agent, % of a core")
        if add is None:
            axes.spines["right"].set_visible(False)
        else:
            add(axes)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _plot(axes: Axes, sizes: Sequence[int], figures: list[dict[str, Any]]) -> None:
    """Plot medians with their extremes; the axis of numbers is logarithmic."""
    medians = [each["median"] for each in figures]
    axes.errorbar(
        sizes,
        medians,
        yerr=[
            [each["median"] - each["low"] for each in figures],
            [each["high"] - each["median"] for each in figures],
        ],
        color=COLOR,
        marker="o",
        capsize=4,
    )
    for size, each in zip(sizes, figures, strict=True):
        axes.annotate(
            f"{format_number(each['median'])} %",
            *((size, each["high"]), (0, 8)),
            textcoords="offset points",
            ha="center",
        )
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.margins(x=0.12)
    axes.set_ylim(0, 1.25 * max(each["high"] for each in figures))
    axes.grid(axis="y", color="#dddddd")


def _add_cost_per_event(axes: Axes) -> None:
    """Add the CPU per event on the right, which is proportional at a constant rate."""
    factor = NANOSECONDS_PER_PERCENT / TOTAL_RATE
    right = axes.secondary_yaxis(
        "right", functions=(lambda core: core * factor, lambda cost: cost / factor)
    )
    right.set_ylabel("CPU per event, ns")
    right.yaxis.set_major_formatter("{x:,.0f}")


def _find_figure(document: dict[str, Any], name: str) -> dict[str, Any]:
    for row in document["rows"]:
        if row["what"] == name and row["ours"]["median"] is not None:
            figure: dict[str, Any] = row["ours"]
            return figure
    sys.exit(f"no figure for {name!r}: run `python -m tests.bench scaling --json FILE`")


def _describe_run(machine: dict[str, Any]) -> str:
    return (
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']},"
        f" {machine['date'][:10]}, load {machine['load_average']:.1f}"
    )


def main() -> None:
    source = Path(sys.argv[1] if len(sys.argv) > 1 else "bench.json")
    draw_plots(json.loads(source.read_text()))


if __name__ == "__main__":
    main()

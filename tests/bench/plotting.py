"""Plots how the cost of an update grows with the number of sessions.

    python -m tests.bench.plotting PATH.svg < NUMBERS

NUMBERS is a JSON object: "machine", a line of text; "bare_ms"; and "designs", for each the
milliseconds by number of sessions.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import orjson
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

COLOURS: Final = {"whole_file": "#b3541e", "single_row": "#6b6b6b", "ours": "#0b6e99"}
LABELS: Final = {
    "whole_file": "whole-file JSON\n(orjson, fsync, rename)",
    "single_row": "SQLite, one upsert\na commit",
    "ours": "session-gateway",
}
INK: Final = "#222222"
PALE: Final = "#8a8a8a"


def plot(numbers: dict[str, Any], path: Path) -> None:
    """Write the figure; the same numbers give the same file."""
    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["svg.hashsalt"] = "session-gateway"
    figure = Figure(figsize=(8, 4.8), facecolor="white")
    axes = figure.add_axes((0.1, 0.14, 0.66, 0.68))
    axes.set(xscale="log", yscale="log", ylim=(0.025, 9_000), xlim=(800, 1_250_000))
    for name, by_size in numbers["designs"].items():
        sizes = sorted(map(int, by_size))
        times = [by_size[str(size)] for size in sizes]
        axes.plot(sizes, times, color=COLOURS[name], linewidth=2.2, marker="o", markersize=5)
        axes.annotate(
            f"{LABELS[name]}\n{_time(times[-1])}",
            (sizes[-1], times[-1]),
            xytext=(10, {"single_row": 22, "ours": -12}.get(name, 0)),
            textcoords="offset points",
            color=COLOURS[name],
            fontsize=10,
            va="center",
            annotation_clip=False,
        )
    axes.axhline(numbers["bare_ms"], color=PALE, linewidth=1, linestyle=(0, (4, 3)))
    axes.text(900, numbers["bare_ms"] * 0.8, "append + fdatasync", color=PALE, va="top", size=9)
    axes.set_xlabel("sessions in the store", color=INK)
    axes.set_xticks([10**power for power in range(3, 7)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _time(value)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.text(0.1, 0.925, "Time of one durable update", fontsize=14, weight="bold", color=INK)
    note = f"median, both axes logarithmic · {numbers['machine']}"
    figure.text(0.1, 0.87, note, fontsize=9, color=PALE)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def _time(milliseconds: float) -> str:
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.3g} s"
    return f"{milliseconds:.2g} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


if __name__ == "__main__":
    plot(orjson.loads(sys.stdin.buffer.read()), Path(sys.argv[1]))

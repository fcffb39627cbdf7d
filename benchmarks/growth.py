"""The plot of what grows with the machine, and what does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.table import duration

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.table import Growth

# Okabe and Ito's colours, which people with any kind of colour vision tell apart; each line has a
# marker of its own besides, for those who print it.
STYLES = {
    "free_ports, free port": ("#0072B2", "o", "-"),
    "free_ports, held port": ("#0072B2", "s", "--"),
    "bare bind": ("#56B4E9", "^", ":"),
    "reading /proc/net": ("#E69F00", "D", "-"),
    "psutil.net_connections": ("#D55E00", "v", "-"),
    "lsof": ("#009E73", "P", "-"),
}


def plot(growth: list[Growth], path: Path) -> None:
    """Draw what was measured, an axis beside the other."""
    # Text stays text, and two runs with the same figures give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "portfree", "font.size": 11}):
        figure = Figure(figsize=(13, 5), layout="constrained")
        panels = figure.subplots(1, len(growth), sharey=True)
        for axes, axis in zip(panels, growth, strict=True):
            for name, (color, marker, line) in STYLES.items():
                points = [(p["x"], p["median"]) for p in axis["points"] if p["name"] == name]
                if points:
                    axes.plot(
                        *zip(*points, strict=True),
                        color=color,
                        marker=marker,
                        linestyle=line,
                        label=name,
                    )
            axes.set(xscale="log", yscale="log", xlabel=axis["title"])
            axes.grid(visible=True, alpha=0.3)
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: duration(y)))
        panels[0].set_ylabel("median time")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
        figure.savefig(path, metadata={"Date": None})

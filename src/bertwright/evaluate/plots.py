"""The plots of a report: each drawn twice, for light and for dark pages, as PNG files of one panel.

One panel per file, so that a page can set two side by side on a desk and one below the other on a phone without its
letters shrinking. Colours are Okabe and Ito's, which people with colour-blindness tell apart; line styles differ too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from bertwright.files import atomic_path

# Twice the 96 dots of a screen: sharp where pixels are small, and still under 100 kB a plot.
_DPI = 192
_LINES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))


@dataclass(frozen=True)
class Theme:
    """Colours of a page: its background, its text, its faint lines, and a cycle for data."""

    suffix: str
    background: str
    text: str
    muted: str
    grid: str
    cycle: tuple[str, ...]


THEMES = (
    Theme("", "#ffffff", "#1c1e21", "#5c6370", "#e4e6ea", ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b07d00")),
    Theme("-dark", "#16181d", "#e6e8eb", "#9aa3af", "#2c3038", ("#56b4e9", "#f08a4b", "#2fc79a", "#d990bd", "#e6b422")),
)


@dataclass(frozen=True)
class Series:
    """Points to draw as one line.

    Args:
        x: positions, (points,).
        y: values, (points,).
        label: its name in the legend; None leaves it out.
        style: a raw line with a smoothed one over it, a plain line, or marked points joined by a line.
        color: index into the theme's cycle.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    label: str | None = None
    style: str = "smoothed"
    color: int = 0


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A centred moving average over a fortieth of the points; NaN at both ends, where it would lean on a few alone."""
    half = len(values) // 80
    if half == 0:
        return values
    averages = np.full(values.shape, np.nan)
    averages[half : len(values) - half] = np.convolve(values, np.full(2 * half + 1, 1 / (2 * half + 1)), "valid")
    return averages


Paint = Callable[[Axes, Theme], None]


def save_panel(folder: Path, name: str, size: tuple[float, float], paint: Paint) -> None:
    """Draw one panel once per theme."""
    save_panels(folder, name, size, [paint], columns=1)


def save_panels(folder: Path, name: str, size: tuple[float, float], paints: Sequence[Paint], columns: int) -> None:
    """Draw panels, row by row, once per theme.

    Figures are made without pyplot, so no window system and no global state is touched.
    """
    for theme in THEMES:
        settings: Any = {
            "font.family": "DejaVu Sans",
            "font.size": 10,
            "text.color": theme.text,
            "axes.labelcolor": theme.muted,
            "axes.edgecolor": theme.muted,
            "axes.linewidth": 0.8,
            "xtick.color": theme.muted,
            "ytick.color": theme.muted,
            "grid.color": theme.grid,
            "axes.facecolor": theme.background,
            "figure.facecolor": theme.background,
            "legend.labelcolor": theme.text,
        }
        with matplotlib.rc_context(settings):
            figure = Figure(figsize=size, layout="constrained")
            for number, paint in enumerate(paints, 1):
                axes = figure.add_subplot(math.ceil(len(paints) / columns), columns, number)
                axes.spines[["top", "right"]].set_visible(False)
                axes.grid(True, linewidth=0.8)
                axes.set_axisbelow(True)
                axes.tick_params(length=0)
                paint(axes, theme)
            with atomic_path(folder / f"{name}{theme.suffix}.png") as temporary:
                # Without the software's name and version, equal data gives equal bytes.
                figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})


_NAMES_INSIDE = 4
"""Lines whose names find a place among them; those of more stand below."""


def save_curves(
    folder: Path,
    name: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    level: tuple[float, str] | None = None,
    breaks: Sequence[tuple[float, str]] = (),
    y_format: Callable[[float], str] | None = None,
    from_zero: bool = False,
    x_log: bool = False,
) -> None:
    """Draw lines over time, tokens or steps.

    Args:
        folder: where `<name>.png` and `<name>-dark.png` go.
        name: the file name without its ending.
        series: the lines.
        x_label: what the horizontal axis measures, with its unit.
        y_label: what the vertical axis measures.
        level: a value to mark by a dashed horizontal line, with its name.
        breaks: positions to mark by a thin vertical line, each with a name: changes of sequence length.
        y_format: how a value is written on the vertical axis.
        from_zero: whether the vertical axis starts at 0, for amounts of which the reader compares the size.
        x_log: whether the horizontal axis is logarithmic, marked where the points are.
    """
    named = sum(line.label is not None for line in series) + (level is not None)
    below = named > _NAMES_INSIDE

    def paint(axes: Axes, theme: Theme) -> None:
        for line in series:
            _paint_line(axes, theme, line)
        if level is not None:
            axes.axhline(level[0], color=theme.muted, linestyle=(0, (4, 3)), linewidth=1.1, label=level[1])
        for position, text in breaks:
            axes.axvline(position, color=theme.muted, linewidth=0.8, linestyle=":")
            axes.text(
                position, 1.0, f" {text}", transform=axes.get_xaxis_transform(), color=theme.muted, fontsize=8, va="top"
            )
        axes.set_xlabel(x_label)
        axes.set_title(y_label, loc="left", fontsize=10.5, color=theme.text)
        _mark_x(axes, series, x_log)
        if from_zero:
            axes.set_ylim(bottom=0)
        if y_format is not None:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: y_format(value)))
        if below:
            axes.figure.legend(loc="outside lower left", frameon=False, fontsize=9, handlelength=1.6)
        elif named > 1:
            axes.legend(frameon=False, fontsize=9, handlelength=1.6)

    save_panel(folder, name, (5.2, 3.3 + 0.2 * named * below), paint)


def _mark_x(axes: Axes, series: Sequence[Series], log: bool) -> None:
    if log:
        axes.set_xscale("log")
        axes.set_xticks(sorted({float(x) for line in series for x in line.x}))
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.02)


def _paint_line(axes: Axes, theme: Theme, line: Series) -> None:
    color = theme.cycle[line.color % len(theme.cycle)]
    if line.style == "smoothed":
        axes.plot(line.x, line.y, color=color, alpha=0.28, linewidth=0.8)
        axes.plot(line.x, _smooth_finite(line.y), color=color, linewidth=1.9, label=line.label)
    elif line.style == "points":
        edge: Any = {"markeredgecolor": theme.background, "markeredgewidth": 0.9}
        axes.plot(line.x, line.y, "o-", color=color, linewidth=1, markersize=5.5, label=line.label, **edge)
    else:
        axes.plot(line.x, line.y, color=color, linewidth=1.9, label=line.label)


def _smooth_finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smooth over the finite values only: one step with an infinite loss must not erase the line."""
    finite = np.isfinite(values)
    result = np.full(values.shape, np.nan)
    result[finite] = smooth(values[finite])
    return result


def save_intervals(
    folder: Path,
    name: str,
    rows: Sequence[tuple[str, float, float | None, float | None]],
    *,
    x_label: str,
    emphasis: str | None = None,
) -> None:
    """Draw one dot with its interval per system, best on top; a system without interval gets a hollow diamond.

    Args:
        folder: where the two files go.
        name: the file name without its ending.
        rows: (system, value, low, high).
        x_label: the score's name.
        emphasis: the system to draw in the second colour.
    """
    ordered = sorted(rows, key=lambda row: row[1])

    def paint(axes: Axes, theme: Theme) -> None:
        for position, (system, value, low, high) in enumerate(ordered):
            color = theme.cycle[1] if system == emphasis else theme.cycle[0]
            if low is None or high is None:
                axes.plot([value], [position], "D", color=theme.muted, markerfacecolor=theme.background, markersize=6)
            else:
                axes.plot(
                    [low, high], [position, position], color=color, linewidth=3, solid_capstyle="round", alpha=0.5
                )
                axes.plot([value], [position], "o", color=color, markersize=7)
            near: Any = {"textcoords": "offset points", "va": "center", "fontsize": 9.5}
            axes.annotate(f"{value:.4f}", (high or value, position), xytext=(8, 0), **near)
            # Names stand above their rows, not beside them: beside them they would take half of a phone's width.
            weight = "bold" if system == emphasis else "normal"
            axes.text(0, position + 0.36, system, transform=axes.get_yaxis_transform(), fontsize=9.5, weight=weight)
        axes.set_yticks([])
        axes.set_ylim(-0.4, len(ordered) - 0.25)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(x_label)
        # Space at the right for the last figure.
        left, right = axes.get_xlim()
        axes.set_xlim(left, right + 0.14 * (right - left))

    save_panel(folder, name, (5.6, 0.8 + 0.5 * max(len(ordered), 2)), paint)


def save_roc(
    folder: Path, name: str, curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], *, corner: bool
) -> None:
    """Draw ROC curves.

    Args:
        folder: where the two files go.
        name: the file name without its ending.
        curves: for each system, false and true positive rates, each (points,).
        corner: whether only the upper left corner is shown, in which good systems differ.
    """

    def paint(axes: Axes, theme: Theme) -> None:
        for index, (system, (false_rates, true_rates)) in enumerate(curves.items()):
            color, line = theme.cycle[index % len(theme.cycle)], _LINES[index % len(_LINES)]
            axes.plot(false_rates, true_rates, color=color, linestyle=line, linewidth=1.7, label=system)
        axes.plot([0, 1], [0, 1], color=theme.muted, linestyle=(0, (4, 3)), linewidth=1, label="chance")
        limits = ((0, 0.3), (0.7, 1)) if corner else ((0, 1), (0, 1))
        pad = 0.01 if corner else 0.02
        axes.set_xlim(limits[0][0] - pad, limits[0][1])
        axes.set_ylim(limits[1][0], limits[1][1] + pad)
        axes.set_aspect("equal")
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        axes.set_title("Upper left corner, enlarged" if corner else "Whole range", loc="left", fontsize=10.5)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2f}"))
        if not corner:
            # In the corner a weak system's curve runs where a legend would stand; colours and dashes are the same.
            axes.legend(frameon=False, fontsize=9, loc="lower right", handlelength=2.4)

    save_panel(folder, name, (4.6, 4.6), paint)


def save_reliability(folder: Path, name: str, confidence: Sequence[float], accuracy: Sequence[float]) -> None:
    """Draw accuracy over confidence, a dot per bin, beside the diagonal on which they are equal.

    Args:
        folder: where the two files go.
        name: the file name without its ending.
        confidence: the mean of each bin, (bins,).
        accuracy: of each bin, (bins,).
    """

    def paint(axes: Axes, theme: Theme) -> None:
        low = min(*confidence, *accuracy, 0.9)
        axes.plot(
            [low, 1], [low, 1], color=theme.muted, linestyle=(0, (4, 3)), linewidth=1, label="perfect calibration"
        )
        axes.plot(confidence, accuracy, "o-", color=theme.cycle[0], linewidth=1, markersize=5.5, label="BERT")
        axes.set_xlabel("confidence: probability of the predicted class")
        axes.set_title("Accuracy of the texts of each bin", loc="left", fontsize=10.5, color=theme.text)
        axes.legend(frameon=False, fontsize=9, loc="upper left", handlelength=1.6)

    save_panel(folder, name, (5.2, 3.8), paint)


def roc_points(
    labels: NDArray[np.int64], scores: NDArray[np.floating[Any]], points: int = 400
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rates at falling thresholds, each (points,), thinned evenly along the curve.

    Args:
        labels: 1 for positive rows, (rows,); both kinds occur.
        scores: higher means more likely positive, (rows,).
        points: the most points to keep; the eye sees no more.
    """
    from sklearn.metrics import roc_curve  # takes seconds to load

    false_rates, true_rates, _ = roc_curve(labels == 1, scores, drop_intermediate=True)
    travelled = true_rates + false_rates
    kept = np.unique(np.searchsorted(travelled, np.linspace(0, 2, points)).clip(max=len(travelled) - 1))
    return false_rates[kept], true_rates[kept]

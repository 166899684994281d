"""The picture of a leaderboard: source accuracy over target accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle, groupby
from pathlib import Path
from typing import Any, NamedTuple

from bench.reporting.rows import METHOD_ORDER, Leaderboard, Line, Row, lines

COLOURS = ("#d55e00", "#cc79a7", "#009e73", "#0072b2", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito
MARKERS = ("X", "s", "D", "^", "o", "v", "P", "*", "p")
"""More than colours, so that methods of one colour have different ones."""

X, Y = "target_accuracy", "source_accuracy"

PALE = 0.4
"""Rows that can be told from the one with the highest MEAN are drawn so."""

LEGEND = "bars: 95 % intervals, each for itself\npale: told from the highest MEAN"

LABELLED = 14
"""Of more rows only those on the front of the means are named."""

MANY, COLUMNS = 12, 5
"""A legend of more names stands below the rows, in so many columns."""


def draw(board: Leaderboard, path: Path) -> None:
    """Draw source accuracy over target accuracy, one marker a row, with its intervals and the Pareto front."""
    import matplotlib as mpl

    mpl.use("Agg")
    with mpl.rc_context({"text.parse_math": False}):  # a "$" in a name is no formula
        _draw(board, path)


def draw_curves(board: Leaderboard, path: Path) -> None:
    """Draw what every row had forgotten and learned over its steps: means over seeds, and bands of one deviation."""
    import matplotlib as mpl

    mpl.use("Agg")
    with mpl.rc_context({"text.parse_math": False}):
        _draw_curves(board, path)


CURVES = {"forgetting": "forgetting (points of source accuracy)", "target_accuracy": "target accuracy (%)"}


def _draw_curves(board: Leaderboard, path: Path) -> None:
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(CURVES), figsize=(10.0, 4.4), dpi=150, sharex=True, layout="constrained")
    for axes, (quantity, what) in zip(panels, CURVES.items(), strict=True):
        for method, group in groupby((row for row in board.rows if row.curve), key=lambda row: row.method):
            for style, row in zip(cycle(("-", "--", "-.", ":")), group, strict=False):
                _draw_curve(axes, row, quantity, {"color": _colour(method, board), "linestyle": style})
        axes.set(xlabel="optimizer steps", ylabel=what)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(loc="best", fontsize=7)
    figure.suptitle(f"{board.study} on {board.benchmark}: on the way, on validation data", fontsize=11)
    _save(figure, path)


def _draw_curve(axes: Any, row: Row, quantity: str, look: Mapping[str, Any]) -> None:
    points = [point for point in row.curve if point.quantity == quantity]
    steps, means = [point.step for point in points], [point.mean for point in points]
    axes.plot(steps, means, label=row.label, linewidth=1.3, marker=".", markersize=4, **look)
    lows, highs = ([point.mean + side * (point.std or 0.0) for point in points] for side in (-1, 1))
    axes.fill_between(steps, lows, highs, color=look["color"], alpha=0.12, linewidth=0)


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", metadata={"Software": None})
    pyplot.close(figure)
    temporary.replace(path)


def _draw(board: Leaderboard, path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 5.0), dpi=150, layout="constrained")
    rows = [line for line in lines(board) if line[f"{X}_mean"] is not None and line[f"{Y}_mean"] is not None]
    _draw_front(axes, rows)
    _draw_untouched(axes, board)
    told_apart = {row.method for row in board.rows if row.apart}
    for method, group in groupby(rows, key=lambda line: str(line["method"])):
        look = _Look(style_of(method, board), all_named=len(rows) <= LABELLED, ordered=method not in told_apart)
        _draw_method(axes, method, list(group), look)
    axes.margins(x=0.09, y=0.12)
    axes.set_xlabel("target accuracy (%)  →  learned more")
    axes.set_ylabel("source accuracy, k-NN (%)  →  forgot less")
    axes.set_title(f"{board.study} on {board.benchmark}: what is learned, what is kept", fontsize=11)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if rows:
        _draw_legend(figure, axes)
    _save(figure, path)


def _draw_legend(figure: Any, axes: Any) -> None:
    """Among the rows where there is room; of many methods below them, on a figure that is higher for it."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) <= MANY:
        axes.legend(loc="best", fontsize=8, frameon=True, framealpha=0.9, title=LEGEND, title_fontsize=7)
        return
    figure.set_figheight(figure.get_figheight() + 0.2 * math.ceil(len(names) / COLUMNS) + 0.4)
    look = {"fontsize": 7, "title": LEGEND.replace("\n", "; "), "title_fontsize": 7}
    figure.legend(handles, names, loc="outside lower center", ncols=COLUMNS, **look)


def _draw_untouched(axes: Any, board: Leaderboard) -> None:
    if board.source_accuracy_before is None:
        return
    highest = board.source_accuracy_before_max or board.source_accuracy_before
    if highest > board.source_accuracy_before:
        axes.axhspan(board.source_accuracy_before, highest, color="0.45", alpha=0.3, linewidth=0, zorder=1)
    axes.axhline(board.source_accuracy_before, color="0.45", linestyle=":", linewidth=1.2, zorder=1)
    axes.annotate(
        f"untouched backbone {board.source_accuracy_before:.1f}",
        (0.99, board.source_accuracy_before),
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        textcoords="offset points",
        fontsize=8,
        color="0.35",
        horizontalalignment="right",
    )


def style_of(method: str, board: Leaderboard) -> int:
    """A method's number of colour and marker: always the same for a known one, so that pictures can be compared."""
    others = sorted({row.method for row in board.rows} - set(METHOD_ORDER))
    return ([*METHOD_ORDER, *others]).index(method)


def _colour(method: str, board: Leaderboard) -> str:
    return COLOURS[style_of(method, board) % len(COLOURS)]


class _Look(NamedTuple):
    """How a method's rows are drawn: all with their names or only the front's, and whether a line shows their order."""

    style: int
    all_named: bool
    ordered: bool


def _draw_method(axes: Any, method: str, rows: Sequence[Line], look: _Look) -> None:
    colour, marker = COLOURS[look.style % len(COLOURS)], MARKERS[look.style % len(MARKERS)]
    x, y = ([line[f"{axis}_mean"] for line in rows] for axis in (X, Y))
    axes.plot([], [], color=colour, marker=marker, linewidth=0, label=method.replace("_", " "))
    for line in rows:
        shade = 1.0 if "mean" in line["groups"].split() else PALE
        axes.errorbar(
            [line[f"{X}_mean"]],
            [line[f"{Y}_mean"]],
            xerr=_bar(line, X),
            yerr=_bar(line, Y),
            color=colour,
            alpha=shade,
            marker=marker,
            markersize=8,
            markeredgecolor="white",
            linewidth=0,
            elinewidth=1,
            capsize=2,
            zorder=3,
        )
    if look.ordered:
        axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.35, zorder=2)
    names = [str(line["label"]).removeprefix(method).strip() for line in rows]
    for index, (name, line, place) in enumerate(zip(names, rows, zip(x, y, strict=True), strict=True)):
        if look.all_named or line["pareto"]:
            _draw_name(axes, name, place, colour, above=index % 2 == 0)


def _draw_name(axes: Any, name: str, place: tuple[float, float], colour: str, *, above: bool) -> None:
    from matplotlib import patheffects

    axes.annotate(
        name,
        place,
        xytext=(6, 6) if above else (6, -6),
        verticalalignment="bottom" if above else "top",
        textcoords="offset points",
        fontsize=8,
        color=colour,
        path_effects=[patheffects.withStroke(linewidth=2.5, foreground="white")],
        zorder=4,
    )


def _bar(line: Line, axis: str) -> list[list[float]]:
    """How far a row's interval reaches below and above its mean; not at all where it is not known."""
    mean, low, high = (line[f"{axis}_{part}"] for part in ("mean", "low", "high"))
    return [[0.0 if low is None else max(0.0, mean - low)], [0.0 if high is None else max(0.0, high - mean)]]


def _draw_front(axes: Any, rows: Sequence[Line]) -> None:
    front = sorted((line[f"{X}_mean"], line[f"{Y}_mean"]) for line in rows if line["pareto"])
    if len(front) > 1:
        x, y = zip(*front, strict=True)
        axes.step(
            x, y, where="pre", color="0.6", linestyle="--", linewidth=1.1, zorder=1, label="Pareto front of the means"
        )

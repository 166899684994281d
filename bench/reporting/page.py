"""The page: a leaderboard for the browser, one file that needs nothing beside it, over one launch or several.

What it shows are the tidy rows (:mod:`bench.reporting.rows`) and the lines behind them
(:mod:`bench.reporting.evidence`), written into the file as JSON; ``assets/page/*.js`` draw them. Nothing else can run
in it or be loaded by it: its content security policy names the script and the style sheet by their digests, and allows
no request.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from bench.folder import LaunchFolder
from bench.records import Record, write_atomically
from bench.reporting.evidence import Classes, Evidence, SourceClasses, gather
from bench.reporting.findings import LEGEND, TEST_LEGEND, basis, caveats, findings, interval_legend, probe
from bench.reporting.picture import style_of
from bench.reporting.rows import QUANTITIES, Leaderboard, build, lines
from bench.spec import printable

ASSETS = Path(__file__).parent.parent / "assets" / "page"

SCRIPTS = ("state", "elements", "rows", "table", "copy", "charts", "pictures", "row", "classes", "main")
"""The parts of the script, in their order: they are one script in the page."""

MATRIX, PAIRS = 40, 60
"""Up to so many classes a row has its whole confusion matrix; of more, its most frequent confusions."""

ELSEWHERE = ' The same numbers stand in <a href="leaderboard.md">leaderboard.md</a>.'
"""What a browser without scripts is told."""

SEVERAL = "leaderboards.html"
"""The page over several launches."""

POINTS = 60
"""A curve has at most so many points; of more, evenly chosen ones with the first and the last."""

DIGITS = 7
"""Of numbers that are drawn, and not the leaderboard's: more cannot be seen."""


@dataclass(frozen=True)
class Launch:
    """A launch that is shown: its folder, and the board that was built from its records."""

    folder: LaunchFolder
    records: Sequence[Record]
    board: Leaderboard


def read(folder: LaunchFolder, *, forgetting_limit: float | None = None) -> Launch:
    """A launch as its records tell it.

    Args:
        forgetting_limit: see :func:`bench.reporting.rows.build`.

    Raises:
        ValueError: a file is no record, or no leaderboard can be made of them; the message names the folder.
    """
    records = folder.read_records()
    try:
        ended = folder.ended is not False
        return Launch(folder, records, build(records, forgetting_limit=forgetting_limit, ended=ended))
    except ValueError as error:
        raise ValueError(f"{folder.path}: {error}") from None


def of_launch(board: Leaderboard, records: Sequence[Record], folder: LaunchFolder) -> str:
    """The page of a launch, to lie in its folder.

    Args:
        records: those that the board was built from.
    """
    return render([launch(board, gather(board, records, folder))])


def place_of(folders: Sequence[LaunchFolder], asked: Path | None) -> Path | None:
    """Where a page over some launches is written: by default in the current folder.

    Returns:
        None: there is one launch, which has a page of its own, and no other was asked for.

    Raises:
        ValueError: there is no such folder, or it would take the place of something else than such a page.
    """
    if asked is None and len(folders) == 1:
        return None
    file = asked or Path(SEVERAL)
    if file.is_dir():
        raise ValueError(f"--page {file} is a folder: name a file, such as {file / SEVERAL}")
    if file.resolve() in {folder.page.resolve() for folder in folders}:
        raise ValueError(f"--page {file} is a launch's own page: name another file")
    if not file.absolute().parent.is_dir():
        raise ValueError(f"--page {file}: there is no folder {file.absolute().parent} to write to")
    if os.path.lexists(file) and not _is_page(file):
        raise ValueError(f"{file} is there, and is no page over launches: name another file with --page, or remove it")
    return file


def _is_page(file: Path) -> bool:
    """Whether a file begins as the pages here do, up to what differs between them."""
    begin = _asset("page.html").partition("$")[0].encode()
    if not file.is_file():
        return False
    with file.open("rb") as there:
        return there.read(len(begin)) == begin


def write_over(launches: Sequence[Launch], path: Path) -> None:
    """Write one page over several launches; its links lead from where it lies to their folders."""
    shown = []
    for own in launches:
        place = Path(os.path.relpath(own.folder.path.resolve(), path.resolve().parent)).as_posix()
        evidence = gather(own.board, own.records, own.folder)
        shown.append(launch(own.board, evidence, link="" if place == "." else f"{place}/"))
    write_atomically(path, render(shown))


def render(launches: Sequence[Mapping[str, Any]]) -> str:
    """The file: template, style, script, and what :func:`launch` made of each launch.

    Only the page that lies in its launch's folder has the same numbers as Markdown beside it.
    """
    style, *parts = (_asset(name) for name in ("page.css", *(f"{name}.js" for name in SCRIPTS)))
    script = "\n".join(parts)
    title = launches[0]["title"] if len(launches) == 1 else f"{len(launches)} launches"
    page = Template(_asset("page.html"))
    return page.substitute(
        title=html.escape(title),
        style=style,
        style_hash=_digest(style),
        script=script,
        script_hash=_digest(script),
        data=_embedded({"launches": launches}),
        elsewhere=ELSEWHERE if [own["link"] for own in launches] == [""] else "",
    )


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _embedded(values: Any) -> str:
    """JSON that ends no script element and opens no comment, whatever texts are in it."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def launch(board: Leaderboard, evidence: Evidence, *, link: str = "") -> dict[str, Any]:
    """One launch as the page's script reads it.

    Args:
        link: what leads from the page to the launch folder, empty or with a slash at its end.
    """
    held = _Held()
    marked = [TEST_LEGEND] if any(row.test_selected for row in board.rows) else []
    ends = (board.source_accuracy_before, board.source_accuracy_before_max)
    return {
        "title": f"{board.study} on {board.benchmark}",
        "benchmark": board.benchmark,
        "link": link,
        "basis": basis(board),
        "findings": findings(board),
        "interval": interval_legend(board),
        "legend": LEGEND.format(k=probe(board)),
        "caveats": [*caveats(board), *marked],
        "before": list(dict.fromkeys(end for end in ends if end is not None)),
        "methods": {row.method: style_of(row.method, board) for row in board.rows},
        "rows": [dict(line) for line in lines(board)],
        "seeds": [{name: _drawn(value) for name, value in seed.items()} for seed in evidence.seeds],
        "keys": dict(evidence.keys),
        "searched": _searched(evidence),
        "ranges": {method: dict(space) for method, space in evidence.ranges.items()},
        "curves": _curves(evidence),
        "classes": {own.label: _classes(own, held) for own in evidence.classes},
        "source_classes": {own.label: _source_classes(own, held) for own in evidence.source_classes},
        "class_names": [[printable(name) for name in own] for own in held.names],
        "class_images": held.images,
        "source_queries": held.queries,
        "provenance": [[own["field"], printable(own["value"]), own["records"]] for own in evidence.provenance],
        "trials": len(evidence.searched) + len({seed["trial"] for seed in evidence.seeds}),
    }


def _drawn(value: Any) -> Any:
    """A number as it is drawn; texts with their control characters spelt out."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return printable(value, keep="\n") if isinstance(value, str) else value


def _searched(evidence: Evidence) -> dict[str, Any]:
    """Search trials by row: the names that were searched, and each trial with its values in their order."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for own in evidence.searched:
        groups.setdefault(own["key"], []).append(own)
    found = {}
    for key, group in groups.items():
        names = list(dict.fromkeys(name for own in group for name in own["hyperparameters"]))
        trials = [
            {
                "trial": own["trial"],
                "status": own["status"],
                "values": [own["hyperparameters"].get(name) for name in names],
                **{name: _drawn(own[name]) for name in QUANTITIES if name in own},
            }
            for own in group
        ]
        found[key] = {"names": names, "trials": trials}
    return found


def _curves(evidence: Evidence) -> dict[str, list[list[Any]]]:
    """Points by row: step, and the quantities in their order."""
    groups: dict[str, list[list[Any]]] = {}
    for own in evidence.curves:
        groups.setdefault(own["label"], []).append([own["step"], *(_drawn(own.get(name)) for name in QUANTITIES)])
    return {label: _thinned(points) for label, points in groups.items()}


def _thinned(points: list[list[Any]]) -> list[list[Any]]:
    if len(points) <= POINTS:
        return points
    return [points[index] for index in np.linspace(0, len(points) - 1, POINTS).round().astype(int)]


@dataclass(frozen=True)
class _Held:
    """What is the same for most rows, and stands once in the file: rows say the place in these lists.

    ``names`` of classes; ``images`` of each class of the target, with the place of their names; ``queries`` of each
    class of the source likewise, with how many of them were right before training.
    """

    names: list[Sequence[str]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    queries: list[dict[str, Any]] = field(default_factory=list)


def _place(own: Any, held: list[Any]) -> int:
    """Where something stands in a list, to which it is added if need be."""
    if own not in held:
        held.append(own)
    return held.index(own)


def _classes(found: Classes, held: _Held) -> dict[str, Any]:
    """Counts of a row by class."""
    cells, whole = found.cells.tolist(), len(found.names) <= MATRIX
    if not whole:
        wrong = [cell for cell in cells if cell[0] != cell[1]]
        cells = sorted(wrong, key=lambda cell: -cell[2])[:PAIRS]
    images = {"names": _place(found.names, held.names), "n": found.n.tolist()}
    return {
        "images": _place(images, held.images),
        "right": found.right.tolist(),
        "cells": cells,
        "whole": whole,
    }


def _source_classes(found: SourceClasses, held: _Held) -> dict[str, Any]:
    """Right answers of a row by class of the source."""
    names = _place(found.names, held.names)
    queries = {"names": names, "n": found.n.tolist(), "before": found.before.tolist()}
    return {"queries": _place(queries, held.queries), "after": found.after.tolist()}

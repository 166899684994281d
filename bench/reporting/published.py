"""What others have published on a benchmark, beside our rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.reporting.rows import TEST_SELECTED, Leaderboard, Row, Spread, with_interval
from bench.reporting.screen import plain

if TYPE_CHECKING:
    from rich.table import Table

REFERENCES = Path(__file__).parent.parent.parent / "results" / "reference"


def reference(benchmark: str) -> Mapping[str, Any] | None:
    """Published numbers for a benchmark (``results/reference/<benchmark>.json``), if there are any."""
    path = REFERENCES / f"{benchmark}.json"
    published: Mapping[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return published


COLUMNS = ("Published", "Trainable", "Target acc.", "Source acc.", "MEAN", "our target", "our source", "our MEAN")


def markdown(board: Leaderboard) -> list[str]:
    """What others have published on this benchmark, beside our rows of the same method."""
    others = reference(board.benchmark)
    if others is None:
        return []
    cells = [[*COLUMNS], ["---", *["---:"] * 7], *(_cells(entry, board) for entry in others["rows"])]
    lines = ["| " + " | ".join(line) + " |" for line in cells]
    return ["", "## Published", "", *lines, "", f"{others['source']}. {others['note']}"]


def _cells(entry: Mapping[str, Any], board: Leaderboard) -> list[str]:
    label = " ".join([entry["method"], *(f"{name}={value}" for name, value in entry["row"].items())])
    numbers = [f"{entry[name]:.2f}" for name in ("target_accuracy", "source_accuracy", "mean")]
    own = next((row for row in board.rows if _is_published(row, entry)), None)
    mark = f" {TEST_SELECTED}" if own and own.test_selected else ""
    ours = [_own(own, name) + mark for name in ("target_accuracy", "source_accuracy", "mean")]
    return [label, f"{entry['trainable_parameters']:,}", *numbers, *ours]


def _own(row: Row | None, name: str) -> str:
    spread: Spread | None = getattr(row, name, None)
    if spread is None:
        return "–"
    return with_interval(spread.mean, spread.low, spread.high)


def _is_published(row: Row, entry: Mapping[str, Any]) -> bool:
    """Whether a row has the published method and all of its published settings."""
    return row.method == entry["method"] and all(row.hyperparameters.get(k) == v for k, v in entry["row"].items())


def table(board: Leaderboard) -> Table | None:
    """Published numbers beside ours for the screen, if there are any for this benchmark."""
    from rich.table import Table

    others = reference(board.benchmark)
    if others is None:
        return None
    shown = Table(
        title=plain(f"published for {board.benchmark}, and ours"), box=None, padding=(0, 1, 0, 0), pad_edge=False
    )
    shown.add_column("", no_wrap=True)
    for name in COLUMNS[2:]:
        shown.add_column(name, justify="right")
    for entry in others["rows"]:
        label, _, *cells = _cells(entry, board)
        shown.add_row(*map(plain, (label.replace("block_expansion", "block exp."), *cells)))
    return shown

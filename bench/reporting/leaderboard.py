"""Renderings of the tidy table (:mod:`bench.reporting.rows`): Markdown, CSV, JSON, MLflow, the screen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bench.folder import LaunchFolder
from bench.readings import HEADLINE_K
from bench.records import write_atomically
from bench.reporting import published
from bench.reporting.picture import draw
from bench.reporting.rows import FACTS, PARTS, QUANTITIES, TEST_SELECTED, Leaderboard, Line, lines, tidy, wide
from bench.reporting.screen import plain
from bench.spec import readable

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

UNTOUCHED = "untouched backbone"
TEST_LEGEND = (
    "†: hyper-parameters and checkpoint chosen on test data, as in the paper (protocol: paper); such rows compare with "
    "the published ones only."
)
LEGEND = (
    "Accuracies in percent, ± the standard deviation over seeds. Target: test accuracy of the fine-tuned head. "
    "Source: weighted k-NN accuracy ({k}) of the backbone's features on the domain it was pre-trained on. "
    "Forgetting: source accuracy before minus after. MEAN: (target + source) / 2, best in bold. "
    "★: on the Pareto front, no other row is at least as good in both accuracies and better in one."
)
HEADER = ("Method", "Hyper-parameters", "Trainable", "Target acc.", "Source acc.", "Forgetting", "MEAN", "Pareto")


def write(board: Leaderboard, folder: LaunchFolder) -> None:
    """Write tables and picture into a launch folder; equal records give equal bytes."""
    write_atomically(folder.table, markdown(board))
    write_atomically(folder.table_csv, as_csv(board))
    write_atomically(folder.table_json, json.dumps(asdict(board), indent=2, sort_keys=True) + "\n")
    draw(board, folder.picture)


def spread(line: Line, quantity: str, digits: int) -> str:
    """A quantity with its deviation, or that it failed."""
    mean, std = line[f"{quantity}_mean"], line[f"{quantity}_std"]
    if mean is None:
        return "failed"
    return f"{mean:.{digits}f}" + (f" ± {std:.{digits}f}" if std is not None else "")


def markdown(board: Leaderboard) -> str:
    """The table as Markdown."""
    rows = lines(board)
    table = [[*HEADER], ["---", "---", *["---:"] * 5, ":-:"], _untouched(board), *([*_cells(row)] for row in rows)]
    count = len(board.seeds)
    return "\n".join(
        [
            f"# {board.study} on {board.benchmark}",
            "",
            f"{count} seed{'s' * (count > 1)} a row: {', '.join(map(str, board.seeds))}.",
            "",
            *("| " + " | ".join(line) + " |" for line in table),
            "",
            LEGEND.format(k=probe(board)),
            *_marked(rows),
            *_failures(rows),
            *published.markdown(board),
            "",
        ]
    )


def _cells(line: Line) -> Iterator[str]:
    yield line["label"]
    yield ", ".join(f"{name}={readable(value, 3)}" for name, value in _chosen(line).items())
    yield f"{line['trainable_parameters']:,}" if line["trainable_parameters"] is not None else "–"
    for quantity in QUANTITIES:
        text = spread(line, quantity, 2)
        yield f"**{text}**" if quantity == "mean" and line["best"] else text
    yield "★" if line["pareto"] else ""


def _chosen(line: Line) -> dict[str, Any]:
    chosen: dict[str, Any] = json.loads(line["hyperparameters"])
    return chosen


def _untouched(board: Leaderboard) -> list[str]:
    return [UNTOUCHED, "", "0", "–", before(board, 2), "0.00", "–", ""]


def before(board: Leaderboard, digits: int) -> str:
    """Source accuracy of the untouched backbone; from lowest to highest where the records differ in it."""
    if board.source_accuracy_before is None:
        return "–"
    ends = (board.source_accuracy_before, board.source_accuracy_before_max or board.source_accuracy_before)
    return " to ".join(dict.fromkeys(f"{end:.{digits}f}" for end in ends))


def probe(board: Leaderboard) -> str:
    """Which k the source accuracies come from."""
    return f"k = {' or '.join(map(str, board.ks))}" if board.ks else "k was not recorded"


def _marked(rows: Sequence[Line]) -> list[str]:
    return ["", TEST_LEGEND] if any(line["test_selected"] for line in rows) else []


def _failures(rows: Sequence[Line]) -> list[str]:
    failed = [f"{line['label']}: {line['failed']} of {line['trials']}" for line in rows if line["failed"]]
    return ["", f"Failed confirmations: {'; '.join(failed)}."] if failed else []


def as_csv(board: Leaderboard) -> str:
    """The table as plain numbers, one column a quantity."""
    numbers = [f"{quantity}_{part}" for quantity in QUANTITIES for part in PARTS]
    columns = ["method", "label", "hyperparameters", "trainable_parameters", *numbers, *FACTS]
    text: str = wide(tidy(board))[columns].rename(columns={"label": "row"}).to_csv(index=False, lineterminator="\n")
    return text


def for_mlflow(board: Leaderboard) -> pd.DataFrame:
    """The table as MLflow shows it."""
    rows = wide(tidy(board))
    numbers = {f"{quantity}_mean": quantity for quantity in QUANTITIES}
    shown = [column for quantity in QUANTITIES for column in (f"{quantity}_mean", f"{quantity}_std")]
    columns = ["label", "hyperparameters", "trainable_parameters", *shown, "pareto", "test_selected"]
    return rows[columns].rename(columns={"label": "row", **numbers})


def show(board: Leaderboard, console: Console) -> None:
    """Print the table, and what others have published on the same benchmark."""
    console.print(table(board))
    others = published.table(board)
    if others is not None:
        console.print(others)


def table(board: Leaderboard) -> Table:
    """The table for the screen, rounded so that it fits into 80 columns."""
    from rich.table import Table

    rows = lines(board)
    shown = Table(
        title=plain(f"{board.study} on {board.benchmark}, {len(board.seeds)} seed{'s' * (len(board.seeds) != 1)}"),
        caption="percent ± std over seeds · MEAN = (target + source) / 2 · ★ Pareto front"
        + (f" · source k-NN: {probe(board)}" if board.ks != (HEADLINE_K,) else "")
        + (f" · {TEST_SELECTED} chosen on test data" if _marked(rows) else ""),
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    shown.add_column("", no_wrap=True)
    shown.add_column("chosen")
    for name in ("params", "target", "source", "forgotten", "MEAN"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("★", no_wrap=True)
    shown.add_row(UNTOUCHED.split()[0], "", "0", "–", before(board, 1), "0.0", "–", "", style="dim")
    for line in rows:
        shown.add_row(*map(plain, _screen_cells(line)), style="bold" if line["best"] else "")
    return shown


def _screen_cells(line: Line) -> Iterator[str]:
    yield line["label"].replace("block_expansion", "block exp.")
    row = json.loads(line["row"])
    rest = {name: value for name, value in _chosen(line).items() if name not in row}
    yield ", ".join(f"{name}={readable(value, 2)}" for name, value in rest.items())
    yield _short_count(line["trainable_parameters"])
    yield from (spread(line, quantity, 1) for quantity in QUANTITIES)
    yield "★" if line["pareto"] else ""


def _short_count(count: int | None) -> str:
    if count is None:
        return "–"
    if count >= 1_000_000:
        return f"{count / 1e6:.1f} M"
    return f"{count / 1e3:.1f} k" if count >= 1000 else str(count)

"""Renderings of the tidy table (:mod:`bench.reporting.rows`): Markdown, CSV, JSON, MLflow, the screen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bench.folder import LaunchFolder
from bench.readings import HEADLINE_K
from bench.records import Record, write_atomically
from bench.reporting import curves, page, published
from bench.reporting.answers import answers
from bench.reporting.comparisons import FRONT, MAYBE_ON_FRONT
from bench.reporting.findings import (
    LEGEND,
    TEST_LEGEND,
    basis,
    caveats,
    findings,
    interval_legend,
    probe,
    seed_count,
)
from bench.reporting.markup import escaped, with_escaped
from bench.reporting.mlflow_points import DECIMALS
from bench.reporting.picture import draw, draw_curves
from bench.reporting.rows import (
    BEHIND,
    CHANCES,
    COSTS,
    COUNTS,
    FACTS,
    PARTS,
    QUANTITIES,
    TEST_SELECTED,
    Leaderboard,
    Line,
    cell,
    lines,
    tidy,
    wide,
)
from bench.reporting.screen import plain, print_table
from bench.spec import readable

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

UNTOUCHED = "untouched backbone"
ACCURACIES = ("Target acc.", "Source acc.", "Forgetting", "MEAN")
HEADER = ("Method", "Hyper-parameters", "Trainable", "Seeds", "Search", *ACCURACIES, "Pareto")


def write(board: Leaderboard, folder: LaunchFolder, records: Sequence[Record] = ()) -> None:
    """Write tables, picture and page into a launch folder; equal records give equal bytes.

    Args:
        records: those that the board was built from; without them the page shows the rows alone.
    """
    shown = page.of_launch(board, records, folder)  # what makes it impossible comes before anything is written
    write_atomically(folder.table, markdown(board))
    write_atomically(folder.table_csv, as_csv(board))
    write_atomically(folder.table_json, as_json(board))
    draw(board, folder.picture)
    if any(row.curve for row in board.rows):
        write_atomically(folder.curves_csv, curves.tidy(board).to_csv(index=False, lineterminator="\n"))
        draw_curves(board, folder.curves)
    else:
        for path in (folder.curves, folder.curves_csv):  # of other records
            path.unlink(missing_ok=True)
    write_atomically(folder.page, shown)


def markdown(board: Leaderboard) -> str:
    """The table as Markdown."""
    rows, names = lines(board), [row.label for row in board.rows]
    table = [[*HEADER], ["---", "---", *["---:"] * 7, ":-:"], _untouched(board), *([*_cells(row)] for row in rows)]
    said = [*_marked(rows), *_failures(rows)]
    return "\n".join(
        [
            f"# {escaped(board.study)} on {escaped(board.benchmark)}",
            "",
            basis(board),
            "",
            *("| " + " | ".join(line) + " |" for line in table),
            "",
            *(f"- {with_escaped(found, names)}" for found in findings(board)),
            "",
            f"{interval_legend(board)} {LEGEND.format(k=probe(board))}",
            *(line for caveat in caveats(board) for line in ("", with_escaped(caveat, names))),
            *(with_escaped(line, names) for line in said),
            *curves.markdown(board),
            *published.markdown(board),
            "",
        ]
    )


def _cells(line: Line) -> Iterator[str]:
    yield escaped(line["label"])
    yield escaped(", ".join(f"{name}={readable(value, 3)}" for name, value in _chosen(line).items()))
    yield f"{line['trainable_parameters']:,}" if line["trainable_parameters"] is not None else "–"
    yield str(line["seeds"])
    yield f"{line['searches'] or '–'} × {line['search_trials'] or '–'}"
    for quantity in QUANTITIES:
        text = cell(line, quantity)
        yield f"**{text}**" if quantity in line["groups"].split() else text
    yield " ".join(filter(None, on_front(line)))


def on_front(line: Line) -> tuple[str, str]:
    """Star and probability of a row that may be on the Pareto front; empty if it hardly can, or has failed."""
    probability = line["pareto_probability"]
    if probability is None or probability < MAYBE_ON_FRONT:
        return "", ""
    if line["mean_n"] < 2:
        return "☆", f"{probability:.0%}"  # over images alone: no star for that
    if probability >= FRONT:
        return "★", f"{probability:.0%}"
    return "☆", f"{min(probability, FRONT - 0.01):.0%}"  # what falls short of the limit is not rounded up to it


def _chosen(line: Line) -> dict[str, Any]:
    chosen: dict[str, Any] = json.loads(line["hyperparameters"])
    return chosen


def _untouched(board: Leaderboard) -> list[str]:
    return [UNTOUCHED, "", "0", "", "", "–", before(board, 1), "0.0", "–", ""]


def before(board: Leaderboard, digits: int) -> str:
    """Source accuracy of the untouched backbone; from lowest to highest where the records differ in it."""
    if board.source_accuracy_before is None:
        return "–"
    ends = (board.source_accuracy_before, board.source_accuracy_before_max or board.source_accuracy_before)
    return " to ".join(dict.fromkeys(f"{end:.{digits}f}" for end in ends))


def _marked(rows: Sequence[Line]) -> list[str]:
    return ["", TEST_LEGEND] if any(line["test_selected"] for line in rows) else []


def _failures(rows: Sequence[Line]) -> list[str]:
    failed = [f"{line['label']}: {line['failed']} of {line['trials']}" for line in rows if line["failed"]]
    return ["", f"Failed confirmations: {'; '.join(failed)}."] if failed else []


def as_csv(board: Leaderboard) -> str:
    """The table as plain numbers, one column a quantity."""
    numbers = [f"{quantity}_{part}" for quantity in QUANTITIES for part in PARTS]
    facts = [*FACTS, *COUNTS, *COSTS, *CHANCES, *BEHIND, "groups"]
    columns = ["objective", "method", "label", "hyperparameters", "trainable_parameters", *numbers, *facts]
    text: str = wide(tidy(board))[columns].rename(columns={"label": "row"}).to_csv(index=False, lineterminator="\n")
    return text


def as_json(board: Leaderboard) -> str:
    """The table with all that belongs to it."""
    return json.dumps(values_of(board), indent=2, sort_keys=True) + "\n"


def values_of(board: Leaderboard) -> dict[str, Any]:
    """A board as JSON has it; what is as usual (its launch has ended, a row has all seeds) is not said."""
    values = asdict(board)
    if values["ended"]:
        del values["ended"]
    for row in values["rows"]:
        if row["of_seeds"] == board.seeds:
            del row["of_seeds"]
    return values


def for_mlflow(board: Leaderboard) -> pd.DataFrame:
    """The table as MLflow shows it."""
    rows = wide(tidy(board))
    numbers = {f"{quantity}_mean": quantity for quantity in QUANTITIES}
    shown = [f"{quantity}_{part}" for quantity in QUANTITIES for part in PARTS if part != "n"]
    facts = [*COUNTS, "pareto", *CHANCES, "groups", "test_selected", "objective"]
    columns = ["label", "hyperparameters", "trainable_parameters", *shown, *facts]
    exact = rows[columns].astype(dict.fromkeys((*shown, *CHANCES), float))  # or what has failed keeps it from rounding
    named = exact.round(DECIMALS).rename(columns={"label": "row", **numbers})
    return named.assign(benchmark=board.benchmark)  # which tells the tables of several launches apart


def show(board: Leaderboard, console: Console) -> None:
    """Print the table, and what others have published on the same benchmark.

    Where a table is wider than the screen, each of its rows becomes a paragraph.
    """
    print_table(table(board), console)
    for said in (*findings(board), interval_legend(board), *caveats(board)):
        console.print(plain(said))
    others = published.table(board)
    if others is not None:
        print_table(others, console)


def show_answers(board: Leaderboard, console: Console) -> None:
    """Print which row to take for which wish."""
    console.print("Which row to take:")
    for answer in answers(board):
        console.print(plain(f"* {answer.text}"))


def table(board: Leaderboard) -> Table:
    """The table for the screen, rounded so that it fits into 80 columns."""
    from rich.table import Table

    rows = lines(board)
    shown = Table(
        title=plain(f"{board.study} on {board.benchmark}, {seed_count(board)}"),
        caption=f"percent [95 % interval] · MEAN = (target + source) / 2 · bold: not told from the best"
        f" · ★ Pareto front from 95 %, ☆ from 5 %\n{basis(board)}"
        + (f" · source k-NN: {probe(board)}" if board.ks != (HEADLINE_K,) else "")
        + (f" · {TEST_SELECTED} chosen on test data" if _marked(rows) else ""),
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    shown.add_column("", min_width=max((len(_short_label(line)) for line in rows), default=0))
    for name in ("params", "target", "source", "forgotten", "MEAN"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("★", no_wrap=True)
    shown.add_row(UNTOUCHED.split()[0], "0", "–", before(board, 1), "0.0", "–", "", style="dim")
    for line in rows:
        shown.add_row(*_screen_cells(line))
    return shown


def _short_label(line: Line) -> str:
    label: str = line["label"]
    return label.replace("block_expansion", "block exp.")


def _screen_cells(line: Line) -> Iterator[Text]:
    """What stands on a row's two lines: values above, and below what was chosen, and the intervals."""
    row = json.loads(line["row"])
    rest = {name: value for name, value in _chosen(line).items() if name not in row}
    chosen = ", ".join(f"{name}={readable(value, 2)}" for name, value in rest.items())
    yield plain(f"{_short_label(line)}\n{chosen}")
    yield plain(_short_count(line["trainable_parameters"]))
    for quantity in QUANTITIES:
        value, _, interval = cell(line, quantity).partition(" ")
        style = "bold" if quantity in line["groups"].split() else ""
        yield plain(f"{value}\n{interval.replace(' ', '')}", style)
    yield plain("\n".join(on_front(line)))


def _short_count(count: int | None) -> str:
    if count is None:
        return "–"
    if count >= 1_000_000:
        return f"{count / 1e6:.1f} M"
    return f"{count / 1e3:.1f} k" if count >= 1000 else str(count)

"""Records to tables, Pareto front and picture; needs neither Ray nor torch."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.records import Record, write_atomically

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

METHOD_ORDER = ("full", "top_k", "linear", "lora", "block_expansion")
QUANTITIES = ("target_accuracy", "source_accuracy", "forgetting", "mean")
REFERENCES = Path(__file__).parent.parent / "results" / "reference"
UNTOUCHED = "untouched backbone"
TEST_SELECTED = "†"
TEST_LEGEND = (
    "†: hyper-parameters and checkpoint chosen on test data, as in the paper (protocol: paper); such rows compare with "
    "the published ones only."
)
LEGEND = (
    "Accuracies in percent, ± the standard deviation over seeds. Target: test accuracy of the fine-tuned head. "
    "Source: weighted k-NN accuracy (k = 20) of the backbone's features on the domain it was pre-trained on. "
    "Forgetting: source accuracy before minus after. MEAN: (target + source) / 2, best in bold. "
    "★: on the Pareto front, no other row is at least as good in both accuracies and better in one."
)


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of ``n`` seeds; with one seed there is no deviation."""

    mean: float
    std: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + (f" ± {self.std:.2f}" if self.std is not None else "")


@dataclass(frozen=True)
class Row:
    """One line of the leaderboard. The spreads are None where no seed succeeded."""

    method: str
    row: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    trainable_parameters: int | None
    target_accuracy: Spread | None
    source_accuracy: Spread | None
    forgetting: Spread | None
    mean: Spread | None
    pareto: bool
    best: bool
    failed: int
    trials: tuple[str, ...]
    test_selected: bool = False
    """Chosen on test data (``protocol: paper``), and so not comparable with rows that were not."""

    @property
    def label(self) -> str:
        """The row's short name: its method, and the values that tell it from the method's other rows; † if marked."""
        mark = [TEST_SELECTED] if self.test_selected else []
        return " ".join([self.method, *(f"{name}={value}" for name, value in self.row.items()), *mark])

    @property
    def settings(self) -> str:
        """All chosen hyper-parameters in a few characters."""
        return ", ".join(
            f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in self.hyperparameters.items()
        )


@dataclass(frozen=True)
class Leaderboard:
    """The confirmed results of one study on one benchmark."""

    study: str
    benchmark: str
    seeds: tuple[int, ...]
    source_accuracy_before: float | None
    rows: tuple[Row, ...]


def build(records: Sequence[Record]) -> Leaderboard:
    """Make a leaderboard of the confirmations among some records; search trials are left out.

    Raises:
        ValueError: there are no confirmations, or they come from different studies, benchmarks or backbones.
    """
    confirmed = [record for record in records if record.phase == "confirm"]
    if not confirmed:
        raise ValueError("no record is a confirmation: the study ended before its search was over")
    study, benchmark = (_only(confirmed, name) for name in ("study", "benchmark"))
    rows = [_row(list(group)) for _, group in groupby(sorted(confirmed, key=_order), key=_row_of)]
    return Leaderboard(
        study=study,
        benchmark=benchmark,
        seeds=tuple(sorted({record.seed for record in confirmed})),
        source_accuracy_before=_before(confirmed),
        rows=tuple(_ranked(rows)),
    )


def _only(records: Sequence[Record], field: str) -> str:
    values = sorted({str(getattr(record, field)) for record in records})
    if len(values) > 1:
        raise ValueError(f"one leaderboard cannot hold records of several {field}s: {', '.join(values)}")
    return values[0]


def _before(records: Sequence[Record]) -> float | None:
    values = {r.source_accuracy_before for r in records if r.source_accuracy_before is not None}
    if values and max(values) - min(values) > 1e-6:
        raise ValueError(
            f"the records disagree about the untouched backbone's source accuracy ({min(values)} to {max(values)}): "
            f"they do not come from the same backbone, source and probe"
        )
    return min(values, default=None)


def _row_of(record: Record) -> tuple[str, tuple[tuple[str, Any], ...], str]:
    return record.method, tuple(record.row.items()), record.protocol


def _order(record: Record) -> tuple[Any, ...]:
    """Methods in the order of METHOD_ORDER, their rows by value, numbers before text."""
    known = METHOD_ORDER.index(record.method) if record.method in METHOD_ORDER else len(METHOD_ORDER)
    values = [(isinstance(v, str), v) if isinstance(v, (int, float)) else (True, str(v)) for v in record.row.values()]
    return known, record.method, values, record.protocol, record.seed


def _row(group: Sequence[Record]) -> Row:
    good = [record for record in group if record.status == "ok"]
    first = (good or group)[0]
    return Row(
        method=first.method,
        row=first.row,
        hyperparameters=first.hyperparameters,
        trainable_parameters=first.trainable_parameters,
        **{name: _spread([getattr(record, name) for record in good]) for name in QUANTITIES},
        pareto=False,
        best=False,
        failed=len(group) - len(good),
        trials=tuple(record.trial for record in group),
        test_selected=first.protocol == "paper",
    )


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def _ranked(rows: Sequence[Row]) -> Iterator[Row]:
    """The rows with the Pareto front and the best MEAN marked."""
    points = [(r.target_accuracy.mean, r.source_accuracy.mean) for r in rows if r.target_accuracy and r.source_accuracy]
    best = max((row.mean.mean for row in rows if row.mean), default=None)
    for row in rows:
        if not (row.target_accuracy and row.source_accuracy and row.mean):
            yield row
            continue
        mine = row.target_accuracy.mean, row.source_accuracy.mean
        beaten = any(p[0] >= mine[0] and p[1] >= mine[1] and p != mine for p in points)
        yield Row(**{**vars(row), "pareto": not beaten, "best": row.mean.mean == best})


def write(board: Leaderboard, folder: Path) -> None:
    """Write ``leaderboard.md``, ``.csv``, ``.json`` and ``pareto.png``; equal records give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "leaderboard.md", markdown(board))
    write_atomically(folder / "leaderboard.csv", as_csv(board))
    write_atomically(folder / "leaderboard.json", json.dumps(asdict(board), indent=2, sort_keys=True) + "\n")
    draw(board, folder / "pareto.png")


def markdown(board: Leaderboard) -> str:
    """The table as Markdown."""
    header = ["Method", "Hyper-parameters", "Trainable", "Target acc.", "Source acc.", "Forgetting", "MEAN", "Pareto"]
    cells = [[*_cells(row, strong="**{}**".format)] for row in board.rows]
    lines = [header, ["---", "---", *["---:"] * 5, ":-:"], _untouched(board), *cells]
    count = len(board.seeds)
    return "\n".join(
        [
            f"# {board.study} on {board.benchmark}",
            "",
            f"{count} seed{'s' * (count > 1)} a row: {', '.join(map(str, board.seeds))}.",
            "",
            *("| " + " | ".join(line) + " |" for line in lines),
            "",
            LEGEND,
            *_marked(board),
            *_failures(board),
            *_published(board),
            "",
        ]
    )


def _cells(row: Row, *, strong: Callable[[str], str]) -> Iterator[str]:
    yield row.label
    yield row.settings
    yield f"{row.trainable_parameters:,}" if row.trainable_parameters is not None else "–"
    for name in QUANTITIES:
        value = getattr(row, name)
        text = str(value) if value is not None else "failed"
        yield strong(text) if name == "mean" and row.best else text
    yield "★" if row.pareto else ""


def _untouched(board: Leaderboard) -> list[str]:
    before = board.source_accuracy_before
    known = f"{before:.2f}" if before is not None else "–"
    return [UNTOUCHED, "", "0", "–", known, "0.00", "–", ""]


def _marked(board: Leaderboard) -> list[str]:
    return ["", TEST_LEGEND] if any(row.test_selected for row in board.rows) else []


def _failures(board: Leaderboard) -> list[str]:
    failed = [f"{row.label}: {row.failed} of {len(row.trials)}" for row in board.rows if row.failed]
    return ["", f"Failed confirmations: {'; '.join(failed)}."] if failed else []


def reference(benchmark: str) -> Mapping[str, Any] | None:
    """Published numbers for a benchmark (``results/reference/<benchmark>.json``), if there are any."""
    path = REFERENCES / f"{benchmark}.json"
    found: Mapping[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return found


PUBLISHED = ("Published", "Trainable", "Target acc.", "Source acc.", "MEAN", "our target", "our source", "our MEAN")


def _published(board: Leaderboard) -> list[str]:
    """What others have published on this benchmark, beside our rows of the same method."""
    found = reference(board.benchmark)
    if found is None:
        return []
    lines = [[*PUBLISHED], ["---", *["---:"] * 7], *(_published_cells(entry, board) for entry in found["rows"])]
    table = ["| " + " | ".join(line) + " |" for line in lines]
    return ["", "## Published", "", *table, "", f"{found['source']}. {found['note']}"]


def _published_cells(entry: Mapping[str, Any], board: Leaderboard) -> list[str]:
    label = " ".join([entry["method"], *(f"{name}={value}" for name, value in entry["row"].items())])
    numbers = [f"{entry[name]:.2f}" for name in ("target_accuracy", "source_accuracy", "mean")]
    own = next((row for row in board.rows if _is_published(row, entry)), None)
    mark = f" {TEST_SELECTED}" if own and own.test_selected else ""
    ours = [str((own and getattr(own, name)) or "–") + mark for name in ("target_accuracy", "source_accuracy", "mean")]
    return [label, f"{entry['trainable_parameters']:,}", *numbers, *ours]


def _is_published(row: Row, entry: Mapping[str, Any]) -> bool:
    """Whether a row has the published method and all of its published settings."""
    return row.method == entry["method"] and all(row.hyperparameters.get(k) == v for k, v in entry["row"].items())


def as_csv(board: Leaderboard) -> str:
    """The table as plain numbers, one column a quantity."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{name}_{part}" for name in QUANTITIES for part in ("mean", "std", "n")]
    writer.writerow(
        [
            "method",
            "row",
            "hyperparameters",
            "trainable_parameters",
            *columns,
            "failed",
            "pareto",
            "best",
            "test_selected",
        ]
    )
    for row in board.rows:
        spreads = [getattr(row, name) for name in QUANTITIES]
        numbers = [getattr(s, part) if s else None for s in spreads for part in ("mean", "std", "n")]
        chosen = json.dumps(dict(row.hyperparameters))
        writer.writerow(
            [
                row.method,
                row.label,
                chosen,
                row.trainable_parameters,
                *numbers,
                row.failed,
                row.pareto,
                row.best,
                row.test_selected,
            ]
        )
    return text.getvalue()


def table(board: Leaderboard) -> Table:
    """The table for the screen, rounded so that it fits into 80 columns."""
    from rich.table import Table

    found = Table(
        title=f"{board.study} on {board.benchmark}, {len(board.seeds)} seed{'s' * (len(board.seeds) != 1)}",
        caption="percent ± std over seeds · MEAN = (target + source) / 2 · ★ Pareto front"
        + (" · † chosen on test data" if _marked(board) else ""),
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    found.add_column("", no_wrap=True)
    found.add_column("chosen")
    for name in ("params", "target", "source", "forgotten", "MEAN"):
        found.add_column(name, justify="right", no_wrap=True)
    found.add_column("★", no_wrap=True)
    before = f"{board.source_accuracy_before:.1f}" if board.source_accuracy_before is not None else "–"
    found.add_row(UNTOUCHED.split()[0], "", "0", "–", before, "0.0", "–", "", style="dim")
    for row in board.rows:
        found.add_row(*_screen_cells(row), style="bold" if row.best else "")
    return found


def show(board: Leaderboard, console: Console) -> None:
    """Print the table, and what others have published on the same benchmark."""
    console.print(table(board))
    others = published_table(board)
    if others is not None:
        console.print(others)


def published_table(board: Leaderboard) -> Table | None:
    """Published numbers beside ours for the screen, if there are any for this benchmark."""
    from rich.table import Table

    found = reference(board.benchmark)
    if found is None:
        return None
    table = Table(title=f"published for {board.benchmark}, and ours", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in PUBLISHED[2:]:
        table.add_column(name, justify="right")
    for entry in found["rows"]:
        label, _, *cells = _published_cells(entry, board)
        table.add_row(label.replace("block_expansion", "block exp."), *cells)
    return table


def _screen_cells(row: Row) -> Iterator[str]:
    yield row.label.replace("block_expansion", "block exp.")
    rest = {name: value for name, value in row.hyperparameters.items() if name not in row.row}
    yield ", ".join(f"{k}={v:.2g}" if isinstance(v, float) else f"{k}={v}" for k, v in rest.items())
    yield _short_count(row.trainable_parameters)
    for name in QUANTITIES:
        spread: Spread | None = getattr(row, name)
        if spread is None:
            yield "failed"
        else:
            yield f"{spread.mean:.1f}" + (f" ± {spread.std:.1f}" if spread.std is not None else "")
    yield "★" if row.pareto else ""


def _short_count(count: int | None) -> str:
    if count is None:
        return "–"
    if count >= 1_000_000:
        return f"{count / 1e6:.1f} M"
    return f"{count / 1e3:.1f} k" if count >= 1000 else str(count)


def draw(board: Leaderboard, path: Path) -> None:
    """Draw source accuracy over target accuracy, one marker a row, with its spread and the Pareto front."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 5.0), dpi=150, layout="constrained")
    rows = [row for row in board.rows if row.target_accuracy and row.source_accuracy]
    _draw_front(axes, rows)
    if board.source_accuracy_before is not None:
        axes.axhline(board.source_accuracy_before, color="0.45", linestyle=":", linewidth=1.2, zorder=1)
        axes.annotate(
            f"{UNTOUCHED} {board.source_accuracy_before:.1f}",
            (0.99, board.source_accuracy_before),
            xycoords=("axes fraction", "data"),
            xytext=(0, 4),
            textcoords="offset points",
            fontsize=8,
            color="0.35",
            horizontalalignment="right",
        )
    for method, group in groupby(rows, key=lambda row: row.method):
        _draw_method(axes, method, list(group), _style(method, board))
    axes.margins(x=0.09, y=0.12)
    axes.set_xlabel("target accuracy (%)  →  learned more")
    axes.set_ylabel("source accuracy, k-NN (%)  →  forgot less")
    axes.set_title(f"{board.study} on {board.benchmark}: what is learned, what is kept", fontsize=11)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if rows:
        axes.legend(loc="best", fontsize=8, frameon=True, framealpha=0.9)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", metadata={"Software": None})
    pyplot.close(figure)
    temporary.replace(path)


COLOURS = ("#d55e00", "#cc79a7", "#009e73", "#0072b2", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito
MARKERS = ("X", "s", "D", "^", "o", "v", "P")


def _style(method: str, board: Leaderboard) -> int:
    """A method's colour and marker: always the same for a known one, so that pictures can be compared."""
    others = sorted({row.method for row in board.rows} - set(METHOD_ORDER))
    return ([*METHOD_ORDER, *others]).index(method)


def _draw_method(axes: Any, method: str, rows: Sequence[Row], style: int) -> None:
    from matplotlib import patheffects

    colour, marker = COLOURS[style % len(COLOURS)], MARKERS[style % len(MARKERS)]
    points = [(row.target_accuracy, row.source_accuracy) for row in rows if row.target_accuracy and row.source_accuracy]
    x, y = ([spread.mean for spread in axis] for axis in zip(*points, strict=True))
    x_error, y_error = ([spread.std or 0.0 for spread in axis] for axis in zip(*points, strict=True))
    axes.errorbar(
        x,
        y,
        xerr=x_error,
        yerr=y_error,
        color=colour,
        marker=marker,
        markersize=8,
        markeredgecolor="white",
        linewidth=0,
        elinewidth=1,
        capsize=2,
        label=method.replace("_", " "),
        zorder=3,
    )
    axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.35, zorder=2)  # shows the order of a method's rows
    halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    for index, (row, place) in enumerate(zip(rows, zip(x, y, strict=True), strict=True)):
        text = ", ".join(f"{name}={value}" for name, value in row.row.items()) + TEST_SELECTED * row.test_selected
        above = index % 2 == 0
        axes.annotate(
            text,
            place,
            xytext=(6, 6) if above else (6, -6),
            verticalalignment="bottom" if above else "top",
            textcoords="offset points",
            fontsize=8,
            color=colour,
            path_effects=halo,
            zorder=4,
        )


def _draw_front(axes: Any, rows: Sequence[Row]) -> None:
    front = sorted(
        (row.target_accuracy.mean, row.source_accuracy.mean)
        for row in rows
        if row.pareto and row.target_accuracy and row.source_accuracy
    )
    if len(front) > 1:
        x, y = zip(*front, strict=True)
        axes.step(x, y, where="pre", color="0.6", linestyle="--", linewidth=1.1, zorder=1, label="Pareto front")

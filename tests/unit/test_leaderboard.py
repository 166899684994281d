"""The leaderboard: its numbers, its order, its marks, and that every form of it says the same."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench import leaderboard
from bench.leaderboard import Leaderboard, Row
from bench.records import Record

Make = Callable[..., Record]
MakeAll = Callable[..., list[Record]]

ORDER = [
    "full",
    "top_k",
    "linear",
    "lora rank=4",
    "lora rank=8",
    "lora rank=16",
    "block_expansion p=1",
    "block_expansion p=2",
    "block_expansion p=3",
    "block_expansion p=4",
]
FILES = ["leaderboard.csv", "leaderboard.json", "leaderboard.md", "pareto.png"]


@pytest.fixture(scope="module")
def board(paper_records: MakeAll) -> Leaderboard:
    return leaderboard.build(paper_records())


@pytest.fixture(scope="module")
def mixed(paper_records: MakeAll, failed: Make) -> Leaderboard:
    """One seed of lora rank 8 failed, and all seeds of block_expansion p=4."""
    records = [failed(r) if r.row == {"p": 4} or (r.row == {"rank": 8} and r.seed == 1) else r for r in paper_records()]
    return leaderboard.build(records)


def row(board: Leaderboard, label: str) -> Row:
    (found,) = [row for row in board.rows if row.label == label]
    return found


def screen(board: Leaderboard, width: int) -> str:
    text = io.StringIO()
    Console(file=text, width=width, force_terminal=False, color_system=None).print(leaderboard.table(board))
    return text.getvalue()


def points(make: Make, *places: tuple[float, float]) -> Leaderboard:
    """A board with one row a place, each of another method."""
    records = [
        make(trial=f"m{i}", method=f"m{i}", target_accuracy=t, source_accuracy=s, mean=(t + s) / 2)
        for i, (t, s) in enumerate(places)
    ]
    return leaderboard.build(records)


def test_mean_and_sample_deviation_over_seeds(paper_records: MakeAll) -> None:
    records = paper_records(seeds=(0, 1, 2, 3, 4))
    built = leaderboard.build(records)
    for found in built.rows:
        mine = [record for record in records if record.trial in found.trials]
        assert len(mine) == 5
        for name in leaderboard.QUANTITIES:
            values = [getattr(record, name) for record in mine]
            spread = getattr(found, name)
            assert spread.mean == pytest.approx(sum(values) / 5)
            assert spread.std == pytest.approx((sum((v - sum(values) / 5) ** 2 for v in values) / 4) ** 0.5)
            assert spread.n == 5


def test_three_seeds_of_full(board: Leaderboard) -> None:
    full = row(board, "full")
    assert str(full.target_accuracy) == "95.50 ± 0.30"
    assert str(full.source_accuracy) == "79.60 ± 1.10"
    assert str(full.forgetting) == "11.10 ± 1.10"
    assert str(full.mean) == "87.55 ± 0.40"
    assert full.trainable_parameters == 614_090
    assert (board.study, board.benchmark, board.seeds, board.source_accuracy_before) == (
        "paper",
        "tiny",
        (0, 1, 2),
        90.7,
    )


def test_one_seed_has_no_deviation(paper_records: MakeAll) -> None:
    full = row(leaderboard.build(paper_records(seeds=(3,))), "full")
    assert full.mean is not None
    assert (full.mean.std, full.mean.n) == (None, 1)
    assert str(full.mean) == "87.55"


def test_rows_stand_in_the_papers_order_whatever_the_order_of_records(paper_records: MakeAll) -> None:
    records = paper_records()
    for seed in range(5):
        random.Random(seed).shuffle(records)
        built = leaderboard.build(records)
        assert [row.label for row in built.rows] == ORDER
        assert built == leaderboard.build(paper_records())


def test_an_unknown_method_comes_last_by_name(paper_records: MakeAll, record: Make) -> None:
    extra = [record(trial=name, method=name) for name in ("zeta", "alpha")]
    built = leaderboard.build([*extra, *paper_records()])
    assert [row.label for row in built.rows] == [*ORDER, "alpha", "zeta"]


def test_rows_are_ordered_by_number_then_by_text(record: Make) -> None:
    values = ["b", 16, 4.5, "a", 8]
    built = leaderboard.build([record(trial=str(v), method="m", row={"x": v}) for v in values])
    assert [row.row["x"] for row in built.rows] == [4.5, 8, 16, "a", "b"]


def test_rows_of_bool_and_none_can_be_ordered(record: Make) -> None:
    values = [None, True, 3, False]
    built = leaderboard.build([record(trial=str(v), method="m", row={"x": v}) for v in values])
    assert len(built.rows) == 4


def test_search_trials_are_left_out(paper_records: MakeAll, record: Make) -> None:
    scores = ("target_accuracy", "source_accuracy", "source_accuracy_before", "forgetting", "mean")
    search = record(trial="s", phase="search", **dict.fromkeys(scores), **{f"val_{name}": 99.0 for name in scores})
    assert leaderboard.build([search, *paper_records()]) == leaderboard.build(paper_records())
    with pytest.raises(ValueError, match="no record is a confirmation"):
        leaderboard.build([search])
    with pytest.raises(ValueError, match="no record is a confirmation"):
        leaderboard.build([])


def test_pareto_front_and_best_mean_of_the_paper(board: Leaderboard) -> None:
    assert [row.label for row in board.rows if row.pareto] == [
        "full",
        "top_k",
        "block_expansion p=1",
        "block_expansion p=2",
        "block_expansion p=4",
    ]
    assert [row.label for row in board.rows if row.best] == ["block_expansion p=4"]


def test_the_front_is_what_nothing_beats(record: Make) -> None:
    rng = random.Random(0)
    for _ in range(20):
        places = [(float(rng.randint(80, 88)), float(rng.randint(80, 88))) for _ in range(8)]
        for found, mine in zip(points(record, *places).rows, places, strict=True):
            beaten = any(p[0] >= mine[0] and p[1] >= mine[1] and (p[0] > mine[0] or p[1] > mine[1]) for p in places)
            assert found.pareto is not beaten


def test_equal_rows_are_both_on_the_front_and_both_best(record: Make) -> None:
    built = points(record, (90.0, 90.0), (90.0, 90.0), (90.0, 89.0), (80.0, 80.0))
    assert [row.pareto for row in built.rows] == [True, True, False, False]
    assert [row.best for row in built.rows] == [True, True, False, False]


def test_failed_seeds_are_counted_and_left_out(mixed: Leaderboard) -> None:
    lora = row(mixed, "lora rank=8")
    assert lora.failed == 1
    assert lora.target_accuracy is not None
    assert lora.target_accuracy.n == 2
    assert lora.target_accuracy.mean == pytest.approx(statistics.fmean([92.4, 93.2]))
    assert len(lora.trials) == 3


def test_a_row_without_success_is_kept(mixed: Leaderboard) -> None:
    lost = row(mixed, "block_expansion p=4")
    assert [row.label for row in mixed.rows] == ORDER
    assert (lost.target_accuracy, lost.source_accuracy, lost.forgetting, lost.mean) == (None, None, None, None)
    assert (lost.failed, lost.pareto, lost.best) == (3, False, False)
    assert lost.hyperparameters == {"p": 4, "lr": 0.12}
    assert "Failed confirmations: lora rank=8: 1 of 3; block_expansion p=4: 3 of 3." in leaderboard.markdown(mixed)
    assert [row.label for row in mixed.rows if row.best] == ["lora rank=8"]


def test_a_board_of_failures_can_be_written(tmp_path: Path, paper_records: MakeAll, failed: Make) -> None:
    built = leaderboard.build([failed(record) for record in paper_records(methods=["full", "lora"])])
    leaderboard.write(built, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    assert built.source_accuracy_before is None
    assert screen(built, 80).count("failed") == 4 * 4


@pytest.mark.parametrize("field", ["study", "benchmark"])
def test_records_of_several_kinds_do_not_make_one_board(paper_records: MakeAll, field: str) -> None:
    with pytest.raises(ValueError, match=f"cannot hold records of several {field}s: other, "):
        leaderboard.build([*paper_records(methods=["full"]), *paper_records(methods=["lora"], **{field: "other"})])


def test_records_of_several_backbones_do_not_make_one_board(paper_records: MakeAll) -> None:
    with pytest.raises(ValueError, match=r"disagree about the untouched backbone's source accuracy \(90.7 to 91.2\)"):
        leaderboard.build([*paper_records(methods=["full"]), *paper_records(methods=["lora"], before=91.2)])


def test_equal_records_give_equal_bytes(tmp_path: Path, paper_records: MakeAll, mixed: Leaderboard) -> None:
    records = paper_records()
    leaderboard.write(leaderboard.build(records), tmp_path / "a")
    leaderboard.write(mixed, tmp_path / "b")  # the other folder held something else before
    records.reverse()
    leaderboard.write(leaderboard.build(records), tmp_path / "b")
    for folder in ("a", "b"):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == FILES
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_json_parses_back_to_the_numbers(tmp_path: Path, mixed: Leaderboard) -> None:
    leaderboard.write(mixed, tmp_path)
    read = json.loads((tmp_path / "leaderboard.json").read_text())
    assert (read["study"], read["benchmark"], read["seeds"]) == ("paper", "tiny", [0, 1, 2])
    assert read["source_accuracy_before"] == 90.7
    for found, values in zip(mixed.rows, read["rows"], strict=True):
        for name in ("method", "row", "hyperparameters", "trainable_parameters", "pareto", "best", "failed"):
            assert values[name] == getattr(found, name)
        for name in leaderboard.QUANTITIES:
            spread = getattr(found, name)
            assert values[name] == (vars(spread) if spread else None)
        assert values["trials"] == list(found.trials)


def test_csv_parses_back_to_the_numbers(mixed: Leaderboard) -> None:
    lines = list(csv.DictReader(io.StringIO(leaderboard.as_csv(mixed))))
    for found, values in zip(mixed.rows, lines, strict=True):
        assert (values["method"], values["row"]) == (found.method, found.label)
        assert json.loads(values["hyperparameters"]) == found.hyperparameters
        assert values["trainable_parameters"] == str(found.trainable_parameters or "")
        assert (values["failed"], values["pareto"], values["best"]) == tuple(
            str(value) for value in (found.failed, found.pareto, found.best)
        )
        for name, part in itertools.product(leaderboard.QUANTITIES, ("mean", "std", "n")):
            spread = getattr(found, name)
            text = values[f"{name}_{part}"]
            assert text == "" if spread is None else float(text) == getattr(spread, part)


def markdown_rows(board: Leaderboard) -> list[list[str]]:
    lines = [line for line in leaderboard.markdown(board).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_markdown_parses_back_to_the_numbers(mixed: Leaderboard) -> None:
    header, dashes, untouched, *rows = markdown_rows(mixed)
    assert header[:3] == ["Method", "Hyper-parameters", "Trainable"]
    assert {len(line) for line in (header, dashes, untouched, *rows)} == {8}
    assert (untouched[0], untouched[4], untouched[5]) == ("untouched backbone", "90.70", "0.00")
    for found, cells in zip(mixed.rows, rows, strict=True):
        assert cells[0] == found.label
        assert cells[2] == (f"{found.trainable_parameters:,}" if found.trainable_parameters else "–")
        for name, cell in zip(leaderboard.QUANTITIES, cells[3:7], strict=True):
            spread = getattr(found, name)
            if spread is None:
                assert cell == "failed"
                continue
            mean, std = (float(part) for part in cell.strip("*").split(" ± "))
            assert (mean, std) == (pytest.approx(spread.mean, abs=0.0051), pytest.approx(spread.std, abs=0.0051))
        assert (cells[7] == "★") is found.pareto
        assert cells[6].startswith("**") is found.best
    assert leaderboard.LEGEND in leaderboard.markdown(mixed)


def test_chosen_values_are_rounded_for_people_only(board: Leaderboard) -> None:
    assert row(board, "full").settings == "lr=0.0314"
    assert row(board, "full").hyperparameters["lr"] == 0.031415926535
    assert row(board, "lora rank=16").settings == "rank=16, lr=0.064"


def numbers(board: Leaderboard) -> list[str]:
    spreads = [getattr(row, name) for row in board.rows for name in leaderboard.QUANTITIES]
    return [f"{s.mean:.1f} ± {s.std:.1f}" for s in spreads if s]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_screen_cuts_no_number(board: Leaderboard, mixed: Leaderboard, width: int) -> None:
    for shown in (board, mixed):
        text = screen(shown, width)
        assert "…" not in text
        assert all(len(line) <= width for line in text.splitlines())
        assert [number for number in numbers(shown) if number not in text] == []
        for label in (row.label.replace("block_expansion", "block exp.") for row in shown.rows):
            assert label in text
        for count in ("614.1 k", "150.6 k", "650", "12.9 k"):
            assert count in text


@pytest.mark.parametrize("width", [80, 100])
def test_the_screen_cuts_no_number_of_large_spreads_and_models(
    paper_records: MakeAll, record: Make, width: int
) -> None:
    """As of a ViT-B whose seeds differ widely: every number has one more digit."""
    changed: list[Record] = [
        record(**{**old.model_dump(), "trainable_parameters": 85_875_556, "target_accuracy": target})
        for old, target in zip(paper_records(), itertools.cycle((100.0, 50.0, 75.0)), strict=False)
    ]
    built = leaderboard.build(changed)
    text = screen(built, width)
    assert "…" not in text
    assert [number for number in numbers(built) if number not in text] == []
    assert "85.9 M" in text


def test_the_screen_marks_front_and_best(board: Leaderboard) -> None:
    lines = screen(board, 100).splitlines()
    starred = [
        line.removesuffix("★") != line for line in map(str.rstrip, lines) if " ± " in line and "MEAN" not in line
    ]
    assert starred == [row.pareto for row in board.rows]
    (untouched,) = [line for line in lines if line.startswith("untouched")]
    assert "90.7" in untouched


def drawn(tmp_path: Path, records: Sequence[Record]) -> bytes:
    leaderboard.draw(leaderboard.build(records), tmp_path / "pareto.png")
    assert [path.name for path in tmp_path.iterdir()] == ["pareto.png"]
    return (tmp_path / "pareto.png").read_bytes()


@pytest.mark.parametrize("methods", [["linear"], ["lora"], ["full", "block_expansion"], None])
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_every_board_can_be_drawn(tmp_path: Path, paper_records: MakeAll, methods: Any, seeds: tuple[int, ...]) -> None:
    image = drawn(tmp_path, paper_records(methods=methods, seeds=seeds))
    assert image.startswith(b"\x89PNG")
    width, height = (int.from_bytes(image[at : at + 4], "big") for at in (16, 20))
    assert (width, height) == (1080, 750)


def test_an_unknown_method_can_be_drawn(tmp_path: Path, paper_records: MakeAll, record: Make) -> None:
    names = [f"new_{index}" for index in range(9)]
    assert drawn(tmp_path, [*paper_records(), *(record(trial=name, method=name) for name in names)])


def test_published_numbers_stand_beside_ours(paper_records: MakeAll) -> None:
    published = leaderboard.reference("cifar100")
    assert published is not None
    for entry in published["rows"]:
        mean = (entry["target_accuracy"] + entry["source_accuracy"]) / 2
        assert entry["mean"] == pytest.approx(mean, abs=0.011), entry
    assert leaderboard.reference("tiny") is None
    records = [record.model_copy(update={"benchmark": "cifar100"}) for record in paper_records()]
    text = leaderboard.markdown(leaderboard.build(records)).split("## Published")[1]
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("|")}
    assert len(lines) == 12
    assert "88.13 | 25.24 | 56.69 | 95.5" in lines["full"]
    assert "88.58 | 74.61 | 81.60 | 91.0" in lines["block_expansion p=3"]
    assert "2404.17245" in text
    shown = io.StringIO()
    leaderboard.show(leaderboard.build(records), Console(file=shown, width=90))
    assert "published for cifar100, and ours" in shown.getvalue()
    assert re.search(r"block exp. p=3 +88.58 +74.61 +81.60 +91.0", shown.getvalue())


def test_rows_that_were_chosen_on_test_data_are_marked(paper_records: MakeAll) -> None:
    clean = paper_records(methods=["linear"])
    tainted = [record.model_copy(update={"protocol": "paper"}) for record in paper_records(methods=["full"])]
    board = leaderboard.build([*clean, *tainted])
    assert [(row.label, row.test_selected) for row in board.rows] == [("full †", True), ("linear", False)]
    text = leaderboard.markdown(board)
    assert "| full † |" in text
    assert leaderboard.TEST_LEGEND in text
    assert leaderboard.TEST_LEGEND not in leaderboard.markdown(leaderboard.build(clean))
    assert "† chosen on test data" in screen(board, 100)
    lines = list(csv.DictReader(io.StringIO(leaderboard.as_csv(board))))
    assert [line["test_selected"] for line in lines] == ["True", "False"]

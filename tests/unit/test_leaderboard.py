"""Renderings of the rows: Markdown, CSV, JSON, screen and picture all say the same, and the same twice."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from bench.__main__ import main
from bench.folder import LaunchFolder
from bench.records import Record
from bench.reporting import leaderboard, picture, published
from bench.reporting.findings import UNFINISHED, interval_legend
from bench.reporting.picture import draw
from bench.reporting.rows import FACTS, PARTS, QUANTITIES, Leaderboard, build, tidy
from bench.spec import printable

Make = Callable[..., Record]
MakeAll = Callable[..., list[Record]]

FILES = ["index.html", "leaderboard.csv", "leaderboard.json", "leaderboard.md", "pareto.png"]


def screen(board: Leaderboard, width: int) -> str:
    text = io.StringIO()
    Console(file=text, width=width, force_terminal=False, color_system=None).print(leaderboard.table(board))
    return text.getvalue()


def test_a_board_of_failures_can_be_written(tmp_path: Path, paper_records: MakeAll, failed: Make) -> None:
    built = build([failed(record) for record in paper_records(methods=["full", "lora"])])
    leaderboard.write(built, LaunchFolder(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    assert built.source_accuracy_before is None
    assert screen(built, 80).count("failed") == 4 * 4


def test_equal_records_give_equal_bytes(tmp_path: Path, paper_records: MakeAll) -> None:
    records = paper_records()
    leaderboard.write(build(records), LaunchFolder(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    for name in FILES:  # the other folder held something else before
        (tmp_path / "b" / name).write_text("another launch's, and longer than this one's" * 10_000)
    records.reverse()
    leaderboard.write(build(records), LaunchFolder(tmp_path / "b"))
    for folder in ("a", "b"):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == FILES
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


EVIL = [
    "<i>",
    "**b**",
    "_a_ _",
    "a|b",
    "[x](http://y)",
    "`c`",
    "~~d~~",
    "&lt;",
    "\\\\ \\|a",
    "$e$",
    "C #",
    "two\nlines",
    "top_k",
]


@pytest.mark.parametrize("evil", EVIL)
def test_names_are_no_markup_in_markdown(record: Make, evil: str) -> None:
    """Shown by a Markdown reader: a title and a table whose texts are the names as they are, in as many columns."""
    name = re.sub(r"[\n/\\]", " ", evil)  # no name holds these
    about = {"study": name.strip(), "benchmark": f"{name.strip()}2"}
    rows = [{"x": evil}, {"x": f"{evil}{evil}"}]
    made = [record(trial=f"full-{n}", row=row, hyperparameters=row, **about) for n, row in enumerate(rows)]
    board = build(made)
    text = leaderboard.markdown(board)
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    texts = []
    for token in tokens:
        inside = [(child.type, child.content) for child in token.children or ()]
        assert {kind for kind, _ in inside} <= {"text", "text_special", "strong_open", "strong_close", "softbreak"}
        texts.append("".join(content for _, content in inside))
    assert f"{about['study']} on {about['benchmark']}" in texts
    for row in board.rows:
        shown = printable(row.label)
        assert shown in texts
        assert f"x={printable(row.row['x'])}" in texts
        assert any(shown in said for said in texts if " minus " in said)
    cells = [token for token in tokens if token.type in ("th_open", "td_open")]
    assert len(cells) == len(leaderboard.HEADER) * (1 + 1 + len(rows))


def test_json_parses_back_to_the_numbers(tmp_path: Path, mixed: Leaderboard) -> None:
    leaderboard.write(mixed, LaunchFolder(tmp_path))
    read = json.loads((tmp_path / "leaderboard.json").read_text())
    assert (read["study"], read["benchmark"], read["seeds"]) == ("paper", "tiny", [0, 1, 2])
    assert read["objective"] == "mean"
    assert read["source_accuracy_before"] == 90.7
    for found, values in zip(mixed.rows, read["rows"], strict=True):
        for name in ("method", "row", "hyperparameters", "trainable_parameters", "variant", *FACTS):
            assert values[name] == getattr(found, name)
        for name in QUANTITIES:
            spread = getattr(found, name)
            assert values[name] == (vars(spread) if spread else None)
        assert values["trials"] == list(found.trials)


def test_csv_parses_back_to_the_numbers(mixed: Leaderboard) -> None:
    lines = list(csv.DictReader(io.StringIO(leaderboard.as_csv(mixed))))
    for found, values in zip(mixed.rows, lines, strict=True):
        assert (values["method"], values["row"]) == (found.method, found.label)
        assert json.loads(values["hyperparameters"]) == found.hyperparameters
        assert values["trainable_parameters"] == str(found.trainable_parameters or "")
        assert [values[name] for name in FACTS] == [str(getattr(found, name)) for name in FACTS]
        for name, part in itertools.product(QUANTITIES, PARTS):
            spread = getattr(found, name)
            text = values[f"{name}_{part}"]
            assert text == "" if spread is None else float(text) == getattr(spread, part)


def markdown_rows(board: Leaderboard) -> list[list[str]]:
    lines = [line for line in leaderboard.markdown(board).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_markdown_parses_back_to_the_numbers(mixed: Leaderboard) -> None:
    header, dashes, untouched, *rows = markdown_rows(mixed)
    assert header[:3] == ["Method", "Hyper-parameters", "Trainable"]
    assert {len(line) for line in (header, dashes, untouched, *rows)} == {10}
    assert (untouched[0], untouched[6], untouched[7]) == ("untouched backbone", "90.7", "0.0")
    for found, cells in zip(mixed.rows, rows, strict=True):
        assert cells[0] == found.label
        assert cells[2] == (f"{found.trainable_parameters:,}" if found.trainable_parameters else "–")
        assert cells[3:5] == [str(found.mean.n if found.mean else 0), "1 × –"]
        for name, cell in zip(QUANTITIES, cells[5:9], strict=True):
            spread = getattr(found, name)
            if spread is None:
                assert cell == "failed"
                continue
            numbers = [float(part) for part in re.findall(r"-?[\d.]+", cell)]
            assert numbers == pytest.approx([spread.mean, spread.low, spread.high], abs=0.0501)
            assert cell.startswith("**") is (found.standing is not None and name in found.standing.groups)
        probability = found.standing.pareto_probability if found.standing else 0
        assert cells[9][:1] == ("★" if probability >= 0.95 else "☆" if probability >= 0.05 else "")
        assert not cells[9] or float(cells[9][2:-1]) == pytest.approx(100 * probability, abs=0.501)
    text = leaderboard.markdown(mixed)
    assert leaderboard.LEGEND.format(k="k = 20") in text
    assert interval_legend(mixed) in text
    basis = "3 seeds a row: 0, 1, 2; 500 test images; 1,000 source queries; chosen by mean."
    assert basis in text
    assert basis in " ".join(screen(mixed, 200).split())
    assert "Failed confirmations: lora rank=8: 1 of 3; block_expansion p=4: 3 of 3." in text


@pytest.fixture
def cut(tmp_path: Path, paper_records: MakeAll) -> LaunchFolder:
    """What a launch leaves that was killed before all seeds of two of its rows had ended."""
    folder = LaunchFolder(tmp_path / "cut")
    for one in paper_records(methods=["full", "lora"], seeds=(0, 1)):
        if one.trial not in ("lora-confirm-rank8-seed1", "lora-confirm-rank16-seed1"):
            one.write(folder.records)
    folder.manifest.write_text('{"id": "x", "ended": false, "asked": {}}')
    return folder


def test_a_launch_that_has_not_ended_is_called_so_wherever_it_is_shown(
    cut: LaunchFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    for ended in (False, True):
        cut.manifest.write_text(json.dumps({"id": "x", "ended": ended, "asked": {}}))
        assert main(["leaderboard", str(cut.path)]) == 0
        shown = [" ".join(capsys.readouterr().out.split()), cut.table.read_text(), cut.page.read_text()]
        assert [UNFINISHED in text for text in shown] == [not ended] * 3
        assert json.loads(cut.table_json.read_text()).get("ended", True) is ended
    cut.manifest.unlink()  # an earlier version has left none
    assert main(["leaderboard", str(cut.path)]) == 0
    assert UNFINISHED not in cut.table.read_text()


def test_rows_that_lack_seeds_are_named_with_those_that_they_have(cut: LaunchFolder, paper_records: MakeAll) -> None:
    board = build(cut.read_records())
    said = "up to 2 seeds a row: 0, 1 (lora rank=8 and lora rank=16: 0);"
    assert said in leaderboard.markdown(board)
    assert "paper on tiny, up to 2 seeds" in " ".join(screen(board, 200).split())
    assert said in " ".join(screen(board, 200).split())
    held = {row["trials"][0]: row.get("of_seeds") for row in json.loads(leaderboard.as_json(board))["rows"]}
    assert held["lora-confirm-rank8-seed0"] == [0]
    assert held["lora-confirm-rank4-seed0"] is None  # as the board's
    one = build(paper_records(seeds=(3,)))
    assert "\n1 seed a row: 3;" in leaderboard.markdown(one)


def test_every_form_has_the_numbers_of_the_tidy_table(mixed: Leaderboard) -> None:
    table = tidy(mixed)
    as_csv = {line["row"]: line for line in csv.DictReader(io.StringIO(leaderboard.as_csv(mixed)))}
    as_markdown = {cells[0]: dict(zip(QUANTITIES, cells[5:9], strict=True)) for cells in markdown_rows(mixed)[3:]}
    shown = leaderboard.for_mlflow(mixed).set_index("row")
    text = screen(mixed, 160)
    assert set(as_csv) == set(as_markdown) == set(shown.index) == set(table["label"])
    for label, quantity, *numbers in table[["label", "quantity", *PARTS]].itertuples(index=False):
        found = [as_csv[label][f"{quantity}_{part}"] for part in PARTS]
        cell = as_markdown[label][quantity].strip("*")
        if pd.isna(numbers[0]):
            assert (found, cell) == ([""] * len(PARTS), "failed")
            assert pd.isna(shown.loc[label, quantity])
            continue
        mean, std, _, low, high = numbers
        assert list(map(float, found)) == numbers
        interval = f"[{round(low, 1) + 0.0:.1f}, {round(high, 1) + 0.0:.1f}]"
        assert cell == f"{mean:.1f} {interval}"
        assert interval.replace(" ", "") in text
        digits = [round(value, 4) for value in (mean, std, low, high)]  # MLflow shows all that a number has
        assert [shown.loc[label, f"{quantity}{part}"] for part in ("", "_std", "_low", "_high")] == digits


def test_rows_that_need_more_words_are_shown_apart(record: Make) -> None:
    """Two configurations of one row, and what a method makes of its trained models."""
    made = [
        record(trial=f"x{lr}", row={"k": 3}, hyperparameters={"k": 3, "lr": lr}, variants={"half": (80.0, 85.0)})
        for lr in (0.1, 0.0999)
    ]
    built = build(made)
    labels = ["full k=3 lr=0.0999", "full k=3 half lr=0.0999", "full k=3 lr=0.1", "full k=3 half lr=0.1"]
    assert [row.label for row in built.rows] == labels
    assert [cells[0] for cells in markdown_rows(built)[3:]] == labels
    assert [line["row"] for line in csv.DictReader(io.StringIO(leaderboard.as_csv(built)))] == labels
    shown = [line for line in screen(built, 100).splitlines() if line.startswith("full")]
    assert [line.startswith(f"{label} ") for line, label in zip(shown, labels, strict=True)] == [True] * 4


def test_chosen_values_are_rounded_for_people_only(board: Leaderboard) -> None:
    shown = {cells[0]: cells[1] for cells in markdown_rows(board)}
    assert shown["full"] == "lr=0.0314"
    assert shown["lora rank=16"] == "rank=16, lr=0.064"
    assert board.rows[0].hyperparameters["lr"] == 0.031415926535
    assert '""lr"": 0.031415926535' in leaderboard.as_csv(board)
    assert "lr=0.031 " in screen(board, 100)


def numbers(board: Leaderboard) -> list[str]:
    spreads = [getattr(row, name) for row in board.rows for name in QUANTITIES]
    ends = [f"[{round(s.low, 1) + 0.0:.1f},{round(s.high, 1) + 0.0:.1f}]" for s in spreads if s]
    return [*ends, *(f"{s.mean:.1f}" for s in spreads if s)]


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
        record(
            **{name: getattr(old, name) for name in ("trial", "method", "row", "hyperparameters", "seed")},
            trainable_parameters=85_875_556,
            target=target,
            source=old.scores["source_accuracy"],
        )
        for old, target in zip(paper_records(), itertools.cycle((100.0, 50.0, 75.0)), strict=False)
    ]
    built = build(changed)
    text = screen(built, width)
    assert "…" not in text
    assert [number for number in numbers(built) if number not in text] == []
    assert "85.9 M" in text


def test_the_screen_marks_front_and_best(board: Leaderboard) -> None:
    lines = screen(board, 100).splitlines()
    below = [index for index, line in enumerate(lines) if "lr=" in line]
    stars = [lines[index - 1].rstrip()[-1] for index in below]
    chances = [row.standing.pareto_probability if row.standing else 0 for row in board.rows]
    assert ["★" if chance >= 0.95 else "☆" if chance >= 0.05 else "" for chance in chances] == [
        star if star in "★☆" else "" for star in stars
    ]
    assert [lines[index].rstrip().endswith("%") for index in below] == [chance >= 0.05 for chance in chances]
    (untouched,) = [line for line in lines if line.startswith("untouched")]
    assert "90.7" in untouched


def drawn(tmp_path: Path, records: Sequence[Record]) -> bytes:
    draw(build(records), tmp_path / "pareto.png")
    assert [path.name for path in tmp_path.iterdir()] == ["pareto.png"]
    return (tmp_path / "pareto.png").read_bytes()


@pytest.mark.parametrize("methods", [["linear"], ["lora"], ["full", "block_expansion"], None])
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_every_board_can_be_drawn(tmp_path: Path, paper_records: MakeAll, methods: Any, seeds: tuple[int, ...]) -> None:
    image = drawn(tmp_path, paper_records(methods=methods, seeds=seeds))
    assert image.startswith(b"\x89PNG")
    width, height = (int.from_bytes(image[at : at + 4], "big") for at in (16, 20))
    assert (width, height) == (1080, 750)


def test_many_methods_leave_room_for_the_rows(tmp_path: Path, record: Make) -> None:
    records = [record(method=f"mine{number}", trial=f"mine{number}", target=50.0 + number) for number in range(40)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a figure without room for its axes says so
        draw(build(records), tmp_path / "pareto.png")


def test_no_two_methods_look_alike() -> None:
    looks = {
        (picture.COLOURS[style % len(picture.COLOURS)], picture.MARKERS[style % len(picture.MARKERS)])
        for style in range(63)
    }
    assert len(looks) == 63


@pytest.mark.parametrize(("rows", "named"), [(14, 14), (15, 2)])
def test_of_many_rows_only_the_front_is_named(record: Make, rows: int, named: int, monkeypatch: Any) -> None:
    names: list[str] = []
    monkeypatch.setattr(picture, "_draw_name", lambda axes, name, *rest, **more: names.append(name))
    monkeypatch.setattr(picture, "_save", lambda figure, path: None)
    records = [
        record(method=f"mine{number}", trial=f"mine{number}", target=50.0 + number, source=90.0 - (number == rows - 1))
        for number in range(rows)
    ]
    draw(build(records), Path("pareto.png"))
    assert len(names) == named


def test_an_unknown_method_can_be_drawn(tmp_path: Path, paper_records: MakeAll, record: Make) -> None:
    names = [f"new_{index}" for index in range(9)]
    assert drawn(tmp_path, [*paper_records(), *(record(trial=name, method=name) for name in names)])


def test_published_numbers_stand_beside_ours(paper_records: MakeAll) -> None:
    others = published.reference("cifar100")
    assert others is not None
    for entry in others["rows"]:
        mean = (entry["target_accuracy"] + entry["source_accuracy"]) / 2
        assert entry["mean"] == pytest.approx(mean, abs=0.011), entry
    assert published.reference("tiny") is None
    records = [record.model_copy(update={"benchmark": "cifar100"}) for record in paper_records()]
    text = leaderboard.markdown(build(records)).split("## Published")[1]
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("|")}
    assert len(lines) == 12
    assert "88.13 | 25.24 | 56.69 | 95.5" in lines["full"]
    assert "88.58 | 74.61 | 81.60 | 91.0" in lines["block_expansion p=3"]
    assert "2404.17245" in text
    shown = io.StringIO()
    leaderboard.show(build(records), Console(file=shown, width=90))
    assert "published for cifar100, and ours" in shown.getvalue()
    assert re.search(r"block exp. p=3 +88.58 +74.61 +81.60 +91.0", shown.getvalue())


def test_rows_that_were_chosen_on_test_data_are_marked(paper_records: MakeAll) -> None:
    clean = paper_records(methods=["linear"])
    tainted = [record.model_copy(update={"protocol": "paper"}) for record in paper_records(methods=["full"])]
    board = build([*clean, *tainted])
    text = leaderboard.markdown(board)
    assert "| full † |" in text
    assert leaderboard.TEST_LEGEND in text
    assert leaderboard.TEST_LEGEND not in leaderboard.markdown(build(clean))
    assert "† chosen on test data" in screen(board, 100)
    lines = list(csv.DictReader(io.StringIO(leaderboard.as_csv(board))))
    assert [line["test_selected"] for line in lines] == ["True", "False"]

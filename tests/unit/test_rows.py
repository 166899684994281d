"""Rows: which records make one, in which order they stand, what is marked, and the tidy table of them."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from bench.records import Record
from bench.reporting import leaderboard
from bench.reporting.rows import FACTS, PARTS, QUANTITIES, Leaderboard, Row, build, lines, tidy, wide
from bench.spec import SearchContext

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


def row(board: Leaderboard, label: str) -> Row:
    (found,) = [row for row in board.rows if row.label == label]
    return found


def labels(board: Leaderboard) -> list[str]:
    return [row.label for row in board.rows]


def spreads(row: Row) -> list[tuple[float, float | None, int] | None]:
    """Mean, deviation and count of all quantities, rounded as people read them."""
    found = [getattr(row, name) for name in QUANTITIES]
    return [one and (round(one.mean, 9), one.std and round(one.std, 9), one.n) for one in found]


def points(make: Make, *places: tuple[float, float]) -> Leaderboard:
    """A board with one row a place, each of another method."""
    return build([make(trial=f"m{i}", method=f"m{i}", target=t, source=s) for i, (t, s) in enumerate(places)])


def test_mean_and_sample_deviation_over_seeds(paper_records: MakeAll) -> None:
    records = paper_records(seeds=(0, 1, 2, 3, 4))
    for found in build(records).rows:
        mine = [record for record in records if record.trial in found.trials]
        assert len(mine) == 5
        for name in QUANTITIES:
            values = [value for record in mine if (value := record.scores[name]) is not None]
            spread = getattr(found, name)
            assert spread.mean == pytest.approx(sum(values) / 5)
            assert spread.std == pytest.approx((sum((v - sum(values) / 5) ** 2 for v in values) / 4) ** 0.5)
            assert spread.n == len(values) == 5


def test_three_seeds_of_full(board: Leaderboard) -> None:
    full = row(board, "full")
    assert spreads(full) == [(95.5, 0.3, 3), (79.6, 1.1, 3), (11.1, 1.1, 3), (87.55, 0.4, 3)]
    assert full.trainable_parameters == 614_090
    assert (board.study, board.benchmark, board.seeds) == ("paper", "tiny", (0, 1, 2))
    assert (board.source_accuracy_before, board.objective) == (90.7, "mean")


def test_one_seed_has_no_deviation(paper_records: MakeAll) -> None:
    full = row(build(paper_records(seeds=(3,))), "full")
    assert spreads(full) == [(95.5, None, 1), (79.6, None, 1), (11.1, None, 1), (87.55, None, 1)]


def test_rows_stand_in_the_papers_order_whatever_the_order_of_records(paper_records: MakeAll) -> None:
    records = paper_records()
    for seed in range(5):
        random.Random(seed).shuffle(records)
        built = build(records)
        assert labels(built) == ORDER
        assert built == build(paper_records())


def test_an_unknown_method_comes_last_by_name(paper_records: MakeAll, record: Make) -> None:
    extra = [record(trial=name, method=name) for name in ("zeta", "alpha")]
    assert labels(build([*extra, *paper_records()])) == [*ORDER, "alpha", "zeta"]


def test_rows_are_ordered_by_number_then_by_text(record: Make) -> None:
    values = ["b", 16, 4.5, "a", 8]
    built = build([record(trial=str(v), method="m", row={"x": v}) for v in values])
    assert [row.row["x"] for row in built.rows] == [4.5, 8, 16, "a", "b"]


def test_rows_of_bool_and_none_can_be_ordered(record: Make) -> None:
    values = [None, True, 3, False]
    built = build([record(trial=str(v), method="m", row={"x": v}) for v in values])
    assert len(built.rows) == 4


@pytest.mark.parametrize("values", [(1, True, 1.0, "1"), (None, "None"), (0.999, 0.9995, 0.9999)])
def test_rows_are_told_apart_by_value_and_type(record: Make, values: tuple[Any, ...]) -> None:
    made = [
        record(trial=f"x{i}", row={"x": v}, hyperparameters={"x": v}, target=80.0 + i) for i, v in enumerate(values)
    ]
    built = build(made)
    assert len(built.rows) == len(set(labels(built))) == len(values)
    assert {spreads(found)[0] for found in built.rows} == {(80.0 + i, None, 1) for i in range(len(values))}


def test_search_trials_are_left_out(paper_records: MakeAll, searched: Make) -> None:
    search = searched(target=99.0, source=99.0)
    with_search, without = build([search, *paper_records()]), build(paper_records())
    assert [row.search_trials for row in with_search.rows] == [1, *[0] * 9]
    assert replace(with_search, rows=()) == replace(without, rows=())
    assert [replace(row, search_trials=0) for row in with_search.rows] == list(without.rows)
    with pytest.raises(ValueError, match="no record is a confirmation"):
        build([search])
    with pytest.raises(ValueError, match="no record is a confirmation"):
        build([])


def configurations(make: Make, *chosen: dict[str, Any], name: str = "confirm", **changes: Any) -> list[Record]:
    """Two seeds of each configuration of one row; the first has 60 and 62 percent, the next 10 points more, ..."""
    return [
        make(
            trial=f"lora-{name}-rank8-{index}-seed{seed}",
            method="lora",
            row={"rank": 8},
            hyperparameters={"rank": 8, **own},
            seed=seed,
            target=50.0 + 10 * index + 2 * seed,
            **changes,
        )
        for index, own in enumerate(chosen, start=1)
        for seed in (0, 1)
    ]


def test_two_configurations_of_one_row_are_two_rows(record: Make) -> None:
    """They are no repeats of each other: a mean over both would be the result of neither."""
    records = configurations(record, {"lr": 0.1, "k": 1}, {"lr": 0.05, "k": 1})
    built = build(records)
    assert sorted(labels(built)) == ["lora rank=8 lr=0.05", "lora rank=8 lr=0.1"]
    assert spreads(row(built, "lora rank=8 lr=0.1"))[0] == (61.0, round(math.sqrt(2), 9), 2)
    assert spreads(row(built, "lora rank=8 lr=0.05"))[0] == (71.0, round(math.sqrt(2), 9), 2)
    assert row(built, "lora rank=8 lr=0.05").trials == tuple(made.trial for made in records[2:])


@pytest.mark.parametrize(
    ("chosen", "apart"),
    [
        ([{"lr": 0.999}, {"lr": 0.9995}, {"lr": 0.9999}], ["lr=0.999", "lr=0.9995", "lr=0.9999"]),
        ([{"lr": 0.1, "k": 1}, {"lr": 0.1, "k": 2}, {"lr": 0.2, "k": 1}], ["lr=0.1 k=1", "lr=0.1 k=2", "lr=0.2 k=1"]),
        ([{"lr": 0.1}, {"lr": 0.1, "k": 2}], ["k=None", "k=2"]),
        ([{"lr": 1}, {"lr": "1"}], ["lr=1 #1", "lr=1 #2"]),
    ],
)
def test_what_differs_is_in_the_label(record: Make, chosen: list[dict[str, Any]], apart: list[str]) -> None:
    built = build(configurations(record, *chosen))
    assert sorted(labels(built)) == sorted(f"lora rank=8 {words}" for words in apart)


@pytest.mark.parametrize(
    "changes",
    [{"config": {"train": {"steps": 99}}}, {"protocol": "paper"}, {"config": {"benchmark": {"head_norm": True}}}],
)
def test_another_recipe_or_protocol_is_another_row(record: Make, changes: dict[str, Any]) -> None:
    plain = configurations(record, {"lr": 0.1})
    other = configurations(record, {"lr": 0.1}, name="other", **changes)
    built = build([*plain, *other])
    assert len(built.rows) == len(set(labels(built))) == 2
    assert [found.mean and found.mean.n for found in built.rows] == [2, 2]


def test_what_belongs_to_one_trial_makes_no_other_row(record: Make) -> None:
    """Its seed, its name, and the search that proposed it, as they also stand in its configuration."""
    first, second = configurations(record, {"lr": 0.1}, config={"train": {"steps": 150}})
    held = SearchContext(objective="forgetting", trials=3, lag=1, seed=5)
    config = {**second.config, "id": second.trial, "seed": second.seed, "phase": "confirm", "search": held.model_dump()}
    built = build([first, Record(**{**dict(second), "search": held, "config": config})])
    assert [found.mean and found.mean.n for found in built.rows] == [2]
    assert built.objective is None  # the two say different things


def test_an_older_launch_that_does_not_say_its_objective_has_a_board(paper_records: MakeAll) -> None:
    assert build([made.model_copy(update={"search": None}) for made in paper_records()]).objective is None


def test_one_configuration_and_seed_counts_once(record: Make) -> None:
    first, second = configurations(record, {"lr": 0.1})
    for again in (first, first.model_copy(update={"trial": "another"})):
        with pytest.raises(ValueError, match="are the same configuration and seed: a trial counts once") as caught:
            build([first, second, again])
        assert again.trial in str(caught.value)
        assert first.trial in str(caught.value)


def test_a_failed_repeat_of_a_seed_is_refused_too(record: Make, failed: Make) -> None:
    first, second = configurations(record, {"lr": 0.1})
    with pytest.raises(ValueError, match="a trial counts once"):
        build([first, second, failed(first)])


def test_variants_become_rows(record: Make, failed: Make) -> None:
    variants = [{"half": (90.0, 85.0), "tenth": (85.0, 89.0)}, {"half": (92.0, 87.0), "tenth": (87.0, 90.0)}]
    records = [
        record(trial=f"w{seed}", method="wise_ft", seed=seed, target=95.0 + seed, source=80.0, variants=made)
        for seed, made in enumerate(variants)
    ]
    built = build([*records, failed(record(trial="w2", method="wise_ft", seed=2))])
    assert labels(built) == ["wise_ft", "wise_ft half", "wise_ft tenth"]
    assert [found.variant for found in built.rows] == [None, "half", "tenth"]
    deviation = round(math.sqrt(0.5), 9)
    assert [spreads(found)[0] for found in built.rows] == [
        (95.5, deviation, 2),
        (91.0, round(math.sqrt(2), 9), 2),
        (86.0, round(math.sqrt(2), 9), 2),
    ]
    assert spreads(row(built, "wise_ft half"))[2] == (round(90.7 - 86.0, 9), round(math.sqrt(2), 9), 2)
    assert {found.failed for found in built.rows} == {1}
    assert {found.trials for found in built.rows} == {("w0", "w1", "w2")}
    assert len(tidy(built)) == 3 * 4


def test_variants_of_two_configurations_are_not_mixed(record: Make) -> None:
    records = configurations(record, {"lr": 0.1}, {"lr": 0.2}, variants={"half": (60.0, 85.0)})
    built = build(records)
    assert sorted(labels(built)) == [f"lora rank=8{v} lr={lr}" for v in (" half", "") for lr in (0.1, 0.2)]


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
    assert labels(mixed) == ORDER
    assert spreads(lost) == [None] * 4
    assert (lost.failed, lost.pareto, lost.best) == (3, False, False)
    assert lost.hyperparameters == {"p": 4, "lr": 0.12}
    assert [row.label for row in mixed.rows if row.best] == ["lora rank=8"]


def test_rows_that_were_chosen_on_test_data_say_so(paper_records: MakeAll, record: Make) -> None:
    built = build([*paper_records(methods=["linear"]), record(protocol="paper")])
    assert [(row.label, row.test_selected) for row in built.rows] == [("full †", True), ("linear", False)]


@pytest.mark.parametrize("field", ["study", "benchmark"])
def test_records_of_several_kinds_do_not_make_one_board(paper_records: MakeAll, field: str) -> None:
    with pytest.raises(ValueError, match=f"cannot hold records of several {field}s: other, "):
        build([*paper_records(methods=["full"]), *paper_records(methods=["lora"], **{field: "other"})])


@pytest.mark.parametrize("part", ["backbone", "source"])
def test_records_of_several_backbones_or_sources_do_not_make_one_board(paper_records: MakeAll, part: str) -> None:
    others = [
        record.model_copy(update={"config": {**record.config, "benchmark": {part: {"name": "other"}}}})
        for record in paper_records(methods=["lora"], before=91.2)
    ]
    with pytest.raises(ValueError, match=f"one leaderboard cannot hold records of several {part}s: .*other"):
        build([*paper_records(methods=["full"]), *others])


def test_records_of_several_kinds_of_hardware_make_one_board(paper_records: MakeAll) -> None:
    """A query or two may come out differently: forgetting is each record's own, and the reference is a range."""
    records = [*paper_records(methods=["full"]), *paper_records(methods=["lora"], before=91.2)]
    board = build(records)
    assert (board.source_accuracy_before, board.source_accuracy_before_max) == (90.7, 91.2)
    for record in records:
        assert record.scores["forgetting"] == pytest.approx(
            (90.7 if record.method == "full" else 91.2) - (record.scores["source_accuracy"] or 0)
        )
    assert "| untouched backbone |  | 0 |  |  | – | 90.7 to 91.2 | 0.0 |" in leaderboard.markdown(board)


KS = [([20], "k = 20"), ([15], "k = 15"), ([20, 15], "k = 15 or 20"), ([], "k was not recorded")]


@pytest.mark.parametrize(("ks", "said"), KS)
def test_the_k_that_was_used_is_named(paper_records: MakeAll, ks: list[int], said: str) -> None:
    """Old records may have a smaller one."""

    def measured(record: Record, settings: dict[str, int]) -> Record:
        change: dict[str, Any] = {"source": {"settings": settings}, "target": {}}
        own = tuple(reading.model_copy(update=change[reading.domain]) for reading in record.readings)
        return record.model_copy(update={"readings": own})

    records = enumerate(paper_records(methods=["full"]))
    board = build([measured(record, {"k": ks[index % len(ks)]} if ks else {}) for index, record in records])
    assert f"weighted k-NN accuracy ({said})" in leaderboard.markdown(board)
    assert (f"source k-NN: {said}" in str(leaderboard.table(board).caption)) is (ks != [20])


@pytest.fixture(scope="module")
def table(mixed: Leaderboard) -> pd.DataFrame:
    return tidy(mixed)


def test_the_tidy_table_has_a_line_for_every_row_and_quantity(mixed: Leaderboard, table: pd.DataFrame) -> None:
    assert list(zip(table["label"], table["quantity"], strict=True)) == [
        (found.label, name) for found in mixed.rows for name in QUANTITIES
    ]
    for found, (_, own) in zip(mixed.rows, table.groupby("label", sort=False), strict=True):
        assert {tuple(line) for line in own[["study", "benchmark", "objective"]].to_numpy()} == {
            ("paper", "tiny", "mean")
        }
        assert set(own["method"]) == {found.method}
        assert json.loads(own["row"].iloc[0]) == found.row
        assert json.loads(own["hyperparameters"].iloc[0]) == found.hyperparameters
        for name in FACTS:
            assert set(own[name]) == {getattr(found, name)}
        assert set(own["trials"]) == {3}
        for name, *numbers in own[["quantity", *PARTS]].itertuples(index=False):
            spread = getattr(found, name)
            if spread is None:
                assert table.isna().loc[own.index, list(PARTS)].all(axis=None)
            else:
                assert numbers == [getattr(spread, part) for part in PARTS]
                assert spread.low <= spread.mean <= spread.high
    assert table["n"].dropna().value_counts().to_dict() == {3: 8 * 4, 2: 4}


def test_counts_stay_whole_numbers_where_some_are_missing(table: pd.DataFrame) -> None:
    assert table["n"].isna().any()
    assert table["trainable_parameters"].isna().any()
    for name in ("n", "trainable_parameters", "failed", "trials"):
        assert all(isinstance(value, int) for value in table[name].dropna().tolist()), name


def test_the_wide_table_says_the_same_in_one_line_a_row(table: pd.DataFrame) -> None:
    rows = wide(table)
    assert list(rows["label"]) == list(dict.fromkeys(table["label"]))
    for _, line in table.iterrows():
        (found,) = (row for _, row in rows.iterrows() if row["label"] == line["label"])
        for part in PARTS:
            value, same = line[part], found[f"{line['quantity']}_{part}"]
            assert (pd.isna(value) and pd.isna(same)) or value == same
        for name in ("method", "row", "hyperparameters", "trials", *FACTS):
            assert found[name] == line[name]


def test_lines_are_the_wide_table_in_plain_values(mixed: Leaderboard) -> None:
    for found, line in zip(mixed.rows, lines(mixed), strict=True):
        assert line["label"] == found.label
        for name in QUANTITIES:
            spread = getattr(found, name)
            assert [line[f"{name}_{part}"] for part in PARTS] == [getattr(spread, part, None) for part in PARTS]
        assert line["trainable_parameters"] == found.trainable_parameters
        assert [line[name] for name in FACTS] == [getattr(found, name) for name in FACTS]


def test_a_board_of_one_seed_and_a_board_of_failures_have_tables(paper_records: MakeAll, failed: Make) -> None:
    single = lines(build(paper_records(seeds=(0,))))
    assert [line["mean_std"] for line in single] == [None] * 10
    assert [line["mean_n"] for line in single] == [1] * 10
    lost = lines(build([failed(made) for made in paper_records(methods=["full", "lora"])]))
    assert [line["label"] for line in lost] == ORDER[:1] + ORDER[3:6]
    assert {line["mean_mean"] for line in lost} == {line["trainable_parameters"] for line in lost} == {None}


def test_seeds_of_a_row_train_the_same_number_of_parameters(paper_records: Any) -> None:
    one, *rest = paper_records(methods=["linear"])
    with pytest.raises(ValueError, match="linear-confirm-seed0 1 and linear-confirm-seed2 650"):
        build([one.model_copy(update={"trainable_parameters": 1}), *rest])

"""Evidence: the lines behind a leaderboard say what the records say, and know their row."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.folder import LaunchFolder
from bench.readings import HEAD, KNN, Answers, Reading, packed_classes
from bench.records import Record
from bench.reporting import leaderboard
from bench.reporting.evidence import gather
from bench.reporting.rows import build

Make = Callable[..., Record]

STEPS = (0, 50, 100, 150)
"""At which a search trial was measured."""


SOURCE_CLASSES = (0, 0, 1, 1, 2)
"""Of the queries of the source."""


def knn(step: int, accuracy: float, split: str = "val") -> Reading:
    numbers = {"top1": accuracy}
    key = {"step": step, "split": split, "domain": "source", "probe": KNN}
    return Reading.model_validate({**key, "n": 100, "numbers": numbers})


def head(step: int, true: Sequence[int], called: Sequence[int], split: str = "test") -> Reading:
    right = np.array(true) == np.array(called)
    packed = {"classes": packed_classes(np.array(true)), "called": packed_classes(np.array(called))}
    answers = Answers(**Answers.of("the images", right).model_dump(include={"images", "right"}), **packed)
    key = {"step": step, "split": split, "domain": "target", "probe": HEAD}
    numbers = {"top1": 100 * float(right.mean())}
    return Reading.model_validate(
        {**key, "n": len(true), "numbers": numbers, "answers": answers if split == "test" else None}
    )


def kept(step: int, right: Sequence[bool], classes: Sequence[int] | None = None) -> Reading:
    """Which queries of the source were right, and at step 0 which class each of them has."""
    told = {} if classes is None else {"classes": packed_classes(np.array(classes))}
    answers = Answers(**{**Answers.of("the queries", np.array(right)).model_dump(exclude_none=True), **told})
    key = {"step": step, "split": "test", "domain": "source", "probe": KNN}
    numbers = {"top1": 100 * float(np.mean(right))}
    return Reading.model_validate({**key, "n": len(right), "numbers": numbers, "answers": answers})


def way(searched: Make, trial: str, lr: float, forgotten: Sequence[float]) -> Record:
    """A search trial that was read on its way."""
    read = [knn(step, 90.0 - points) for step, points in zip(STEPS, forgotten, strict=True)]
    read += [head(step, [0, 1], [0, 1], "val") for step in STEPS[1:]]
    return searched(trial=trial, readings=tuple(read), hyperparameters={"lr": lr})


def confirmed(record: Make, seed: int, called: Sequence[int], **changes: object) -> Record:
    before, after = kept(0, [True] * 4 + [False], SOURCE_CLASSES), kept(150, [seed > 0, True, True, False, False])
    per_class = {"target_test": {"cat": 2, "dog": 1, "<b>": 1}}
    images = {"per_class": per_class, "source_classes": ["disk", "<i>frame", "triangle"]}
    return record(
        trial=f"full-confirm-seed{seed}",
        seed=seed,
        readings=(before, after, head(150, [0, 0, 1, 2], called)),
        hyperparameters={"lr": 0.1},
        details={"checkpoint_bytes": 1000 + 2 * seed, "images": images},
        provenance={"commit": "abc", "peak_memory": {"bytes": 5_000_000 + seed, "of": "process"}, "versions": {}},
        **changes,
    )


@pytest.fixture
def records(record: Make, searched: Make) -> list[Record]:
    """Two seeds of a row, and its search: three trials, of which the second one was chosen, and the third failed."""
    lost = searched(trial="full-search-02", hyperparameters={"lr": 9.0}, readings=(), status="failed", error="NaN")
    return [
        way(searched, "full-search-00", 0.01, (0, 1, 2, 3)),
        way(searched, "full-search-01", 0.1, (0, 4, 5, 6)),
        lost,
        confirmed(record, 0, [0, 1, 1, 2]),
        confirmed(record, 1, [0, 2, 1, 1]),
    ]


def test_a_curve_is_that_of_the_trial_whose_configuration_the_row_confirms(records: list[Record]) -> None:
    found = gather(build(records), records).curves
    assert [(own["trial"], own["step"], own["forgetting"]) for own in found] == [
        ("full-search-01", step, points) for step, points in zip(STEPS, (0, 4, 5, 6), strict=True)
    ]
    assert {own["label"] for own in found} == {"full"}
    assert ["target_accuracy" in own for own in found] == [False, True, True, True]


def test_a_curve_of_confirmed_trials_goes_before_that_of_the_search(records: list[Record], searched: Make) -> None:
    """Where they were read on the way, on validation data, as ``train.val_every`` asks for."""
    on_the_way = way(searched, "full-search-01", 0.1, (0, 10, 20, 30)).readings
    seeds = [
        one.model_copy(update={"readings": (*one.readings, *(r for r in on_the_way if r.split == "val"))})
        for one in records
        if one.phase == "confirm"
    ]
    found = gather(build([*records[:3], *seeds]), [*records[:3], *seeds]).curves
    assert [(own["trial"], own["step"], own["forgetting"]) for own in found] == [
        (None, step, points) for step, points in zip(STEPS, (0, 10, 20, 30), strict=True)
    ]


def test_counts_of_classes_are_summed_over_seeds(records: list[Record]) -> None:
    (found,) = gather(build(records), records).classes
    assert (found.label, found.names) == ("full", ["cat", "dog", "<b>"])
    assert found.cells.tolist() == [[0, 0, 2], [0, 1, 1], [0, 2, 1], [1, 1, 2], [2, 1, 1], [2, 2, 1]]
    assert (found.n.tolist(), found.right.tolist()) == ([4, 2, 2], [2, 2, 1])


def test_classes_take_no_more_room_than_there_are_images(record: Make) -> None:
    """As many as iNaturalist has, and more: a matrix of them would take 34 GB."""
    made = record(readings=(knn(0, 90.0, "test"), knn(150, 80.0, "test"), head(150, [0, 1, 65_535], [0, 65_535, 7])))
    tracemalloc.start()
    (found,) = gather(build([made]), [made]).classes
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
    assert found.cells.tolist() == [[0, 0, 1], [1, 65_535, 1], [65_535, 7, 1]]
    assert (len(found.names), found.n.sum(), found.right.sum()) == (65_536, 3, 1)


def test_what_is_forgotten_is_counted_by_class_of_the_source(records: list[Record]) -> None:
    (found,) = gather(build(records), records).source_classes
    assert (found.label, found.names) == ("full", ["disk", "<i>frame", "triangle"])
    assert (found.n.tolist(), found.before.tolist(), found.after.tolist()) == ([4, 4, 2], [4, 4, 0], [3, 2, 0])
    row = build(records).rows[0]
    assert row.source_accuracy is not None
    assert 100 * found.after.sum() / found.n.sum() == pytest.approx(row.source_accuracy.mean)


def test_a_variants_own_answers_are_counted_by_class(record: Make) -> None:
    """Those of the untouched backbone are the same for all variants; without names classes have their numbers."""
    half = kept(150, [False] * 5).model_copy(update={"variant": "half"})
    target = head(150, [0, 1], [0, 1])
    read = (kept(0, [True] * 5, SOURCE_CLASSES), kept(150, [True] * 5), half, target)
    read += (target.model_copy(update={"variant": "half"}),)
    made = record(readings=read)
    found = {own.label: own for own in gather(build([made]), [made]).source_classes}
    assert found["full"].after.tolist() == found["full"].before.tolist() == [2, 2, 1]
    assert found["full half"].after.tolist() == [0, 0, 0]
    assert found["full half"].names == ["0", "1", "2"]


@pytest.mark.parametrize("lacking", ["classes", "answers", "other images", "failed"])
def test_records_that_do_not_say_the_classes_of_the_source_count_for_none(
    record: Make, failed: Make, lacking: str
) -> None:
    good, other = confirmed(record, 0, [0, 1, 1, 2]), confirmed(record, 1, [0, 2, 1, 1])
    before, after, target = other.readings
    assert after.answers is not None
    elsewhere = after.answers.model_copy(update={"images": "b"})
    changed = {
        "classes": (kept(0, [True] * 4 + [False]), after, target),
        "answers": (before, after.model_copy(update={"answers": None}), target),
        "other images": (before, after.model_copy(update={"answers": elsewhere}), target),
    }
    other = failed(other) if lacking == "failed" else other.model_copy(update={"readings": changed[lacking]})
    (found,) = gather(build([good, other]), [good, other]).source_classes
    assert found.n.tolist() == [2, 2, 1]


def test_records_of_earlier_versions_have_no_classes(paper_records: Callable[..., list[Record]]) -> None:
    old = paper_records()
    found = gather(build(old), old)
    assert (found.classes, found.source_classes, found.curves, found.searched) == ([], [], [], [])
    assert len(found.seeds) == len(old)


def test_every_search_trial_is_there_the_failed_ones_too(records: list[Record]) -> None:
    board = build(records)
    found = gather(board, records)
    assert [(own["trial"], own["status"]) for own in found.searched] == [
        ("full-search-00", "ok"),
        ("full-search-01", "ok"),
        ("full-search-02", "failed"),
    ]
    assert {own["key"] for own in found.searched} == {found.keys["full"]}
    assert found.searched[1]["forgetting"] == 6
    assert "mean" not in found.searched[2]


def test_costs_are_means_over_seeds_and_the_highest_peak(records: list[Record]) -> None:
    (row,) = build(records).rows
    assert row.costs["checkpoint_bytes"] == 1001
    assert row.costs["peak_memory"] == 5_000_001
    first, second = gather(build(records), records).seeds
    assert (first["checkpoint_bytes"], second["peak_memory"]) == (1000, 5_000_001)


def test_a_record_says_where_it_comes_from_once_however_many_rows_it_makes(record: Make) -> None:
    variants = {f"alpha={alpha}": (80.0 + alpha, 90.0) for alpha in (1, 2, 3)}
    made = [record(trial=f"wise_ft-{seed}", method="wise_ft", seed=seed, variants=variants) for seed in range(3)]
    made = [one.model_copy(update={"provenance": {"commit": "abc"}}) for one in made]
    board = build(made)
    assert len(board.rows) == 4
    assert list(gather(board, made).provenance) == [{"field": "commit", "value": "abc", "records": 3}]


def test_a_seed_knows_whether_its_tensors_are_there(records: list[Record], tmp_path: Path) -> None:
    folder = LaunchFolder(tmp_path)
    folder.keep_tensors("full-confirm-seed1", b"tensors")
    assert [one["kept"] for one in gather(build(records), records, folder).seeds] == [False, True]
    assert [one["kept"] for one in gather(build(records), records).seeds] == [False, False]


def test_provenance_counts_who_says_what(record: Make) -> None:
    two = [confirmed(record, 0, [0, 1, 1, 2]), confirmed(record, 1, [0, 1, 1, 2])]
    other = two[1].model_copy(update={"provenance": {"commit": "def", "dirty": True, "hardware": {"cores": 2}}})
    found = gather(build(two), [two[0], other]).provenance
    assert [(own["value"], own["records"]) for own in found if own["field"] == "commit"] == [("abc", 1), ("def", 1)]
    assert {"field": "cores", "value": "2", "records": 1} in found


def test_ranges_are_what_the_launch_was_asked_for(tmp_path: Path, records: list[Record]) -> None:
    folder, board = LaunchFolder(tmp_path), build(records)
    assert gather(board, records, folder).ranges == {}
    space = {"lr": {"low": 0.001, "high": 0.1, "log": True}, "k": {"choices": [3], "low": None, "high": None}}
    folder.manifest.write_text(json.dumps({"asked": {"study": {"mine": {"method": "full", "search": space}}}}))
    assert gather(board, records, folder).ranges == {"full": {"lr": space["lr"]}}


@pytest.mark.parametrize(
    "study",
    [
        None,
        [],
        1,
        {"x": 1},
        {"x": {"method": "full"}},
        {"x": {"method": "full", "search": {"lr": {"low": "0", "high": 1}}}},
    ],
)
def test_ranges_that_are_not_said_are_not_shown(tmp_path: Path, records: list[Record], study: object) -> None:
    folder = LaunchFolder(tmp_path)
    folder.manifest.write_text(json.dumps({"asked": {"study": study}}))
    found = gather(build(records), records, folder).ranges
    assert not any(found.values())


@pytest.mark.parametrize("text", ["{", "[" * 100_000, ""])
def test_a_damaged_manifest_is_named(tmp_path: Path, records: list[Record], text: str) -> None:
    folder = LaunchFolder(tmp_path)
    folder.manifest.write_text(text)
    with pytest.raises(ValueError, match=r"launch.json is not what a launch writes \(.*\): remove it"):
        leaderboard.write(build(records), folder, records)
    assert [path.name for path in tmp_path.iterdir()] == ["launch.json"]

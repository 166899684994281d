"""Readings: what scores are read off them, under which names, and records from before there were any."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from bench.folder import LaunchFolder
from bench.readings import (
    FLAT,
    SCORES,
    Answers,
    Point,
    Reading,
    curve,
    flat,
    headline_of,
    knn_numbers,
    packed_classes,
    scores,
)
from bench.records import Record

Make = Callable[..., Record]


def reading(step: int, domain: str, top1: float, *, split: str = "val", variant: str | None = None) -> Reading:
    probe = "head" if domain == "target" else "knn"
    numbers = {"top1": top1}
    return Reading.model_validate(
        {"step": step, "split": split, "domain": domain, "probe": probe, "variant": variant, "n": 9, "numbers": numbers}
    )


READ = [reading(0, "source", 90.0), reading(150, "target", 95.0), reading(150, "source", 80.0)]


def test_scores_are_read_off_and_follow() -> None:
    assert scores(READ) == {
        "target_accuracy": 95.0,
        "source_accuracy": 80.0,
        "source_accuracy_before": 90.0,
        "forgetting": 10.0,
        "mean": 87.5,
    }


@pytest.mark.parametrize(
    ("left", "names"),
    [
        ([], []),
        ([0], ["source_accuracy_before"]),
        ([1], ["target_accuracy"]),
        ([2], ["source_accuracy"]),
        ([0, 2], ["source_accuracy", "source_accuracy_before", "forgetting"]),
        ([1, 2], ["target_accuracy", "source_accuracy", "mean"]),
        ([0, 1], ["target_accuracy", "source_accuracy_before"]),
    ],
)
def test_what_was_not_read_has_no_score_nor_what_follows_from_it(left: list[int], names: list[str]) -> None:
    found = scores([READ[index] for index in left])
    assert sorted(found) == sorted(names)
    assert found == {name: value for name, value in scores(READ).items() if name in names}


def test_of_several_steps_the_last_counts_unless_one_is_named() -> None:
    course = [*READ, reading(50, "target", 70.0), reading(50, "source", 88.0)]  # in any order
    assert scores(course) == scores(READ)
    early = scores(course, step=50)
    assert (early["target_accuracy"], early["source_accuracy"], early["forgetting"]) == (70.0, 88.0, 2.0)
    assert scores(course, step=100) == {"source_accuracy_before": 90.0}


def test_a_split_leaves_the_others_out() -> None:
    both = [*READ, *(one.model_copy(update={"split": "test", "numbers": {"top1": 50.0}}) for one in READ)]
    assert scores(both, split="val") == scores(READ)
    assert scores(both, split="test")["target_accuracy"] == 50.0


def test_a_variant_is_scored_by_itself_against_the_same_untouched_backbone() -> None:
    both = [*READ, reading(150, "target", 93.0, variant="half"), reading(150, "source", 86.0, variant="half")]
    assert scores(both) == scores(READ)
    assert scores(both, variant="half")["forgetting"] == 4.0
    assert scores(both, variant="half")["mean"] == 89.5
    assert scores(both, variant="none") == {"source_accuracy_before": 90.0}


def test_flat_names_say_the_phase() -> None:
    assert flat({"mean": 1.0}, "confirm") == {"mean": 1.0}
    assert flat({"mean": 1.0}, "search") == {"val_mean": 1.0}
    assert (*flat(dict.fromkeys(SCORES), "confirm"), *flat(dict.fromkeys(SCORES), "search")) == FLAT


def test_a_curve_has_what_training_knows_and_what_was_read() -> None:
    training = {"train_loss": 0.5, "lr": 0.1}
    assert curve(Point(step=150, steps=150, values=training)) == training
    assert curve(Point(step=150, steps=150, values=training, readings=READ)) == {
        **training,
        **{f"val_{name}": value for name, value in scores(READ).items()},
    }
    # A confirmation that keeps its best model reads only what chooses it.
    alone = curve(Point(step=150, steps=150, values={}, readings=READ[1:2]))
    assert alone == {"val_target_accuracy": 95.0}


def test_the_headline_is_at_the_usual_k_or_the_largest() -> None:
    assert [headline_of(ks) for ks in ([10, 20, 100], [200, 10], [5])] == [20, 200, 5]
    assert knn_numbers({10: (80.0, 98.0), 20: (81.0, 99.0)}) == {
        "top1": 81.0,
        "top5": 99.0,
        "k=10 top1": 80.0,
        "k=10 top5": 98.0,
        "k=20 top1": 81.0,
        "k=20 top5": 99.0,
    }
    assert knn_numbers({}) == {}


def test_a_reading_is_named_by_its_key() -> None:
    assert [one.name for one in READ] == ["source val knn before", "target val head", "source val knn"]
    assert reading(150, "source", 1.0, split="test", variant="half").name == "source test knn half"
    assert READ[1].key == (150, "val", "target", "head", None)


def answered(right: list[bool], **changes: Any) -> dict[str, Any]:
    """A reading of images of which some were right, as JSON says it."""
    answers = Answers.of("the digits", np.array(right, dtype=np.bool_))
    top1 = 100 * sum(right) / len(right)
    plain = READ[1].model_copy(update={"n": len(right), "numbers": {"top1": top1}, "answers": answers})
    return {**plain.model_dump(), **changes}


@pytest.mark.parametrize("n", [1, 7, 8, 9, 500, 1003])
def test_answers_come_back_image_by_image(n: int) -> None:
    right = [bool(index % 3) for index in range(n)]
    read = Reading.model_validate_json(json.dumps(answered(right)))
    assert read.answers is not None
    assert read.answers.array(n).tolist() == right
    assert len(read.answers.right) <= n / 6 + 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"numbers": {"top1": 60.0}}, "top1 = 60.0 contradicts answers, of which 50.0 percent are right"),
        ({"numbers": {}}, "top1 = None contradicts answers"),
        ({"n": 9}, "does not hold the answers to n = 9 images"),
        ({"n": 1}, "does not hold the answers to n = 1 images"),
        ({"n": None}, "does not hold the answers to n = 0 images"),
        ({"answers": {"images": "x", "right": "a"}}, "is not base64"),
        ({"answers": {"images": "x", "right": "ä"}}, "is not base64"),
        ({"answers": {"images": "x"}}, "Field required"),
        ({"answers": {"right": "8A=="}}, "Field required"),
    ],
)
def test_answers_that_are_not_those_of_the_accuracy_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Reading.model_validate(answered([True, False] * 4, **changes))


def called(true: list[int], given: list[int], changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """A reading that says which class each image has and was given."""
    read = answered([one == other for one, other in zip(true, given, strict=True)])
    packed = {"classes": packed_classes(np.array(true)), "called": packed_classes(np.array(given))}
    return {**read, "answers": {**read["answers"], **packed, **(changes or {})}}


def test_classes_come_back_image_by_image() -> None:
    classes = [index * 7919 % 1000 for index in range(10_000)]
    given = [one if one % 9 else (one + 1) % 1000 for one in classes]
    read = Reading.model_validate_json(json.dumps(called(classes, given)))
    assert read.answers is not None
    pairs = read.answers.confusion(10_000)
    assert pairs is not None
    assert pairs.tolist() == [classes, given]
    assert Answers(images="x", right="8A==").confusion(4) is None  # a record from before they were kept


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": None}, "called without classes"),
        ({"called": packed_classes(np.array([0, 1, 2, 0]))}, "contradicts answers.right"),
        ({"called": packed_classes(np.array([0, 1, 2]))}, "classes of n = 4 images"),
        ({"called": packed_classes(np.zeros(10_000_000, int))}, "classes of n = 4 images"),
        ({"called": None, "classes": packed_classes(np.array([0, 1, 2]))}, "classes of n = 4 images"),
        ({"called": packed_classes(np.array([0, 1, 2, 1]))[:-8]}, "classes of"),
        ({"called": "a"}, "not packed as they should be"),
        ({"called": "AAAA"}, "not packed as they should be"),
    ],
)
def test_classes_that_are_not_those_of_the_answers_are_refused(changes: dict[str, Any], said: str) -> None:
    Reading.model_validate(called([0, 1, 2, 0], [0, 1, 2, 1]))
    with pytest.raises(ValidationError, match=said):
        Reading.model_validate(called([0, 1, 2, 0], [0, 1, 2, 1], changes))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "95", True, None, -0.1, 100.1])
def test_a_number_is_finite_and_in_percent(value: Any) -> None:
    with pytest.raises(ValidationError, match=r"numbers\.top1"):
        reading(150, "target", value)


@pytest.mark.parametrize(
    "changes",
    [
        {"step": -1},
        {"step": 1.0},
        {"split": "train"},
        {"domain": "other"},
        {"k": 20},
        {"n": 1.5},
        {"settings": {"k": 2.5}},
    ],
)
def test_what_a_reading_does_not_know_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        Reading.model_validate({**READ[0].model_dump(), **changes})


@pytest.mark.parametrize(
    "differ", [{"step": 3}, {"split": "val"}, {"domain": "source"}, {"probe": "knn"}, {"variant": "x"}]
)
def test_two_readings_of_one_thing_are_refused(record: Make, differ: dict[str, Any]) -> None:
    given = record().readings
    again = given[1].model_copy(update={"numbers": {"top1": 1.0}, "n": 3, "settings": {"k": 1}})
    with pytest.raises(ValidationError, match="two readings have the same step, split, domain, probe and variant"):
        record(readings=(*given, again))
    (target,) = (one for one in given if one.domain == "target")
    assert len(record(readings=(*given, target.model_copy(update=differ))).readings) == 4


def test_a_search_under_the_papers_protocol_reads_the_target_on_test(searched: Make) -> None:
    found = searched(protocol="paper", target=95.0, source=85.0)
    assert {(one.domain, one.split) for one in found.readings} == {("target", "test"), ("source", "val")}
    assert found.scores["mean"] == 90.0
    assert found.model_dump()["val_mean"] == 90.0
    assert found.model_dump()["mean"] is None


def test_scores_are_those_of_the_model_that_was_kept(record: Make) -> None:
    """A confirmation that keeps its best model reads validation data on the way; that never counts."""
    course = [reading(step, "target", top1) for step, top1 in ((50, 99.0), (100, 97.0), (150, 98.0))]
    kept = record(details={"kept_step": 50}, target=94.0, source=84.0)
    kept = record(details={"kept_step": 50}, readings=(*kept.readings, *course))
    assert kept.measured_step == 50
    assert (kept.scores["target_accuracy"], kept.scores["mean"]) == (94.0, 89.0)
    with pytest.raises(ValidationError, match="a successful confirm record needs target_accuracy"):
        record(readings=kept.readings)  # which says that the last model was kept, and nothing was read of that one


def test_a_stopped_search_trial_has_the_scores_of_its_last_reading(searched: Make) -> None:
    course = (
        reading(0, "source", 90.0),
        reading(20, "target", 60.0),
        reading(20, "source", 88.0),
        reading(40, "target", 70.0),
        reading(40, "source", 86.0),
    )
    stopped = searched(status="stopped", steps=45, readings=course)  # stopped between two readings
    assert stopped.scores["mean"] == 78.0
    assert stopped.model_dump()["val_target_accuracy"] == 70.0


def test_a_failed_record_has_no_scores_whatever_was_read(searched: Make) -> None:
    failed = searched(status="failed", error="FloatingPointError: the loss is NaN", readings=tuple(READ))
    assert failed.scores == dict.fromkeys(SCORES)
    assert failed.scores_of("half") == {}
    assert [failed.model_dump()[name] for name in FLAT] == [None] * 10
    assert Record.model_validate_json(failed.model_dump_json()) == failed


def test_variants_of_a_record_are_scored_by_name(record: Make) -> None:
    made = record(target=95.0, source=80.0, before=90.0, variants={"half": (93.0, 86.0), "tenth": (80.0, 89.0)})
    assert made.variants == ["half", "tenth"]
    assert made.scores["mean"] == 87.5
    assert made.scores_of("half")["mean"] == 89.5
    assert made.scores_of("tenth")["forgetting"] == 1.0
    assert record().variants == []


def test_a_file_whose_flat_name_contradicts_its_readings_is_named(tmp_path: Path, record: Make) -> None:
    folder = LaunchFolder(tmp_path)
    path = record(target=64.0, source=95.0).write(folder.records)
    record(trial="another").write(folder.records)
    assert len(folder.read_records()) == 2
    told = json.loads(path.read_text())
    assert told["mean"] == 79.5
    path.write_text(json.dumps({**told, "mean": 99.0}))
    with pytest.raises(ValueError, match=rf"{path.name} is not a record: .*mean = 99.0 contradicts .* say 79\.5"):
        folder.read_records()


def by_k(*numbers: float) -> dict[str, dict[str, float]]:
    pairs = zip(("10", "20", "100", "200"), zip(numbers[::2], numbers[1::2], strict=True), strict=True)
    return {k: {"top1": top1, "top5": top5} for k, (top1, top5) in pairs}


CONFIRMED_BEFORE: dict[str, Any] = {
    "schema_version": 1,
    "trial": "lora-confirm-rank8-seed1",
    "study": "paper",
    "benchmark": "tiny",
    "method": "lora",
    "hyperparameters": {"rank": 8, "lr": 0.2219038513646117},
    "row": {"rank": 8},
    "seed": 1,
    "phase": "confirm",
    "status": "ok",
    "protocol": "clean",
    "error": None,
    "target_accuracy": 94.6,
    "source_accuracy": 79.0,
    "source_accuracy_before": 95.2,
    "forgetting": 16.200000000000003,
    "mean": 86.8,
    "val_target_accuracy": None,
    "val_source_accuracy": None,
    "val_source_accuracy_before": None,
    "val_forgetting": None,
    "val_mean": None,
    "trainable_parameters": 25226,
    "steps": 150,
    "train_seconds": 12.110661480999283,
    "eval_seconds": 2.569454943000096,
    "images_per_second": 792.6899794087777,
    "details": {
        "target_top5": 99.8,
        "knn": by_k(78.2, 96.9, 79.0, 98.5, 76.1, 99.5, 73.9, 99.1),
        "knn_before": by_k(94.8, 99.5, 95.2, 99.9, 93.6, 100.0, 92.6, 100.0),
        "images": {"target_train": 997, "target_test": 500, "source_bank": 4000, "source_queries": 1000, "skipped": 0},
        "precision": "fp32",
    },
    "config": {"method": "lora", "fields": {"rank": 8}, "seed": 1},
    "provenance": {"time": "2026-11-26T05:47:38+00:00", "versions": {"python": "3.11.7"}, "workers": 1},
}
"""As in a file of the last version that wrote schema 1."""

SEARCHED_BEFORE: dict[str, Any] = {
    **CONFIRMED_BEFORE,
    "trial": "lora-search-03",
    "phase": "search",
    **dict.fromkeys(SCORES),
    "val_target_accuracy": 87.0,
    "val_source_accuracy": 90.7,
    "val_source_accuracy_before": 94.1,
    "val_forgetting": 3.3999999999999915,
    "val_mean": 88.85,
    "details": {
        "target_top5": 98.33333333333333,
        "knn": by_k(91.5, 99.0, 90.7, 99.5, 88.2, 99.6, 87.9, 99.7),
        "knn_before": by_k(94.2, 99.5, 94.1, 99.7, 92.7, 99.8, 91.7, 99.8),
        "images": {"target_train": 997, "target_val": 300, "source_bank": 4000, "source_queries": 1000, "skipped": 0},
        "precision": "fp32",
    },
}
PAPERS_BEFORE: dict[str, Any] = {
    **SEARCHED_BEFORE,
    "protocol": "paper",
    "details": {
        **SEARCHED_BEFORE["details"],
        "kept_step": 120,
        "images": {"target_train": 997, "target_test": 500, "source_bank": 4000, "source_queries": 1000, "skipped": 0},
    },
}
STOPPED_BEFORE: dict[str, Any] = {
    **SEARCHED_BEFORE,
    "status": "stopped",
    "steps": 40,
    "details": {},
    "train_seconds": None,
    "eval_seconds": None,
    "images_per_second": None,
}
FAILED_BEFORE: dict[str, Any] = {
    **STOPPED_BEFORE,
    **dict.fromkeys(FLAT),
    "status": "failed",
    "error": "RuntimeError: out of memory",
    "steps": 0,
    "trainable_parameters": None,
    "details": {"traceback": "Traceback (most recent call last): ..."},
}


@pytest.mark.parametrize(
    "old",
    [CONFIRMED_BEFORE, SEARCHED_BEFORE, PAPERS_BEFORE, STOPPED_BEFORE, FAILED_BEFORE],
    ids=["confirmed", "searched", "paper", "stopped", "failed"],
)
def test_a_record_of_schema_1_keeps_its_flat_names(tmp_path: Path, old: dict[str, Any]) -> None:
    folder = LaunchFolder(tmp_path)
    path = folder.record(old["trial"])
    path.parent.mkdir()
    path.write_text(json.dumps(old, indent=2))
    (read,) = folder.read_records()
    again = json.loads(read.model_dump_json())
    assert again["schema_version"] == 2
    assert {name: again[name] for name in FLAT} == pytest.approx({name: old[name] for name in FLAT}, abs=1e-9)
    kept = set(old) - {"schema_version", "details", *FLAT}
    assert {name: again[name] for name in kept} == {name: old[name] for name in kept}
    assert read.search is None
    read.write(folder.records)
    assert folder.read_records() == [read]


def test_measurements_of_schema_1_become_readings() -> None:
    read = Record.model_validate(CONFIRMED_BEFORE)
    target, before, after = read.readings
    assert [one.key for one in read.readings] == [
        (150, "test", "target", "head", None),
        (0, "test", "source", "knn", None),
        (150, "test", "source", "knn", None),
    ]
    assert (target.n, target.numbers, target.settings) == (500, {"top1": 94.6, "top5": 99.8}, {})
    assert (before.n, before.settings) == (1000, {"bank": 4000, "k": 20})
    old = CONFIRMED_BEFORE["details"]["knn"]
    numbers = {f"k={k} {top}": value for k, both in old.items() for top, value in both.items()}
    assert after.numbers == {**numbers, "top1": 79.0, "top5": 98.5}
    assert read.details == {"images": CONFIRMED_BEFORE["details"]["images"], "precision": "fp32"}


def test_splits_and_steps_of_schema_1() -> None:
    found = {one.domain: one for one in Record.model_validate(SEARCHED_BEFORE).readings}
    assert {domain: (one.split, one.step, one.n) for domain, one in found.items()} == {
        "target": ("val", 150, 300),
        "source": ("val", 150, 1000),
    }
    papers = Record.model_validate(PAPERS_BEFORE)
    assert papers.measured_step == 120
    assert {one.domain: (one.split, one.step, one.n) for one in papers.readings if one.step} == {
        "target": ("test", 120, 500),
        "source": ("val", 120, 1000),
    }
    stopped = Record.model_validate(STOPPED_BEFORE)
    assert {(one.step, one.n) for one in stopped.readings} == {(0, None), (40, None)}  # it was not written down
    assert Record.model_validate(FAILED_BEFORE).readings == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mean": 99.0}, "mean = 99.0 contradicts the readings, which say 86.8"),
        ({"target_accuracy": None, "mean": None}, "a successful confirm record needs target_accuracy"),
        ({"val_mean": 86.8}, "val_mean = 86.8 contradicts the readings, which say None"),
        ({**dict.fromkeys(FLAT), "status": "failed"}, "a failed record says why in error"),
        ({"knn": {}}, "knn"),
    ],
)
def test_a_record_of_schema_1_is_checked_too(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Record.model_validate({**CONFIRMED_BEFORE, **changes})


@pytest.mark.parametrize("numbers", [{"top1": 90.0, "top5": 64.0}, {"k=10 top1": 90.0, "k=10 top5": 80.0}])
def test_what_comes_first_is_among_the_first_five(numbers: dict[str, float]) -> None:
    values = {"step": 3, "split": "test", "domain": "target", "probe": "head", "n": 10, "numbers": numbers}
    with pytest.raises(ValidationError, match=r"top1 = 90\.0 is more than .* among the first five"):
        Reading.model_validate(values)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Reading.model_validate({**values, "n": 0, "numbers": {"top1": 90.0}})

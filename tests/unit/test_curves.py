"""Curves over steps: what the seeds of a row read on the way, as a table and as a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.folder import LaunchFolder
from bench.readings import HEAD, KNN, Reading
from bench.records import Record
from bench.reporting import curves, leaderboard
from bench.reporting.mlflow_runs import attached
from bench.reporting.rows import build

Make = Callable[..., Record]

STEPS = {50: (60.0, 85.0), 100: (80.0, 75.0), 150: (90.0, 70.0)}
BEFORE = 90.0


def read(shift: float, steps: dict[int, tuple[float, float]]) -> Iterator[Reading]:
    """Readings on the way, of a part of the source, and at the end the test's, which say something else."""
    of_source: dict[str, Any] = {"domain": "source", "probe": KNN, "n": 400, "settings": {"bank": 1000, "k": 20}}
    yield Reading(step=0, split="val", numbers={"top1": BEFORE}, **of_source)
    for step, (target, source) in steps.items():
        yield Reading(step=step, split="val", domain="target", probe=HEAD, n=300, numbers={"top1": target + shift})
        yield Reading(step=step, split="val", numbers={"top1": source - shift}, **of_source)
    tested = {**of_source, "n": 1000, "settings": {"bank": 4000, "k": 20}}
    yield Reading(step=0, split="test", numbers={"top1": 95.0}, **tested)
    yield Reading(step=150, split="test", domain="target", probe=HEAD, n=500, numbers={"top1": 91.0})
    yield Reading(step=150, split="test", numbers={"top1": 80.0}, **tested)


@pytest.fixture
def records(record: Make) -> list[Record]:
    return [record(seed=seed, trial=f"full-seed{seed}", readings=tuple(read(seed - 1.0, STEPS))) for seed in (0, 1, 2)]


def test_a_row_has_means_and_deviations_over_its_seeds_at_every_step(records: list[Record]) -> None:
    (row,) = build(records).rows
    found = {(point.step, point.quantity): point for point in row.curve}
    assert sorted({step for step, _ in found}) == [0, 50, 100, 150]
    for step, (target, source) in STEPS.items():
        for quantity, mean, std in (
            ("target_accuracy", target, 1.0),
            ("source_accuracy", source, 1.0),
            ("forgetting", BEFORE - source, 1.0),
            ("mean", (target + source) / 2, 0.0),
        ):
            point = found[step, quantity]
            assert (point.mean, point.std, point.n) == pytest.approx((mean, std, 3))
            assert (point.target_images, point.source_images) == (300, 400)
    assert {quantity: found[0, quantity].mean for quantity in ("source_accuracy", "forgetting")} == {
        "source_accuracy": BEFORE,
        "forgetting": 0.0,
    }
    assert (0, "target_accuracy") not in found
    assert row.forgetting is not None
    assert row.forgetting.mean == pytest.approx(15)  # what is on the way changes no score


def test_the_table_has_a_line_for_every_row_step_and_quantity(records: list[Record], record: Make) -> None:
    others = [record(method="lora", trial="lora", readings=tuple(read(0.0, STEPS)))]
    table = curves.tidy(build([*records, *others]))
    assert len(table) == 2 * (2 + 3 * 4)
    assert set(table["label"]) == {"full", "lora"}
    assert table[table["label"] == "lora"]["std"].isna().all()


def test_picture_and_table_are_written_where_something_was_read(
    tmp_path: Path, records: list[Record], record: Make
) -> None:
    folder = LaunchFolder(tmp_path)
    leaderboard.write(build(records), folder)
    assert folder.curves.read_bytes().startswith(b"\x89PNG")
    again = pd.read_csv(folder.curves_csv)
    assert list(again[again["quantity"] == "forgetting"]["mean"]) == [0.0, 5.0, 15.0, 20.0]
    assert {folder.curves, folder.curves_csv} <= set(attached(folder))
    assert json.loads(folder.table_json.read_text())["rows"][0]["curve"][0]["step"] == 0
    leaderboard.write(build([record()]), folder)  # another launch's, which has none
    assert not folder.curves.exists()
    assert not folder.curves_csv.exists()


def test_the_leaderboard_shows_forgetting_after_a_few_of_many_steps(record: Make) -> None:
    steps = {step: (50.0, 90.0 - step / 10) for step in range(1, 151)}
    text = leaderboard.markdown(build([record(readings=tuple(read(0.0, steps)))]))
    (head, _, line) = text[text.index("| Forgetting after step") :].splitlines()[:3]
    shown = [int(step) for step in head.strip("| ").split(" | ")[1:]]
    assert shown[0] == 1
    assert shown[-1] == 150
    assert len(shown) == 10
    assert line == "| full | " + " | ".join(f"{step / 10:.1f}" for step in shown) + " |"
    assert "curves.png" not in leaderboard.markdown(build([record()]))


def test_a_reading_at_the_end_alone_is_no_curve(record: Make) -> None:
    assert build([record(readings=tuple(read(0.0, {150: (90.0, 70.0)})))]).rows[0].curve == ()

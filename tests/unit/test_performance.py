"""The performance suite: its arithmetic, and a run of its cheap lines, shrunk, as `--quick` has them."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import methods, models
from bench.launching import benchmarks, studies
from bench.records import Record, provenance
from bench.spec import make_trial
from tests import performance
from tests.performance import children, knn, peers, scale, sleepers, start, step
from tests.performance.__main__ import main
from tests.performance.table import Line, Report, digits, spread
from tests.performance.works import CLASSES, METHODS, Work, pictures


def test_ratios_are_taken_within_each_repeat() -> None:
    seconds = Line("x", "work", "s", [1.0, 2.0], "peer", [4.0, 4.0])
    assert seconds.ratios == [4.0, 2.0]
    assert Line("x", "work", "s", [1.0, 2.0], "peer", [4.0, 4.0], ratio_of="cost").ratios == [0.25, 0.5]
    assert Line("x", "work", "images/s", [6.0], "peer", [3.0], better="more").ratios == [2.0]


def test_goals_are_judged_by_the_median() -> None:
    assert Line("x", "w", "s", [1.0, 1.0, 1.0], "peer", [2.9, 3.1, 9.0], goal=(">=", 3.0)).met is True
    assert Line("x", "w", "s", [1.0, 1.0, 1.0], "peer", [2.8, 2.9, 9.0], goal=(">=", 3.0)).met is False
    assert Line("x", "w", "s", [1.2], "peer", [1.0], ratio_of="cost", goal=("<=", 1.15)).met is False
    assert Line("x", "w", "s", [1.2], "peer", [1.0]).met is None


def test_numbers_are_short() -> None:
    assert [digits(value) for value in (12345.6, 99.9, 1.0, 0.01234)] == ["12,346", "99.9", "1", "0.0123"]
    assert spread([3.0, 1.0, 2.0]) == "2 (1..3)"
    assert spread([3.0]) == "3"


def test_the_table_says_where_it_was_measured(tmp_path: Path) -> None:
    report = Report(
        [Line("x", "work", "s", [1.0], "peer", [2.0], goal=("<=", 1.0))],
        {"quick": True},
        3.0,
        provenance(devices=["A100"]),
    )
    text, data = (path.read_text() for path in report.write(tmp_path))
    assert "| x | work | s | 1 | peer | 2 | 2 | <= 1: missed |" in text
    assert f"{report.provenance['hardware']['cpu']}, {report.provenance['hardware']['cores']} cores, A100" in text
    assert json.loads(data)["lines"][0]["goal_met"] is False


def test_the_peers_train_what_we_train(tmp_path: Path) -> None:
    tiny = Work("tiny", 8, 2, "fp32", None)
    for method in METHODS:
        ours = methods.trainable_parameters(models.build(tiny.trial(method), CLASSES))
        assert methods.trainable_parameters(peers.transformers_vit(tiny, method)) == ours
    small = Work("vit_small_patch16_224.dino", 8, 2, "fp32", pictures(tmp_path, per_class=1))
    assert small.trial("linear").benchmark.target.name == f"folder:{tmp_path}"
    assert {label for _, label in peers.prepared(small)} == set(range(CLASSES))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--only", "kn"], "invalid choice"), (["--repeats", "-1"], "--repeats must be at least 1")],
)
def test_bad_arguments_end_at_once(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def in_this_process(module: str, **arguments: Any) -> dict[str, Any]:
    """What :func:`tests.performance.children.measured` does, without a process that imports everything anew."""
    answered = importlib.import_module(f"tests.performance.{module}").main(**arguments)
    found: dict[str, Any] = json.loads(json.dumps(answered))  # as a child would send it
    return found


def test_the_cheap_lines_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(knn, "measured", in_this_process)
    monkeypatch.setattr(step, "measured", in_this_process)
    assert main(["--quick", "--only", "knn", "step", "--peers", "timm", "--out", str(tmp_path)]) == 0
    (written,) = tmp_path.glob("*.json")
    lines = json.loads(written.read_text())["lines"]
    assert [line["name"] for line in lines] == ["step"] * 2 + ["knn"] * 5
    assert all(min(line["ours"] + line["theirs"]) > 0 for line in lines if line["unit"] != "MiB, peak")
    assert [line["note"] for line in lines if line["unit"] == "s"] == ["all accuracies equal"] * 2
    assert "written to" in capsys.readouterr().out


def test_a_measurement_has_a_process_of_its_own() -> None:
    assert children.measured("children", way="ours", bank=4000) == {"way": "ours", "bank": 4000}
    with pytest.raises(RuntimeError, match=r"(?s)one_none .* ended with 1 and no answer:.*No module named"):
        children.measured("one_none")


def test_a_measurement_of_neighbours_says_what_its_sets_take() -> None:
    found = in_this_process("one_knn", way="ours", bank=4000, queries=100, width=64)
    assert found["seconds"] > 0
    assert found["sets_mib"] == pytest.approx((4100 * 64 * 4 + 4100 * 8) / 2**20)


SCALE: dict[str, Any] = {
    "per_second": 4.2,
    "cpu": {"search": 20.0, "MLflow": 40.0, "sleepers": 30.0},
    "counted": 60.0,
    "memory": {"driver": [500.0, 510.0], "board": [60.0, 60.5]},
    "listener_lag": 0.2,
    "board_lag": 0.01,
    "mlflow_lag": 6.0,
    "queued": 70,
    "queued_last": 2,
}


def test_the_scale_is_judged_by_its_sum_its_memory_and_its_lags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "measured", lambda module, **work: SCALE)
    found = list(scale.lines(quick=False, repeats=2))
    judged = {line.work: line.met for line in found if line.goal is not None}
    assert list(judged.values()) == [True, True, True, True, True, False]
    assert [line.note for line in found if line.unit == "CPU ms a trial"][1:] == ["a part of it"] * 2 + ["beside it"]
    monkeypatch.setitem(SCALE, "counted", 90.0)
    assert next(scale.lines(quick=False, repeats=1)).met is False


@pytest.mark.parametrize("phase", ["search", "confirm"])
def test_what_has_slept_has_a_record_like_what_has_trained(phase: Any) -> None:
    study = studies.load("linear").studies[0]
    trial = make_trial(study, benchmarks.get("tiny"), {"lr": 0.1}, launch="x", label="a", seed=0, phase=phase)
    record = Record.model_validate_json(sleepers.slept(trial, 2.0).model_dump_json())
    assert record.status == "ok"
    assert None not in record.scores.values()
    assert {reading.answers is not None for reading in record.readings} == {phase == "confirm"}


def test_every_part_can_be_imported() -> None:
    for module in pkgutil.iter_modules(performance.__path__):
        importlib.import_module(f"tests.performance.{module.name}")


def test_a_start_is_drawn_up_to_the_first_step_with_the_memory_of_its_largest_moment() -> None:
    worker = [
        start.Process("ray::Worker", at, [(at + 0.05 * tick, 0.05 * tick) for tick in range(41)]) for at in (1, 1.5)
    ]
    worker[0].memory, worker[1].memory = {1: 100, 2: 300, 3: 10}, {2: 200, 3: 400}
    late = start.Process("late", 2.5, [(2.6, 0.4)], {2: 7})
    head, first, second, total = start.table([late, *worker], first=2.0).splitlines()
    assert "0 to 1 cores" in head
    assert first.split(maxsplit=5) == ["ray::Worker", "2", "1.0", "1.5", "500", "██"]  # two cores are drawn as one
    assert first.endswith("500    ██")  # nothing in the first two columns
    assert second.split() == ["late", "1", "2.5", "0.0", "7"]
    assert total.split(maxsplit=4) == ["together", "2.0", "1.5", "507", "until the first trial trains"]

"""Records: what is written comes back, what is no result is refused, and every number says where it comes from."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bench import records
from bench.launching import studies
from bench.launching.benchmarks import get
from bench.readings import SCORES, Reading
from bench.records import Record
from bench.spec import Trial, make_trial

Make = Callable[..., Record]


@pytest.fixture(scope="module")
def trial() -> Trial:
    (study,) = studies.load("block_expansion").studies
    values = {"p": 3, "lr": 0.1}
    return make_trial(study, get("tiny"), values, launch="paper", label="search-03", seed=5, phase="search")


def test_a_record_comes_back_as_it_was_written(tmp_path: Path, record: Make) -> None:
    mine = record(target=95.49999999999999, details={"images": {"skipped": 1 / 3}}, row={"p": 3, "q": None})
    path = mine.write(tmp_path / "some" / "records")
    assert path == tmp_path / "some" / "records" / f"{mine.trial}.json"
    assert records.read(path) == mine
    assert path.read_text().endswith("}\n")
    assert json.loads(path.read_text())["target_accuracy"] == 95.49999999999999


def test_types_survive_the_round_trip(tmp_path: Path, record: Make) -> None:
    values = {"a": 1, "b": 1.0, "c": True, "d": "1", "e": None}
    back = records.read(record(hyperparameters=values).write(tmp_path)).hyperparameters
    assert {name: type(value) for name, value in back.items()} == {name: type(v) for name, v in values.items()}


def test_writing_leaves_no_other_file_and_a_readable_one(tmp_path: Path, record: Make) -> None:
    for seed in (1, 2, 2):
        path = record(seed=seed).write(tmp_path)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert records.read(path).seed == 2
    umask = os.umask(0o022)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_write_that_is_cut_off_leaves_the_old_file(
    tmp_path: Path, record: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(seed=1).write(tmp_path)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        record(seed=2).write(tmp_path)
    assert records.read(path).seed == 1
    assert sorted(found.name for found in tmp_path.glob("*.json")) == [path.name]


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("prefix", ["", "val_"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "95", True, -0.1, 100.1, 50.0])
def test_a_flat_name_says_nothing_else_than_the_readings(record: Make, prefix: str, name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"{prefix}{name} = {value!r} contradicts the readings, which say "):
        record(**{prefix + name: value})


def test_a_flat_name_may_be_left_out_but_not_emptied(record: Make) -> None:
    whole = record().model_dump()
    for name in SCORES:
        assert Record.model_validate({key: value for key, value in whole.items() if key != name}) == record()
        with pytest.raises(ValidationError, match=f"{name} = None contradicts the readings"):
            Record.model_validate({**whole, name: None})


def test_rounding_is_no_contradiction(record: Make) -> None:
    mine = record(target=95.4, source=80.1)
    assert record(target=95.4, source=80.1, mean=round(mine.scores["mean"], 7)) == mine


def test_forgetting_may_be_negative(record: Make) -> None:
    assert record(source=91.0, before=90.7).scores["forgetting"] == pytest.approx(-0.3)


def test_a_nan_in_hyperparameters_is_refused(record: Make) -> None:
    with pytest.raises(ValidationError, match="hyperparameters"):
        record(hyperparameters={"lr": math.nan})


@pytest.mark.parametrize("error", [None, ""])
def test_a_failed_record_needs_its_error(record: Make, error: str | None) -> None:
    with pytest.raises(ValidationError, match="a failed record says why in error"):
        record(status="failed", error=error)


@pytest.mark.parametrize("name", ["target", "source", "before"])
def test_a_successful_record_needs_every_score(record: Make, searched: Make, name: str) -> None:
    score = {"target": "target_accuracy", "source": "source_accuracy", "before": "source_accuracy_before"}[name]
    with pytest.raises(ValidationError, match=f"a successful confirm record needs {score}"):
        record(**{name: None})
    with pytest.raises(ValidationError, match=f"a successful search record needs val_{score}"):
        searched(**{name: None})


def test_a_confirmation_is_not_measured_on_validation_data(record: Make, searched: Make) -> None:
    with pytest.raises(ValidationError, match="a successful confirm record needs target_accuracy"):
        record(readings=searched().readings)


def test_a_search_record_has_the_flat_names_of_validation(record: Make, searched: Make) -> None:
    found, confirmed = (made.model_dump() for made in (searched(target=60.0, source=40.0), record()))
    assert [found[f"val_{name}"] for name in SCORES] == [60.0, 40.0, 90.7, pytest.approx(50.7), 50.0]
    assert [found[name] for name in SCORES] == [None] * 5
    assert [confirmed[f"val_{name}"] for name in SCORES] == [None] * 5
    assert [confirmed[name] for name in SCORES] == list(record().scores.values())


def test_a_stopped_record_needs_no_scores(record: Make) -> None:
    stopped = record(status="stopped", readings=())
    assert stopped.scores == dict.fromkeys(SCORES)
    assert Record.model_validate_json(stopped.model_dump_json()) == stopped


@pytest.mark.parametrize(
    "changes", [{"status": "fine"}, {"phase": "test"}, {"schema_version": 3}, {"accuracy": 3.0}, {"steps": 1.5}]
)
def test_what_the_schema_does_not_know_is_refused(record: Make, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        record(readings=record().readings, **changes)


def test_records_are_frozen(record: Make) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        record().steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "file: "),
        ("{", "file: "),
        ("[]", "file: "),
        ('{"trial": "x"}', "study: "),
        ('{"trial": 3}', "trial: "),
    ],
)
def test_a_file_that_is_no_record_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} is not a record: {said}") as caught:
        records.read(path)
    assert "\n" not in str(caught.value)


def test_a_nan_in_a_file_is_refused(tmp_path: Path, record: Make) -> None:
    path = record(target=60.0, source=40.0).write(tmp_path)
    text = path.read_text()
    path.write_text(text.replace('"mean": 50.0', '"mean": NaN'))
    with pytest.raises(ValueError, match=r"is not a record: .*mean = nan contradicts the readings, which say 50"):
        records.read(path)
    path.write_text(text.replace('"top1": 60.0', '"top1": NaN'))
    with pytest.raises(ValueError, match=r"is not a record: readings\.1\.numbers\.top1: "):
        records.read(path)


def test_provenance_leaves_out_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "PACKAGES", ("torch", "no-such-package"))
    monkeypatch.setattr(records, "_versions", records._versions.__wrapped__)
    assert list(records.provenance()["versions"]) == ["python", "vit-forgetting-bench", "torch"]


def test_provenance_says_where_a_number_comes_from() -> None:
    found = records.provenance(devices=["NVIDIA H200"])
    assert set(records.PACKAGES) | {"python", "vit-forgetting-bench"} == set(found["versions"])
    assert all(re.match(r"\d+\.\d+", version) for version in found["versions"].values())
    assert found["hardware"]["devices"] == ["NVIDIA H200"]
    assert found["hardware"]["cores"] == os.cpu_count()
    assert found["hardware"]["cpu"]
    assert found["pid"] == os.getpid()
    assert abs(datetime.now(UTC) - datetime.fromisoformat(found["time"])) < timedelta(minutes=1)
    if found["commit"] is None:  # an unpacked archive
        assert found["dirty"] is None
    else:
        assert re.fullmatch(r"[0-9a-f]{40}", found["commit"])
        assert isinstance(found["dirty"], bool)


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    records.commit.cache_clear()
    try:
        assert records.commit() == {"commit": None, "dirty": None}
    finally:
        records.commit.cache_clear()


COPIED = [
    ("a" * 40, {"commit": "a" * 40, "dirty": False}),
    ("b" * 40 + "-dirty", {"commit": "b" * 40, "dirty": True}),
]


def git_commit(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *who, "commit", "-q", "-m", "a", *arguments], cwd=folder, check=True)


@pytest.fixture
def a_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The project in a folder without git, below somebody else's checkout; returns the folder of the latter."""
    own = tmp_path / "own"
    (own / "bench").mkdir(parents=True)
    (own / "bench" / "records.py").touch()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    git_commit(tmp_path, "--allow-empty")
    monkeypatch.setattr(records, "__file__", str(own / "bench" / "records.py"))
    monkeypatch.delenv(records.COMMIT, raising=False)
    records.commit.cache_clear()
    yield tmp_path
    records.commit.cache_clear()


@pytest.mark.parametrize(("told", "commit"), [("", {"commit": None, "dirty": None}), *COPIED])
def test_a_copy_without_git_is_told_its_commit(
    a_copy: Path, monkeypatch: pytest.MonkeyPatch, told: str, commit: dict[str, Any]
) -> None:
    monkeypatch.setenv(records.COMMIT, told)
    assert records.commit() == commit


@pytest.mark.parametrize("told", ["main", "abc1234", "a" * 40 + "-Dirty", "a" * 41, " "])
def test_something_else_is_no_commit(a_copy: Path, monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv(records.COMMIT, told)
    with pytest.raises(ValueError, match=r"BENCH_COMMIT = .*: set it to the output of git describe"):
        records.commit()


def test_a_checkout_is_dirty_by_what_runs(a_copy: Path) -> None:
    (a_copy / "own" / "README.md").write_text("a")
    subprocess.run(["git", "add", "-A"], cwd=a_copy, check=True)
    git_commit(a_copy)
    (a_copy / "own" / "README.md").write_text("b")
    assert records.commit()["dirty"] is False
    records.commit.cache_clear()
    (a_copy / "own" / "bench" / "records.py").write_text("b")
    assert records.commit()["dirty"] is True


def test_a_record_of_a_trial_carries_its_configuration(tmp_path: Path, trial: Trial) -> None:
    reading = Reading(step=40, split="val", domain="target", probe="head", n=300, numbers={"top1": 50.0})
    made = records.of(trial, status="stopped", workers=2, devices=["a", "b"], steps=40, readings=[reading])
    assert (made.trial, made.study, made.benchmark) == ("block_expansion-search-03", "paper", "tiny")
    assert (made.method, made.phase, made.seed, made.steps) == ("block_expansion", "search", 5, 40)
    assert (made.hyperparameters, made.row) == ({"p": 3, "lr": 0.1}, {"p": 3})
    assert (made.readings, made.scores["target_accuracy"], made.scores["mean"]) == ((reading,), 50.0, None)
    assert made.search == trial.search == studies.load("block_expansion").studies[0].search_context
    assert made.provenance["workers"] == 2
    assert made.provenance["hardware"]["devices"] == ["a", "b"]
    assert Trial.model_validate(made.config, strict=False) == trial
    assert records.read(made.write(tmp_path)) == made


def test_a_record_of_a_failure_says_why(tmp_path: Path, trial: Trial) -> None:
    try:
        raise FloatingPointError("the loss is NaN")
    except FloatingPointError as error:
        made = records.failed(trial, error)
    assert (made.status, made.error) == ("failed", "FloatingPointError: the loss is NaN")
    assert "test_a_record_of_a_failure_says_why" in made.details["traceback"]
    assert len(made.details["traceback"].splitlines()) > 2  # to be read as Python prints it
    assert records.read(made.write(tmp_path)) == made


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trial": "full-confirm-seed7"}, "trial"),
        ({"study": "other"}, "study"),
        ({"benchmark": "other"}, "benchmark"),
        ({"method": "linear"}, "method"),
        ({"seed": 7}, "seed"),
        ({"phase": "confirm"}, "phase"),
        ({"protocol": "paper"}, "protocol"),
        ({"hyperparameters": {"p": 3, "lr": 0.5}}, "hyperparameters"),
        ({"row": {"rank": 4}}, "row"),
        ({"row": {}}, "row"),
    ],
)
def test_a_record_that_contradicts_what_was_asked_for_is_named(
    tmp_path: Path, trial: Trial, changes: dict[str, Any], said: str
) -> None:
    path = records.of(trial, status="stopped").write(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=rf"{path.name} is not a record: .*{said} = .* contradicts config"):
        records.read(path)


@pytest.mark.parametrize(("part", "name"), [("train", "lr"), ("fields", "p")])
def test_hyperparameters_are_what_was_trained_with(tmp_path: Path, trial: Trial, part: str, name: str) -> None:
    """Even if somebody has changed them everywhere but there."""
    path = records.of(trial, status="stopped").write(tmp_path)
    values = json.loads(path.read_text())
    for place in (values, values["config"]):
        place["hyperparameters"][name] = 2
        place["row"] = {"p": place["hyperparameters"]["p"]}
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"hyperparameters.{name} = 2 contradicts config.{part}"):
        records.read(path)


def test_a_record_whose_config_is_another_trials_is_named(tmp_path: Path, record: Make) -> None:
    path = record().write(tmp_path)
    values = json.loads(path.read_text())
    values["config"]["id"] = "other"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"{path.name} is not a record: .*trial = .* contradicts config"):
        records.read(path)


def test_a_headline_that_contradicts_its_k_is_named(tmp_path: Path, record: Make) -> None:
    path = record().write(tmp_path)
    values = json.loads(path.read_text())
    reading = next(one for one in values["readings"] if one["probe"] == "knn" and one["step"] > 0)
    reading["settings"]["k"] = 20
    reading["numbers"]["k=20 top1"] = reading["numbers"]["top1"] - 1
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"{path.name} is not a record: .*top1 = .* contradicts k=20 top1"):
        records.read(path)


@pytest.mark.parametrize("name", ["trial", "study", "benchmark"])
@pytest.mark.parametrize("value", ["../../x", "/tmp/x", "..", ".", "", "a\\b", "a\nb", "\x1b[2J", "x" * 201])
def test_a_name_that_is_no_name_is_refused(tmp_path: Path, record: Make, name: str, value: str) -> None:
    values = {**record().model_dump(), "config": {}, name: value}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"mine.json is not a record: {name}: .*the name ") as caught:
        records.read(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", ["folder-birds", "Meine Vögel", "a.b", "x" * 200])
def test_names_from_own_folders_are_names(tmp_path: Path, record: Make, value: str) -> None:
    made = record(trial=value, study=value, benchmark=value, variants={value: (90.0, 85.0)})
    assert records.read(made.write(tmp_path)) == made


def test_a_variant_is_called_by_a_name(record: Make) -> None:
    with pytest.raises(ValidationError, match="variant"):
        record(variants={"../x": (90.0, 85.0)})


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("folder", "a folder"),
        ("pipe", "no regular file"),
        ("link", "missing"),
        ("binary", "no text in UTF-8"),
        ("large", "larger than"),
    ],
)
def test_what_is_no_file_of_text_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, said: str
) -> None:
    path = tmp_path / "mine.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("nowhere")
    else:
        monkeypatch.setattr(records, "MOST", 4)
        path.write_bytes(b"\xff\xfe" if kind == "binary" else b"12345")
    with pytest.raises(ValueError, match=rf"mine.json is not a record: it is .*{said}"):
        records.read(path)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("mean",), 10**400, "64 bits"),
        (("details", "x"), [{"y": -(10**19)}], "64 bits"),
        (("hyperparameters", "rank"), 10**30, "64 bits"),
        (("steps",), -1, "greater than or equal to 0"),
        (("config", "benchmark"), 3, "config.benchmark = 3: it must be a dict"),
        (("provenance", "hardware"), {"devices": 3}, "provenance.hardware.devices = 3: it must be a list"),
    ],
)
def test_values_that_nothing_here_can_take_are_named(
    tmp_path: Path, record: Make, place: tuple[str, ...], value: Any, said: str
) -> None:
    path = record().write(tmp_path)
    values = json.loads(path.read_text())
    *way, last = place
    inner = values
    for name in way:
        inner = inner[name]
    inner[last] = value
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"{path.name} is not a record: .*{said}"):
        records.read(path)


@pytest.mark.parametrize("details", [3, "x", [1], {"images": 3}, {"knn": {"x": 1}}])
def test_damaged_details_of_schema_1_are_named(tmp_path: Path, record: Make, details: Any) -> None:
    values = {**record().model_dump(), "schema_version": 1, "details": details}
    del values["readings"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"old.json is not a record: "):
        records.read(path)


def test_the_umask_says_who_may_read(tmp_path: Path, record: Make) -> None:
    before = os.umask(0o077)
    try:
        path = record().write(tmp_path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_key_that_is_there_twice_is_named(tmp_path: Path, record: Make) -> None:
    path = record().write(tmp_path)
    path.write_text(path.read_text().replace('"seed": 0,', '"seed": 1, "seed": 0,', 1))
    with pytest.raises(ValueError, match=rf"{path.name} is not a record: 'seed' is there twice"):
        records.read(path)


@pytest.mark.parametrize(("name", "value"), [("k", 10), ("bank", 5)])
def test_forgetting_is_no_difference_of_unlike_readings(tmp_path: Path, record: Make, name: str, value: int) -> None:
    path = record().write(tmp_path)
    values = json.loads(path.read_text())
    (before,) = (one for one in values["readings"] if one["step"] == 0)
    before["settings"] = {"k": 20, "bank": 4000, name: value}
    before["numbers"] = {"top1": before["numbers"]["top1"]}
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"readings of the source with {name} = .* are mixed"):
        records.read(path)


def test_a_trial_that_ended_early_did_not_succeed(tmp_path: Path, record: Make) -> None:
    path = record().write(tmp_path)
    values = json.loads(path.read_text())
    values["config"]["train"] = {"steps": values["steps"] + 10, "epochs": None}
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"contradicts config\.train, which says"):
        records.read(path)
    values["config"]["train"]["epochs"] = 2.0
    path.write_text(json.dumps(values))
    assert records.read(path).status == "ok"

"""Whatever stands in a study, a setting, a record or an export: it is taken, or refused in one sentence, soon."""

from __future__ import annotations

import copy
import io
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from safetensors.torch import save

from bench import checkpoints, models
from bench.folder import LaunchFolder
from bench.launching import preflight, studies
from bench.launching.benchmarks import PARTS, get
from bench.launching.changes import assignment
from bench.launching.request import Request
from bench.models import TINY_PREPROCESS
from bench.records import Record
from bench.reporting import leaderboard
from bench.reporting.rows import build
from bench.spec import SourceData, SpecError, Study, TargetData, TrainConfig, sentence

hostile = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=10_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

few = settings(hostile, max_examples=20)
"""Where each of them builds a model."""


def nested(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


NUMBERS = [0, -1, 1, 3, 10**12, -(10**18), 10**19, 10**400, 0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf")]
TEXTS = ["", " ", "x" * 3000, "\x1b[31m", "[/red]", "../x", "a\nb", "tiny", "auto", "$_$", "\u202e", "\0", "1e3"]
OTHERS = [None, True, False, [], {}, [1, 1], ["a", None], {"low": 1, "high": 0}, {"x": {"y": 1}}, nested(200)]
values = st.sampled_from([*NUMBERS, *TEXTS, *OTHERS]) | st.integers() | st.floats() | st.text(max_size=20)

FRAGMENTS = [
    "[",
    "{",
    "}",
    ":",
    ": ",
    "- ",
    "&a ",
    "*a",
    "<<: *a",
    "!!float ",
    "!!int ",
    "? ",
    "|\n",
    "\t",
    "\0",
    "'",
    '"',
]
MORE = [
    "%YAML",
    "---\n",
    "2001-99-99",
    "0b" + "1" * 300,
    "1:" * 300 + "1",
    "9" * 5000,
    "[" * 400,
    "\ufeff",
    "=",
    "\x85",
]

STUDY = "method: lora\nsearch:\n  rank: {choices: [4, 8]}\n  lr: {low: 0.01, high: 0.3, log: true}\nrows: [rank]\n"
SUITE = "suite: [lora, top_k: {search.k.choices: [3]}]\ntrials: 4\n"


def refused(error: ValueError) -> None:
    """What is said is one short line."""
    said = sentence(error)
    assert len(said) < 2100
    assert "\n" not in str(error)
    assert "validation error" not in said
    assert "Traceback" not in said


def taken(text: str, folder: Path, overrides: Sequence[str] = ()) -> None:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        for study in studies.load(str(path), overrides=overrides).studies:
            studies.check(study, get("tiny"), depth=12)
            assert len(study.dealt_points) <= max(study.trials, 1)
    except SpecError as error:
        refused(error)


cuts = st.tuples(st.sampled_from([STUDY, SUITE]), st.integers(0, 90), st.integers(0, 8))


@hostile
@given(cuts, st.lists(st.sampled_from([*FRAGMENTS, *MORE]), max_size=3))
def test_a_study_file_of_damaged_text(tmp_path: Path, cut: tuple[str, int, int], put: list[str]) -> None:
    text, start, length = cut
    taken(text[:start] + "".join(put) + text[start + length :], tmp_path)


fields = st.sampled_from([*Study.model_fields, "suite", "x"])
spaces = st.fixed_dictionaries({}, optional=dict.fromkeys(("choices", "low", "high", "log", "x"), values))
groups = st.dictionaries(
    st.sampled_from([*TrainConfig.model_fields, "rank", "dropout", "x"]), values | spaces, max_size=3
)


@hostile
@given(st.dictionaries(fields, values | groups, max_size=3), st.sampled_from([STUDY, SUITE]))
def test_a_study_file_of_strange_values(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    written = json.dumps({**yaml.safe_load(text), **changes})  # which is YAML
    taken(written, tmp_path)
    taken(written, tmp_path, ["search.rank.choices=[2]", "fixed.dropout=0.1"])


names = st.sampled_from(
    [
        *Study.model_fields,
        *(f"train.{name}" for name in TrainConfig.model_fields if name != "start_from"),
        *(f"search.{name}.{end}" for name in ("rank", "lr") for end in ("low", "high", "choices", "log")),
        *(
            f"{part}.{name}"
            for part in ("source", "target")
            for name in [*SourceData.model_fields, *TargetData.model_fields]
        ),
        *PARTS,
        "workers",
        "slots",
        "",
        "a.b",
        ".".join("x" * 200),
    ]
)


@hostile
@given(st.lists(st.tuples(names, values), min_size=1, max_size=2))
def test_strange_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[tuple[str, Any]]) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        changes = [assignment(f"{name}={json.dumps(value)}") for name, value in asked]
        preflight.prepare(Request.of("lora", changes=changes))
    except SpecError as error:
        refused(error)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything that lies in a tree."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [(*path, key) for key, _ in inside] + [one for key, value in inside for one in places(value, (*path, key))]


def changed(tree: Any, path: Sequence[Any], value: Any) -> Any:
    tree = copy.deepcopy(tree)
    place = tree
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return tree


def shown(folder: LaunchFolder) -> None:
    try:
        board = build(folder.read_records())
        out = io.StringIO()
        leaderboard.show(board, Console(file=out, width=100))
        assert "\x1b" not in out.getvalue()
        leaderboard.markdown(board)
        leaderboard.as_csv(board)
    except ValueError as error:
        refused(error)


@hostile
@given(st.data())
def test_records_of_strange_values(tmp_path: Path, record: Callable[..., Record], data: st.DataObject) -> None:
    folder = LaunchFolder(tmp_path)
    for seed in (0, 1):
        path = record(trial=f"full-confirm-seed{seed}", seed=seed, config={"benchmark": {"name": "tiny"}}).write(
            folder.records
        )
    tree = json.loads(path.read_text())
    if data.draw(st.booleans()):
        tree = {**tree, "schema_version": 1, "details": {"images": {}, "knn": {"20": {"top1": 80.7, "top5": 99.0}}}}
        del tree["readings"]
    for _ in range(data.draw(st.integers(1, 2))):
        tree = changed(tree, data.draw(st.sampled_from(places(tree))), data.draw(values))
    path.write_text(json.dumps(tree))
    shown(folder)


@hostile
@given(st.integers(0, 2000), st.integers(0, 20), st.binary(max_size=20))
def test_records_of_damaged_bytes(
    tmp_path: Path, record: Callable[..., Record], start: int, length: int, put: bytes
) -> None:
    folder = LaunchFolder(tmp_path)
    path = record().write(folder.records)
    content = path.read_bytes()
    path.write_bytes(content[:start] + put + content[start + length :])
    shown(folder)


WEIGHTS = models.plain(models.TINY, num_classes=2).state_dict()
FACTS = {
    "record": "linear-confirm-seed0",
    "backbone": models.TINY.model_dump_json(),
    "depth": "12",
    "num_classes": "2",
    "class_names": '["a", "b"]',
    "preprocess": json.dumps(
        {"size": 32, "mean": TINY_PREPROCESS.mean, "std": TINY_PREPROCESS.std, "crop_pct": 1.0, "whole": True}
    ),
}


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.new("RGB", (40, 30), (200, 10, 10)).save(path)
    return path


def predicted(content: bytes, picture: Path) -> list[checkpoints.Prediction]:
    model = picture.with_name("model.safetensors")
    model.write_bytes(content)
    try:
        return list(checkpoints.predict(model, [picture]))
    except ValueError as error:
        refused(error)
        assert str(model) in str(error)
        return []


def test_the_undamaged_export_is_taken(picture: Path) -> None:
    (prediction,) = predicted(save(WEIGHTS, FACTS), picture)
    assert sum(prediction.percent) == pytest.approx(100)


@few
@given(st.data())
def test_exports_of_strange_facts(picture: Path, data: st.DataObject) -> None:
    facts = dict(FACTS)
    name = data.draw(st.sampled_from(sorted(facts)))
    tree, value = json.loads(facts[name]) if name != "record" else "", data.draw(values)
    if inside := places(tree):
        value = changed(tree, data.draw(st.sampled_from(inside)), value) if data.draw(st.booleans()) else value
    with suppress(UnicodeEncodeError):
        facts[name] = value if isinstance(value, str) else json.dumps(value)
        predicted(save(WEIGHTS, facts), picture)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("depth", "1000000000", "it says 1000000000 blocks and 2 classes, and holds 12 and 2"),
        ("num_classes", "3", "it has 3 classes and 2 names of classes"),
        ("class_names", "[" * 10**5, "class_names = "),
        ("backbone", '{"name": "vit_gigantic_patch14_224"}', "is not that of a vit_gigantic"),
        ("preprocess", json.dumps({**json.loads(FACTS["preprocess"]), "size": 10**6}), "pictures of 1000000 pixels"),
        ("preprocess", json.dumps({**json.loads(FACTS["preprocess"]), "std": [1, 1]}), "three channels"),
    ],
)
def test_facts_that_do_not_fit_are_said(picture: Path, name: str, text: str, said: str) -> None:
    model = picture.with_name("model.safetensors")
    model.write_bytes(save(WEIGHTS, {**FACTS, name: text}))
    with pytest.raises(ValueError, match=f"model.safetensors was not written by python -m bench export.*{said}"):
        list(checkpoints.predict(model, [picture]))


def test_a_model_that_gives_no_probabilities_is_refused(picture: Path) -> None:
    damaged = {name: torch.full_like(value, float("nan")) for name, value in WEIGHTS.items()}
    model = picture.with_name("model.safetensors")
    model.write_bytes(save(damaged, FACTS))
    with pytest.raises(ValueError, match="gives no probabilities"):
        list(checkpoints.predict(model, [picture]))


@few
@given(st.integers(0, 12_000), st.integers(0, 100_000), st.binary(max_size=9))
def test_exports_of_damaged_bytes(picture: Path, start: int, length: int, put: bytes) -> None:
    content = save(WEIGHTS, FACTS)
    predicted(content[:start] + put + content[start + length :], picture)


def test_no_pipe_is_waited_for(picture: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "a.png"
    os.mkfifo(pipe)
    model = picture.with_name("model.safetensors")
    model.write_bytes(save(WEIGHTS, FACTS))
    for images in ([pipe], [tmp_path], [tmp_path / "*.png"]):
        with pytest.raises(ValueError, match=r"no regular file"):
            list(checkpoints.predict(model, images))
    with pytest.raises(ValueError, match="there is no model"):
        list(checkpoints.predict(pipe, [picture]))
    with pytest.raises(ValueError, match=r"--out .* cannot be written to: it is no regular file"):
        checkpoints.check_out(pipe)

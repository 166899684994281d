"""Every field that ``--list`` shows can be set, on the command line and in a study's file, and has an effect."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import yaml

from bench import methods
from bench.launching import benchmarks, studies
from bench.launching.changes import Change, assignment
from bench.launching.request import PARTS
from bench.spec import Study, TrainConfig, Value, make_trial, number_type

TINY = benchmarks.get("tiny")
NEEDED = {
    "momentum": "optimizer=sgd",
    "beta1": "optimizer=adamw",
    "beta2": "optimizer=adamw",
    "mix_prob": "mixup_alpha=0.5",
    "randaugment_m": "randaugment_n=1",
    "keep": "val_every=5",
    "crop_max": "crop_min=0.2",
}
"""Some fields of the recipe mean something beside others only."""

VALUES: dict[str, Any] = {
    "epochs": 2.0,
    "start_from": "records/x.json",
    "source.name": "digits",
    "target.name": "cifar10",
    "backbone.name": "vit_tiny_patch16_224",
    "backbone.weights": "random",
    "backbone.checkpoint_key": "student",
    "target.samples": 50,
}
"""Not every text or number will do."""


def another(annotation: Any, default: Any) -> Any:
    """A value of a type that is not the default one."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return another(inner[0], default)
    if origin is Literal:
        return next(value for value in inner if value != default)
    if origin in (Union, types.UnionType):
        return another(next(one for one in inner if one is not type(None)), default)
    if origin is tuple:
        return [another(inner[0], default[0] if default else None)]
    if annotation is bool:
        return not default
    if annotation is int:
        return (default or 1) + 1 if isinstance(default, int) or default is None else 2
    if annotation is float:
        return (default or 1.0) / 2
    return "text"


def texts(name: str, value: Any, *, part: str = "train") -> list[str]:
    """Assignments of a value, with what it needs beside it."""
    said = f"{part}.{name}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"
    return [said, *([f"train.{NEEDED[name]}"] if name in NEEDED else [])]


@pytest.mark.parametrize("name", TrainConfig.model_fields)
def test_a_field_of_the_recipe(name: str) -> None:
    about = TrainConfig.model_fields[name]
    value = VALUES.get(name, another(about.annotation, getattr(TINY.train, name)))
    study = studies.load("linear", overrides=["search={}", *texts(name, value)]).studies[0]
    trial = make_trial(study, TINY, {}, launch="", label="", seed=0, phase="search")
    assert getattr(trial.train, name) == (str(Path(value).absolute()) if name == "start_from" else value)
    assert getattr(trial.train, name) != getattr(TINY.train, name)


FIELDS = [(method, field) for method in methods.names() for field in methods.fields(method)]


@pytest.mark.parametrize(("method", "field"), FIELDS)
@pytest.mark.parametrize("form", ["fixed.{}={}", "search.{}.choices=[{}]"])
def test_a_field_of_a_method(method: str, field: str, form: str) -> None:
    about = methods.fields(method)[field]
    value = another(about.type, about.default)
    said = form.format(field, yaml.safe_dump(value, default_flow_style=True).splitlines()[0])
    study = studies.load(method, overrides=["search={}", "rows=[]", said]).studies[0]
    (trial,) = studies.corners(study, TINY)
    assert trial.fields[field] == (tuple(value) if isinstance(value, list) else value)
    made = getattr(methods.load(method, **trial.fields), field)
    assert made == (tuple(value) if isinstance(value, list) else value)
    assert made != about.default


NUMBERS = [(method, field) for method, field in FIELDS if number_type(methods.fields(method)[field].type)]


@pytest.mark.parametrize(("method", "field"), [pair for pair in NUMBERS if pair[1] not in ("targets", "alphas")])
def test_a_number_of_a_method_has_a_range(method: str, field: str) -> None:
    overrides = [f"search={{{field}: {{low: 1, high: 2}}}}", "rows=[]"]
    (space,) = studies.load(method, overrides=overrides).studies[0].search.values()
    assert {type(space.low), type(space.high)} == {number_type(methods.fields(method)[field].type)}


@pytest.mark.parametrize("name", [name for name, about in Study.model_fields.items() if about.description])
def test_a_field_of_a_study(name: str) -> None:
    values: dict[str, Value] = {
        "search": {"rank": {"choices": [2]}},  # type: ignore[dict-item]
        "fixed": {"dropout": 0.25},  # type: ignore[dict-item]
        "rows": [],  # type: ignore[dict-item]
        "objective": "forgetting",
        "train": {"steps": 7},  # type: ignore[dict-item]
        "beliefs": [{"values": {"lr": 0.1}}],  # type: ignore[dict-item]
    }
    about = Study.model_fields[name]
    value: Any = values.get(name, another(about.annotation, about.default))
    several = Change(("objective",), ["mean", "forgetting"], "--set")
    needed = [several] if name in ("candidates", "confirm") else []
    before = studies.load("lora").studies[0]
    after = studies.load("lora", overrides=[*needed, Change((name,), value, "--set")]).studies[0]
    assert getattr(after, name) != getattr(before, name)


@pytest.mark.parametrize(
    ("part", "name"), [(part, name) for part, model in PARTS.items() for name in model.model_fields]
)
def test_a_field_of_a_benchmark(part: str, name: str) -> None:
    about = PARTS[part].model_fields[name]
    own = getattr(getattr(TINY, part), name)
    value = VALUES.get(f"{part}.{name}", another(about.annotation, own))
    (text,) = texts(name, value, part=part)
    change = assignment(text)
    needed = {"backbone.weights": "random.safetensors"} if name == "checkpoint_key" else {}
    adapted = benchmarks.adapted(TINY, {**needed, change.name: change.value})
    assert getattr(getattr(adapted, part), name) == value != own

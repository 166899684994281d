"""What is trained: one configuration, with everything that its result depends on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from bench.spec.benchmark import Benchmark
from bench.spec.parsing import Frozen, SpecError, Value, parse
from bench.spec.study import Protocol, SearchContext, Study
from bench.spec.train import TrainConfig

Phase = Literal["search", "confirm"]
"""A search trial is measured on validation data, a confirmation on test data."""


class Trial(Frozen):
    """One configuration, to be trained once. Everything that its result depends on is in here."""

    id: str
    study: str
    benchmark: Benchmark
    method: str
    fields: dict[str, Value]
    """The method's hyper-parameters."""
    hyperparameters: dict[str, Value]
    """What the study chose: searched and fixed fields, of the method and of ``train``."""
    row: dict[str, Value]
    """The leaderboard row it belongs to, as values of the row fields."""
    train: TrainConfig
    seed: int
    phase: Phase
    protocol: Protocol = "clean"
    search: SearchContext | None = None
    """None in what was written before records kept it."""


def make_trial(
    study: Study,
    benchmark: Benchmark,
    values: Mapping[str, Value],
    *,
    launch: str,
    label: str,
    seed: int,
    phase: Phase,
) -> Trial:
    """Resolve a study's chosen values into a trial.

    Args:
        values: values of the searched fields; names of :class:`TrainConfig` go to training, others to the method.
        launch: the study's or suite's name, under which the record is filed.
        label: what makes the trial's id unique within its method, such as ``search-03``.

    Raises:
        SpecError: a training field does not exist or is out of range.
    """
    chosen = {**study.fixed, **values}
    given = {**study.train, **{name: value for name, value in chosen.items() if name in TrainConfig.model_fields}}
    if given.get("epochs") is not None and "steps" in given:
        raise SpecError(f"steps = {given['steps']} has no effect with epochs = {given['epochs']}: set one of them")
    given |= _budgeted(benchmark.train, given)
    given = {**(_papers_checkpoints(benchmark.train, given) if study.protocol == "paper" else {}), **given}
    train = {**benchmark.train.model_dump(), **_warm_up(benchmark.train, given), **given}
    return Trial(
        id=f"{study.method}-{label}",
        study=launch,
        benchmark=benchmark,
        method=study.method,
        fields={name: value for name, value in chosen.items() if name not in TrainConfig.model_fields},
        hyperparameters=chosen,
        row={name: chosen[name] for name in study.rows},
        train=parse(TrainConfig, train, where=f"study {study.name!r}, train"),
        seed=seed,
        phase=phase,
        protocol=study.protocol,
        search=study.search_context,
    )


def _budgeted(recipe: TrainConfig, given: Mapping[str, Value]) -> dict[str, Value]:
    """Steps, or else epochs, times the budget; what is no number of them stays as it is, to be refused."""
    budget = given.get("budget", recipe.budget)
    if not isinstance(budget, int | float) or not math.isfinite(budget) or budget == 1:
        return {}
    epochs, steps = given.get("epochs", recipe.epochs), given.get("steps", recipe.steps)
    if isinstance(epochs, int | float) and "steps" not in given:
        return {"epochs": epochs * budget}
    return {"steps": max(1, round(steps * budget))} if isinstance(steps, int) else {}


def _papers_checkpoints(recipe: TrainConfig, given: Mapping[str, Value]) -> dict[str, Value]:
    """The paper kept the best of the checkpoints that it made every 500 of 10,000 steps."""
    steps = given.get("steps", recipe.steps)
    return {"keep": "best", "val_every": max(1, steps // 20)} if isinstance(steps, int) else {}


def _warm_up(recipe: TrainConfig, given: Mapping[str, Value]) -> dict[str, Value]:
    """The benchmark's share of warm-up steps, where a study asks for another number of steps and says nothing of it."""
    steps = given.get("steps")
    if not isinstance(steps, int) or "warmup_steps" in given:
        return {}
    return {"warmup_steps": round(recipe.warmup_steps * steps / recipe.steps)}

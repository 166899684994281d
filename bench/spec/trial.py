"""What is trained: one configuration, with everything that its result depends on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from bench.spec.benchmark import Benchmark
from bench.spec.objective import Objective
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
    keep_by: Objective | None = Field(default=None)
    """By which of its readings the best model is kept; None: by target accuracy, or the last one is."""

    @property
    def reads_on_the_way(self) -> bool:
        """Whether target and source are read before the end: under the paper's protocol that would be test data."""
        return self.train.val_every > 0 and self.protocol == "clean"

    @property
    def papers_preprocess(self) -> bool:
        """Whether the target's images are prepared as arXiv 2404.17245 did, not as the backbone was pre-trained."""
        return (self.train.preprocess or ("paper" if self.protocol == "paper" else "backbone")) == "paper"

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What keeps the usual model is not written down: records of before there was another one read the same."""
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if (name, value) != ("keep_by", None)}


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
    recipe = parse(TrainConfig, train, where=f"study {study.name!r}, train")
    return Trial(
        id=f"{study.method}-{label}",
        study=launch,
        benchmark=benchmark,
        method=study.method,
        fields={name: value for name, value in chosen.items() if name not in TrainConfig.model_fields},
        hyperparameters=chosen,
        row={name: chosen[name] for name in study.rows},
        train=recipe,
        seed=seed,
        phase=phase,
        protocol=study.protocol,
        search=study.search_context,
        keep_by=_keep_by(study, recipe),
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


def _keep_by(study: Study, recipe: TrainConfig) -> Objective | None:
    """What chooses the model that is kept, where that is not the target accuracy alone.

    Raises:
        SpecError: of several scores none says which model is the best.
    """
    objective = study.objective
    if recipe.keep == "last" or study.protocol == "paper" or objective == Objective(quantity="target_accuracy"):
        return None
    if objective.others:
        raise SpecError(
            f"study {study.name!r}: keep = best needs one score to choose by, and the objective is {objective}: use "
            f"keep = last, or one score, with constraints or without"
        )
    return objective


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

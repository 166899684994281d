"""What is searched: a method, its space, the objective and the leaderboard's rows."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from bench.spec.objective import Objective
from bench.spec.parsing import Frozen, SpecError, Value, readable
from bench.spec.text import Name

MANY = 100
"""Of a space of at most so many integers each is checked; of a larger one so many, from both ends and between."""

Bound = Annotated[int | float | None, Field(ge=-1e15, le=1e15)]

MINUTES = 525_600.0
"""A year: nobody waits longer for a trial."""

LARGEST_SEED = 2**32 - 1

Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
"""NumPy, and with it Optuna's samplers, take no larger seed."""


class Space(Frozen):
    """Where one hyper-parameter may lie: either ``choices`` or ``low`` .. ``high``."""

    choices: Annotated[tuple[Value, ...] | None, Field(strict=False)] = None
    low: Bound = None
    high: Bound = None
    log: bool = False

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("write either choices or low and high, not both")
            if not self.choices or len(set(self.choices)) < len(self.choices):
                raise ValueError("choices must name at least one value, each once")
            return self
        if self.low is None or self.high is None:
            raise ValueError("a space needs choices, or low and high")
        if not self.low < self.high:
            raise ValueError(f"low = {self.low} must be below high = {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log space needs low above 0, not {self.low}")
        return self

    def of_type(self, numbers: type[int] | type[float] | None) -> Space:
        """The same space of a field that takes such numbers, whatever its ends look like: 0 .. 1 of floats holds 0.5.

        Args:
            numbers: see :func:`bench.spec.number_type`.

        Raises:
            SpecError: the field takes no range, or whole numbers only.
        """
        if self.choices is not None:
            return self
        if numbers is None:
            raise SpecError("is no number, so it has no range: name its choices")
        if numbers is float:
            assert self.low is not None
            assert self.high is not None
            return self.model_copy(update={"low": float(self.low), "high": float(self.high)})
        if not (isinstance(self.low, int) and isinstance(self.high, int)):
            raise SpecError(
                f"is a whole number, and its range is {self.low} to {self.high}: write both without a point"
            )
        return self

    def holds(self, value: Value) -> bool:
        """Whether a value lies in the space."""
        if self.choices is not None:
            return any(choice == value and type(choice) is type(value) for choice in self.choices)
        assert self.low is not None
        assert self.high is not None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high  # type: ignore[operator]

    @property
    def corners(self) -> tuple[Value, ...]:
        """Values that stand for the whole space when it is checked: the choices, integers (see MANY), or both ends."""
        low, high = self.low, self.high
        if self.choices is not None:
            return self.choices
        if not (isinstance(low, int) and isinstance(high, int)):
            return (low, high)
        if high - low < MANY:
            return tuple(range(low, high + 1))
        third = MANY // 3
        between = (low + (high - low) * part // third for part in range(third + 1))
        return tuple(sorted({*range(low, low + third), *between, *range(high - third + 1, high + 1)}))


class Belief(Frozen):
    """Values that are thought to be good, as published ones or an earlier study's best, and how much they count.

    The first trial of every row that they fit has exactly these values; of the other trials before a sampler begins to
    learn so large a share as ``weight`` is drawn around them. A wrong belief costs no more than that.
    """

    values: Annotated[dict[str, Value], Field(min_length=1)]
    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    source: str | None = None
    """Where they come from."""

    def __str__(self) -> str:
        values = ", ".join(f"{name} = {readable(value)}" for name, value in self.values.items())
        return f"{values} (weight {self.weight:g})"


Protocol = Literal["clean", "paper"]
"""How trials are measured: ``clean`` chooses on validation data and normalises as the backbone was trained; ``paper``
repeats arXiv 2404.17245, which chose on test data and fine-tuned with mean and deviation 0.5."""


Sampler = Literal["tpe", "gp", "nsga2", "qmc", "random", "grid"]
"""What proposes values: ``tpe`` (tree-structured Parzen estimator), ``gp`` (Gaussian process) and ``nsga2`` (evolution)
learn from results; ``qmc`` (a low-discrepancy sequence, the same for every row), ``random`` and ``grid`` do not."""

TRIAL_SEED = 1000
"""Search trials have this seed, or the next one that no confirmation has."""


class SearchContext(Frozen):
    """How the search was held that a trial belongs to, or whose outcome it confirms."""

    objective: str
    trials: int
    lag: int
    seed: int
    sampler: str = "tpe"
    beliefs: Annotated[tuple[str, ...], Field(strict=False)] = ()
    repeat: int | None = None
    """Which of several searches it is, from 0; None: it is the only one."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is as usual is not written down: what was written before there was anything else reads the same."""
        values: dict[str, Any] = handler(self)
        usual: dict[str, tuple[Any, ...]] = {"sampler": ("tpe",), "beliefs": ((), []), "repeat": (None,)}
        return {name: value for name, value in values.items() if value not in usual.get(name, ())}


def row_label(method: str, row: Mapping[str, Any]) -> str:
    """A leaderboard's row in short: the method, and what the row holds fixed."""
    return " ".join([method, *(f"{name}={readable(value)}" for name, value in row.items())])


class Study(Frozen):
    """A method, a search space and an objective; what one file of ``search_spaces/`` says."""

    name: Name
    method: str
    search: Annotated[
        dict[str, Space], Field(description="where fields of the method or of train may lie: choices, or low and high")
    ] = Field(default_factory=dict)
    fixed: Annotated[dict[str, Value], Field(description="fields of the method or of train with one value")] = Field(
        default_factory=dict
    )
    rows: Annotated[
        tuple[str, ...], Field(strict=False, description="searched fields whose choices are rows of the leaderboard")
    ] = ()
    objective: Annotated[
        Objective,
        Field(
            description="score by which configurations are chosen, a list of several, or one under constraints: "
            "{maximise: target_accuracy, subject_to: {forgetting: {max: 2}}}"
        ),
    ] = Objective(quantity="mean")
    trials: Annotated[int, Field(ge=1, le=100_000, description="search trials of each method")] = 12
    trials_per_row: Annotated[
        int | None, Field(ge=1, le=100_000, description="search trials of each row, in place of trials")
    ] = None
    confirm: Annotated[
        int,
        Field(ge=1, le=1000, description="where the objective is a list, configurations of the front to confirm"),
    ] = 3
    candidates: Annotated[
        Literal["last", "every"],
        Field(
            description="where the objective is a list, what of a trial may be on the front: its last model, or every "
            "one that was read (with a constant learning rate, schedule = none)"
        ),
    ] = "last"
    sampler: Annotated[
        Sampler, Field(description="what proposes values: tpe, gp, nsga2, qmc (quasi-random), random or grid")
    ] = "tpe"
    beliefs: Annotated[
        tuple[Belief, ...],
        Field(
            strict=False,
            description="values thought to be good, which the search begins with: [{values: {lr: 0.01}, weight: 0.5}], "
            "or of an earlier study [{record: FILE}]",
        ),
    ] = ()
    seeds: Annotated[
        tuple[Seed, ...],
        Field(strict=False, min_length=1, max_length=1000, description="seeds of the confirmation"),
    ] = (0, 1, 2)
    lag: Annotated[
        int,
        Field(
            ge=1,
            le=100_000,
            description="proposal n of the search knows the results of trials 0 to n - lag, on any hardware",
        ),
    ] = 8
    search_seed: Annotated[Seed, Field(description="seed of the search's proposals")] = 0
    repeats: Annotated[
        int,
        Field(ge=1, le=1000, description="searches, each with a seed and confirmations of its own; rows average them"),
    ] = 1
    repeat: Annotated[int, Field(ge=0, exclude=True)] = 0
    """Which of the searches this is; made by :attr:`searches`."""
    trial_minutes: Annotated[
        float,
        Field(gt=0, le=MINUTES, description="after so long a trial has failed, with where it stood; 1440 is a day"),
    ] = 1440.0
    scheduler: Annotated[Literal["none", "asha"], Field(description="what ends unpromising trials early")] = "none"
    protocol: Annotated[Protocol, Field(description="clean, or paper: chosen on test data, and marked so")] = "clean"
    train: Annotated[dict[str, Value], Field(description="fields of the recipe, see below")] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, not {list(self.seeds)}")
        for row in self.rows:
            if row not in self.search or self.search[row].choices is None:
                raise ValueError(f"rows names {row!r}, which is not a searched field with choices")
        if twice := sorted(set(self.search) & set(self.fixed)):
            raise ValueError(f"{twice[0]!r} is both searched and fixed")
        self._refuse_what_is_overruled()
        self._count_trials()
        self._refuse_rows_without_a_trial()
        self._refuse_what_cannot_be_searched()
        self._refuse_what_cannot_be_believed()
        self._refuse_what_cannot_be_repeated()
        return self

    def _refuse_what_cannot_be_repeated(self) -> None:
        if self.repeat:
            raise ValueError("repeat is counted when searches are repeated: set repeats")
        if self.repeats > 1 and self.objective.others:
            raise ValueError(
                f"repeats = {self.repeats} averages rows over searches, and the objective {self.objective} has a front "
                f"whose points differ from search to search: use repeats = 1, or one score"
            )
        if max(self.search_seed + self.repeats, (max(self.seeds) + 1) * self.repeats) > LARGEST_SEED:
            raise ValueError(f"repeats = {self.repeats} need seeds above {LARGEST_SEED}: choose smaller seeds")

    def _refuse_rows_without_a_trial(self) -> None:
        if self.trials < self.row_count:
            raise ValueError(
                f"trials = {self.trials} leaves some of the {self.row_count:,} rows without one, and such a row cannot "
                f"be confirmed: set trials={self.row_count} or more, or fewer choices of {' and '.join(self.rows)}"
            )

    def _count_trials(self) -> None:
        """``trials`` follows from ``trials_per_row``, if that is set."""
        if self.trials_per_row is None:
            return
        trials = self.trials_per_row * self.row_count
        if "trials" in self.model_fields_set and self.trials != trials:
            raise ValueError(
                f"trials = {self.trials} and trials_per_row = {self.trials_per_row} contradict each other: set only one"
            )
        object.__setattr__(self, "trials", trials)

    def _refuse_what_cannot_be_searched(self) -> None:
        objective = self.objective
        if self.candidates == "every" and not objective.others:
            raise ValueError(
                f"candidates = every makes a front of a trial's readings, and the objective {objective} has none: name "
                f"several scores, or use candidates = last"
            )
        if self.confirm != type(self).model_fields["confirm"].default and not objective.others:
            raise ValueError(
                f"confirm = {self.confirm} has no effect, as the objective {objective} confirms one configuration of "
                f"every row: name several scores, or leave out confirm"
            )
        others = (space.choices for name, space in self.search.items() if name not in self.rows)
        needed = math.prod(len(choices) for choices in others if choices is not None)
        if self.sampler == "grid" and needed * self.row_count > self.trials:
            raise ValueError(
                f"sampler grid needs {needed * self.row_count} trials for all choices, and trials = {self.trials}: set "
                f"trials={needed * self.row_count}, or choose another sampler"
            )

    def _refuse_what_cannot_be_believed(self) -> None:
        """Beliefs are about the space, and leave something of the first draws to chance, or all of it to them."""
        if self.beliefs and self.sampler in ("qmc", "grid"):
            raise ValueError(f"sampler {self.sampler} tries the same values whatever is believed: leave out beliefs")
        if (total := math.fsum(belief.weight for belief in self.beliefs)) > 1:
            raise ValueError(f"beliefs have weights of {total:g} together, and they are shares of trials: at most 1")
        for belief in self.beliefs:
            for name, value in belief.values.items():
                if name not in self.search:
                    raise ValueError(f"beliefs: {name} is not searched: name some of {', '.join(self.search)}")
                if not self.search[name].holds(value):
                    raise ValueError(f"beliefs: {name} = {readable(value)} does not lie in search.{name}: widen that")

    def _refuse_what_is_overruled(self) -> None:
        """A training field has one place in a study: what is searched or fixed would hide what ``train`` says."""
        for name, value in self.train.items():
            if name in self.search:
                written = json.dumps(value) if isinstance(value, str) else readable(value)
                raise ValueError(
                    f"train.{name} = {readable(value)} has no effect, as {name} is searched: set "
                    f"search.{name}={{choices: [{written}]}}, or search.{name}.low and search.{name}.high"
                )
            if name in self.fixed:
                raise ValueError(
                    f"train.{name} = {readable(value)} has no effect, as fixed.{name} is set: set only one"
                )

    @property
    def row_values(self) -> list[dict[str, Value]]:
        """The leaderboard rows: all combinations of the row fields' choices; one empty row without row fields."""
        choices = (self.search[row].choices or () for row in self.rows)
        return [dict(zip(self.rows, values, strict=True)) for values in itertools.product(*choices)]

    @property
    def row_count(self) -> int:
        """How many rows the leaderboard has."""
        return math.prod(len(self.search[row].choices or ()) for row in self.rows)

    @property
    def dealt_points(self) -> list[dict[str, Value]]:
        """What of each trial's values is not left to the search.

        A space that is no larger than the number of trials is tried completely. Otherwise the rows are dealt out in
        turn, so that all of them are tried equally often (or once less), and the search chooses the other fields.
        """
        rows = self.row_values
        others = {name: space.choices for name, space in self.search.items() if name not in self.rows}
        points: list[dict[str, Value]] = []
        finite = all(choices is not None for choices in others.values())
        if finite and len(rows) * math.prod(len(choices or ()) for choices in others.values()) <= self.trials:
            rests = itertools.product(*(choices or () for choices in others.values()))
            points = [{**row, **dict(zip(others, rest, strict=True))} for rest in rests for row in rows]
        dealt = (rows[index % len(rows)] for index in range(self.trials - len(points)))
        return points + (list(dealt) if self.rows else [])

    @property
    def trials_by_row(self) -> tuple[int, ...]:
        """How many search trials each row gets, in the order of ``row_values``: equally many, or for some one more."""
        if not self.rows:
            return (self.trials,)
        counts = Counter(tuple(point[name] for name in self.rows) for point in self.dealt_points)
        return tuple(counts[tuple(row.values())] for row in self.row_values)

    @property
    def search_context(self) -> SearchContext:
        """What the choice of a configuration depends on beside the space."""
        return SearchContext(
            objective=str(self.objective),
            trials=self.trials,
            lag=self.lag,
            seed=self.search_seed,
            sampler=self.sampler,
            beliefs=tuple(map(str, self.beliefs)),
            repeat=self.repeat if self.repeats > 1 else None,
        )

    @property
    def searches(self) -> list[Study]:
        """The study's searches, one after another, each with seeds that no other one has."""
        span = max(self.seeds) + 1
        return [
            self.model_copy(
                update={
                    "repeat": repeat,
                    "search_seed": self.search_seed + repeat,
                    "seeds": tuple(seed + repeat * span for seed in self.seeds),
                }
            )
            for repeat in range(self.repeats)
        ]

    def labelled(self, label: str) -> str:
        """A label of a trial or of the whole search, which names the repeat if it is not the first."""
        return f"repeat{self.repeat}-{label}" if self.repeat else label

    @property
    def trial_seed(self) -> int:
        """The seed of every search trial. No confirmation has it: the winner was selected for its luck with it, too."""
        return next(seed for seed in itertools.count(TRIAL_SEED + self.repeat) if seed not in self.seeds)

    @property
    def all_trials(self) -> int:
        """Trials of all searches and their confirmations."""
        return self.repeats * (self.trials + self.confirmations)

    @property
    def confirmations(self) -> int:
        """Trials of the confirmation: every row that is tried, or the points of a front (at most), with every seed."""
        configurations = self.confirm if self.objective.others else self.row_count
        return min(configurations, self.trials) * len(self.seeds)


class Suite(Frozen):
    """Studies that run one after another under one name and end in one leaderboard."""

    name: Name
    studies: tuple[Study, ...]

    @model_validator(mode="after")
    def _agree(self) -> Self:
        methods = [study.method for study in self.studies]
        if twice := sorted({method for method in methods if methods.count(method) > 1}):
            raise ValueError(
                f"two studies of one suite use the method {twice[0]!r}: their rows could not be told apart"
            )
        return self

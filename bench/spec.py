"""What a user asks for: studies, benchmarks, trials. Frozen, strict, and free of torch and Ray.

Every mistake is a :class:`SpecError` (a ``ValueError``) with one sentence that says what to write instead.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Value = bool | int | float | str | None
"""A hyper-parameter's value, as it stands in YAML and JSON."""

OBJECTIVES = {"mean": "max", "target_accuracy": "max", "source_accuracy": "max", "forgetting": "min"}
"""What a search may optimise (measured on validation data only), and in which direction."""


MANY = 100
"""Integers of a space that are each checked; of more than these only the ends are."""

LISTED = 30
"""Names that a message lists at most."""


class SpecError(ValueError):
    """A request that cannot be carried out; the message is one sentence a user can act on."""


def unknown(kind: str, name: str, known: Iterable[str]) -> SpecError:
    """The error for a name that does not exist, with the nearest one that does."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    listing = f" (known: {', '.join(known)})" if len(known) <= LISTED else ""
    return SpecError(f"unknown {kind} {name!r}{hint}{listing}")


class Frozen(BaseModel):
    """Base of every specification: immutable, strictly typed, and a field it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Spec = TypeVar("Spec", bound=Frozen)


def parse(model: type[Spec], values: Mapping[str, Any], *, where: str) -> Spec:
    """Build a specification from plain values, as they come out of YAML.

    Args:
        model: the specification's class.
        values: its fields.
        where: what is being read, for the message ("search_spaces/lora.yaml").

    Raises:
        SpecError: an unknown field, a wrong type or a value out of range; the first of them is named.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise SpecError(f"{where}: {explain(error, model)}") from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One sentence for the first thing that pydantic found wrong."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        owner = _owner(model, path[:-1])
        return str(unknown("field", ".".join(path), [".".join([*path[:-1], name]) for name in owner]))
    if first["type"] == "missing":
        return f"field {'.'.join(path)!r} is missing"
    message = first["msg"].removeprefix("Value error, ")
    if not path:
        return message
    if path[-1] in ("bool", "int", "float", "str"):  # pydantic names each member of Value that did not fit
        path.pop()
        message = "must be a finite number, a text, true, false or empty"
    return f"{'.'.join(path)} = {first['input']!r}: {message[0].lower()}{message[1:]}"


def _owner(model: type[BaseModel], path: list[str]) -> Iterable[str]:
    """Names of the fields of the specification that ``path`` leads to, as far as it can be followed."""
    for part in path:
        field = model.model_fields.get(part)
        inner = field.annotation if field else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            model = inner
        elif field and part == "search":
            model = Space
    return model.model_fields


class TrainConfig(Frozen):
    """How a trial trains. One optimizer step sees ``batch_size`` images, whatever the number of workers."""

    steps: Annotated[int, Field(ge=1, description="optimizer steps")] = 100
    epochs: Annotated[float | None, Field(gt=0, description="passes over the training images, instead of steps")] = None
    batch_size: Annotated[int, Field(ge=1, description="images a step, over all workers together")] = 64
    accumulate: Annotated[
        int, Field(ge=1, description="parts in which each worker computes a step, to save memory")
    ] = 1
    lr: Annotated[float, Field(gt=0, description="peak learning rate")] = 0.05
    optimizer: Annotated[Literal["sgd", "adam", "adamw"], Field(description="sgd, adam or adamw")] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1, description="of sgd")] = 0.9
    beta1: Annotated[float, Field(ge=0, lt=1, description="of adam and adamw, for the mean of the gradients")] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1, description="of adam and adamw, for their squares")] = 0.999
    weight_decay: Annotated[float, Field(ge=0, description="decay of every trainable tensor")] = 0.0
    schedule: Annotated[
        Literal["cosine", "none"], Field(description="learning rate after warm-up: cosine to zero, or none: constant")
    ] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0, description="steps of linear warm-up")] = 0
    clip_norm: Annotated[float | None, Field(gt=0, description="gradient norm limit, none if empty")] = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1, description="of the cross-entropy")] = 0.0
    mixup_alpha: Annotated[float, Field(ge=0, description="Mixup: its weights are Beta(alpha, alpha); 0: off")] = 0.0
    cutmix_alpha: Annotated[
        float, Field(ge=0, description="CutMix, likewise; with both on, a coin decides for each batch")
    ] = 0.0
    mix_prob: Annotated[float, Field(gt=0, le=1, description="share of the batches that are mixed")] = 1.0
    crop_min: Annotated[
        float, Field(gt=0, le=1, description="least share of an image that a random crop keeps; 1: no crop")
    ] = 1.0
    crop_max: Annotated[float, Field(gt=0, le=1, description="largest share of an image that a random crop keeps")] = (
        1.0
    )
    flip: Annotated[bool, Field(description="mirror every second image")] = False
    randaugment_n: Annotated[int, Field(ge=0, description="RandAugment: operations an image; 0: off")] = 0
    randaugment_m: Annotated[int, Field(ge=0, le=30, description="RandAugment: their magnitude, 0 to 30")] = 9
    trivial_augment: Annotated[bool, Field(description="TrivialAugment: one operation of random strength an image")] = (
        False
    )
    erase_prob: Annotated[
        float, Field(ge=0, le=1, description="share of the images of which a random rectangle is erased")
    ] = 0.0
    precision: Annotated[
        Literal["auto", "fp32", "tf32", "bf16", "fp16"],
        Field(
            description="of a training step: auto (bf16 on CUDA, else fp32), fp32, tf32 (as fp32 where there is no "
            "CUDA), bf16, or fp16 with scaling"
        ),
    ] = "auto"
    compile: Annotated[bool, Field(description="torch.compile the training step: slow to start, then faster")] = False
    views: Annotated[
        int | None,
        Field(
            ge=1, description="fixed augmented views of an image to train on, frozen blocks computed once; off if empty"
        ),
    ] = None
    val_every: Annotated[
        int, Field(ge=0, description="steps between validation readings; 0: only after the last step")
    ] = 0
    keep: Annotated[
        Literal["last", "best"], Field(description="model that is measured: the last, or the best on the target's val")
    ] = "last"
    start_from: Annotated[
        str | None, Field(min_length=1, description="record or checkpoint of a confirmed trial to start from")
    ] = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.epochs is None and self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps = {self.warmup_steps} leaves nothing of steps = {self.steps}")
        if self.crop_min > self.crop_max:
            raise ValueError(f"crop_min = {self.crop_min} is above crop_max = {self.crop_max}")
        if self.keep == "best" and not self.val_every:
            raise ValueError("keep = best needs readings to choose from: set val_every")
        if self.views and self.mixes:
            raise ValueError("views are fixed, and mixup_alpha and cutmix_alpha mix anew at each step: use one of them")
        if self.randaugment_n and self.trivial_augment:
            raise ValueError("randaugment_n and trivial_augment exclude each other: use one of them")
        self.check_shares()
        self._refuse_what_has_no_effect()
        return self

    def _refuse_what_has_no_effect(self) -> None:
        adam = self.optimizer != "sgd"
        idle = {
            "momentum": (adam, f"optimizer = {self.optimizer}"),
            "beta1": (not adam, "optimizer = sgd"),
            "beta2": (not adam, "optimizer = sgd"),
            "mix_prob": (not self.mixes, "mixup_alpha = 0 and cutmix_alpha = 0"),
            "randaugment_m": (not self.randaugment_n, "randaugment_n = 0"),
        }
        for name, (without_effect, setting) in idle.items():
            value = getattr(self, name)
            if without_effect and value != type(self).model_fields[name].default:
                raise ValueError(f"{name} = {value} has no effect with {setting}")

    @property
    def crops(self) -> bool:
        """Whether images are cropped or mirrored at random."""
        return self.crop_min < 1 or self.flip

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with each other."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0

    def check_shares(self, workers: int = 1) -> None:
        """Raise a ValueError if a batch cannot be cut into equal parts: over workers, ``accumulate``, mixed pairs."""
        ways = {f"--num-workers {workers}": workers, f"accumulate = {self.accumulate}": self.accumulate}
        ways["pairs of images that are mixed"] = 2 if self.mixes else 1
        if self.batch_size % math.prod(ways.values()):
            among = " x ".join(name for name, count in ways.items() if count > 1)
            raise ValueError(f"batch_size = {self.batch_size} does not divide among {among}")


class Backbone(Frozen):
    """A vision transformer and its weights."""

    name: Annotated[str, Field(description="tiny, a name of timm's, or an alias")]
    weights: Annotated[str | None, Field(description="a local file; random; timm's own if empty")] = None
    image_size: Annotated[int | None, Field(ge=1, description="pixels a side; the backbone's own if empty")] = None

    def __str__(self) -> str:
        return self.name + (f" ({self.weights})" if self.weights else "")


Count = Annotated[int | None, Field(ge=1)]
BadImages = Annotated[Literal["error", "skip"], Field(description="what an image file that cannot be read does")]
KeepDecoded = Annotated[bool, Field(description="decode picture files once, into a file below BENCH_DATA")]


class SourceData(Frozen):
    """What a backbone was pre-trained on, and how much of it a retention reading looks at.

    A reading while searching may look at less than one at the confirmation; each is compared with the untouched
    backbone on the same images.
    """

    name: Annotated[str, Field(description="data set, such as imagenet1k:/data/imagenet")]
    per_class: Annotated[Count, Field(description="bank images of each class while searching; all if empty")] = None
    queries: Annotated[Count, Field(description="query images of each class while searching; all if empty")] = None
    confirm_per_class: Annotated[Count, Field(description="bank images of each class at the confirmation")] = None
    confirm_queries: Annotated[Count, Field(description="query images of each class at the confirmation")] = None
    bad_images: BadImages = "error"
    keep_decoded: KeepDecoded = False

    def size(self, phase: Literal["search", "confirm"]) -> tuple[int | None, int | None]:
        """Bank and query images of each class in a phase; None: all of them."""
        searching = phase == "search"
        return (self.per_class, self.queries) if searching else (self.confirm_per_class, self.confirm_queries)


class TargetData(Frozen):
    """What a backbone is fine-tuned on."""

    name: Annotated[str, Field(description="data set, such as cifar100 or folder:/data/birds")]
    samples: Annotated[
        int | None,
        Field(ge=5, description="images to learn from: 4/5 for training, 1/5 for validation; all if empty"),
    ] = None
    bad_images: BadImages = "error"
    keep_decoded: KeepDecoded = False


@dataclass(frozen=True)
class Size:
    """The square that a picture file is decoded to: shorter side to ``pixels / crop_pct``, then the centre crop."""

    pixels: int
    crop_pct: float = 224 / 256
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


class Benchmark(Frozen):
    """Backbone, source, target and training budget under one name."""

    name: str
    summary: str
    backbone: Backbone
    source: Annotated[SourceData, Field(description="domain it was pre-trained on, whose loss is measured")]
    target: Annotated[TargetData, Field(description="data set it is fine-tuned on")]
    head_norm: Annotated[bool, Field(description="batch norm without parameters between the features and the head")] = (
        False
    )
    train: TrainConfig = TrainConfig()


class Space(Frozen):
    """Where one hyper-parameter may lie: either ``choices`` or ``low`` .. ``high``."""

    choices: Annotated[tuple[Value, ...] | None, Field(strict=False)] = None
    low: int | float | None = None
    high: int | float | None = None
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

    @property
    def corners(self) -> tuple[Value, ...]:
        """Values that stand for the whole space when it is checked: the choices, every integer, or both ends."""
        if self.choices is not None:
            return self.choices
        if isinstance(self.low, int) and isinstance(self.high, int) and self.high - self.low < MANY:
            return tuple(range(self.low, self.high + 1))
        return (self.low, self.high)


Protocol = Literal["clean", "paper"]
"""How trials are measured: ``clean`` chooses on validation data and normalises as the backbone was trained; ``paper``
repeats arXiv 2404.17245, which chose on test data and fine-tuned with mean and deviation 0.5."""


class Study(Frozen):
    """A method, a search space and an objective; what one file of ``search_spaces/`` says."""

    name: str
    method: str
    search: dict[str, Space] = Field(default_factory=dict)
    fixed: dict[str, Value] = Field(default_factory=dict)
    rows: Annotated[tuple[str, ...], Field(strict=False)] = ()
    objective: Literal["mean", "target_accuracy", "source_accuracy", "forgetting"] = "mean"
    trials: Annotated[int, Field(ge=1)] = 12
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)] = (0, 1, 2)
    scheduler: Literal["none", "asha"] = "none"
    protocol: Protocol = "clean"
    train: dict[str, Value] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, not {list(self.seeds)}")
        for row in self.rows:
            if row not in self.search or self.search[row].choices is None:
                raise ValueError(f"rows names {row!r}, which is not a searched field with choices")
        if twice := sorted(set(self.search) & set(self.fixed)):
            raise ValueError(f"{twice[0]!r} is both searched and fixed")
        return self

    @property
    def row_values(self) -> list[dict[str, Value]]:
        """The leaderboard rows: all combinations of the row fields' choices; one empty row without row fields."""
        choices = (self.search[row].choices or () for row in self.rows)
        return [dict(zip(self.rows, values, strict=True)) for values in itertools.product(*choices)]

    @property
    def row_count(self) -> int:
        """How many rows the leaderboard has."""
        return len(self.row_values)

    @property
    def dealt_points(self) -> list[dict[str, Value]]:
        """What of each trial's values is not left to the search.

        A space that is no larger than the number of trials is tried completely. Otherwise the rows are dealt out in
        turn, so that all of them are tried equally often (or once less), and the search chooses the other fields.
        """
        rows = self.row_values
        others = {name: space.choices for name, space in self.search.items() if name not in self.rows}
        complete: list[dict[str, Value]] = []
        if all(choices is not None for choices in others.values()):
            rests = itertools.product(*(choices or () for choices in others.values()))
            complete = [{**row, **dict(zip(others, rest, strict=True))} for rest in rests for row in rows]
        points = complete if len(complete) <= self.trials else []
        dealt = (rows[index % len(rows)] for index in range(self.trials - len(points)))
        return points + (list(dealt) if self.rows else [])

    @property
    def confirmations(self) -> int:
        """Trials of the confirmation: every row that is tried at all, with every seed."""
        return min(self.row_count, self.trials) * len(self.seeds)


class Suite(Frozen):
    """Studies that run one after another under one name and end in one leaderboard."""

    name: str
    studies: tuple[Study, ...]

    @model_validator(mode="after")
    def _agree(self) -> Self:
        found = [study.method for study in self.studies]
        if twice := sorted({method for method in found if found.count(method) > 1}):
            raise ValueError(
                f"two studies of one suite use the method {twice[0]!r}: their rows could not be told apart"
            )
        return self


class Trial(Frozen):
    """One configuration, to be trained once. Everything that its result depends on is in here."""

    id: str
    study: str
    benchmark: Benchmark
    method: str
    fields: dict[str, Any]
    """The method's hyper-parameters."""
    hyperparameters: dict[str, Value]
    """What the study chose: searched and fixed fields, of the method and of ``train``."""
    row: dict[str, Value]
    """The leaderboard row it belongs to, as values of the row fields."""
    train: TrainConfig
    seed: int
    phase: Literal["search", "confirm"]
    protocol: Protocol = "clean"


def make_trial(
    study: Study,
    benchmark: Benchmark,
    values: Mapping[str, Value],
    *,
    launch: str,
    label: str,
    seed: int,
    phase: Literal["search", "confirm"],
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
    )


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

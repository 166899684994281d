"""The recipe: how a trial trains."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from bench.spec.parsing import Frozen

MOST = 10_000_000
"""Nobody means more steps, images or parts than this."""


class TrainConfig(Frozen):
    """How a trial trains. One optimizer step sees ``batch_size`` images, whatever the number of workers."""

    steps: Annotated[int, Field(ge=1, le=MOST, description="optimizer steps")] = 100
    epochs: Annotated[
        float | None, Field(gt=0, le=MOST, description="passes over the training images, instead of steps")
    ] = None
    budget: Annotated[
        float, Field(gt=0, le=10_000, description="so many times the steps or epochs that are said otherwise")
    ] = 1.0
    """A trial's ``steps`` or ``epochs`` have it in them already, see :func:`bench.spec.make_trial`."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000, description="images a step, over all workers together")] = 64
    accumulate: Annotated[
        int, Field(ge=1, le=MOST, description="parts in which each worker computes a step, to save memory")
    ] = 1
    lr: Annotated[float, Field(gt=0, le=3.4e38, description="peak learning rate")] = 0.05
    optimizer: Annotated[Literal["sgd", "adam", "adamw"], Field(description="sgd, adam or adamw")] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1, description="of sgd")] = 0.9
    beta1: Annotated[float, Field(ge=0, lt=1, description="of adam and adamw, for the mean of the gradients")] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1, description="of adam and adamw, for their squares")] = 0.999
    weight_decay: Annotated[float, Field(ge=0, le=1000, description="decay of every trainable tensor")] = 0.0
    schedule: Annotated[
        Literal["cosine", "none"], Field(description="learning rate after warm-up: cosine to zero, or none: constant")
    ] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0, le=MOST, description="steps of linear warm-up")] = 0
    clip_norm: Annotated[float | None, Field(gt=0, description="gradient norm limit, none if empty")] = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1, description="of the cross-entropy")] = 0.0
    mixup_alpha: Annotated[
        float, Field(ge=0, le=1000, description="Mixup: its weights are Beta(alpha, alpha); 0: off")
    ] = 0.0
    cutmix_alpha: Annotated[
        float, Field(ge=0, le=1000, description="CutMix, likewise; with both on, a coin decides for each batch")
    ] = 0.0
    mix_prob: Annotated[float, Field(gt=0, le=1, description="share of the batches that are mixed")] = 1.0
    preprocess: Annotated[
        Literal["backbone", "paper"] | None,
        Field(
            description="of the target's images: backbone (as it was pre-trained), or paper (mean and deviation 0.5, "
            "picture files squashed, not cropped); if empty paper under protocol paper, else backbone"
        ),
    ] = None
    crop_min: Annotated[
        float, Field(gt=0, le=1, description="least share of an image that a random crop keeps; 1: no crop")
    ] = 1.0
    crop_max: Annotated[float, Field(gt=0, le=1, description="largest share of an image that a random crop keeps")] = (
        1.0
    )
    flip: Annotated[bool, Field(description="mirror every second image")] = False
    randaugment_n: Annotated[int, Field(ge=0, le=100, description="RandAugment: operations an image; 0: off")] = 0
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
    compile: Annotated[bool, Field(description="torch.compile for training: slow to start, then faster")] = False
    views: Annotated[
        int | None,
        Field(
            ge=1,
            le=MOST,
            description="fixed augmented views of an image to train on, frozen blocks computed once; off if empty",
        ),
    ] = None
    share_frozen: Annotated[
        bool, Field(description="compute once what frozen blocks make of an image, for all steps, readings and trials")
    ] = True
    val_every: Annotated[
        int,
        Field(
            ge=0,
            le=MOST,
            description="steps between validation readings of target and source; 0: only after the last step",
        ),
    ] = 0
    keep: Annotated[
        Literal["last", "best"],
        Field(description="model that is measured: the last, or the best by the objective on validation data"),
    ] = "last"
    checkpoint_minutes: Annotated[
        float,
        Field(ge=0, le=525_600, description="minutes between checkpoints that a cut trial goes on from; 0: none"),
    ] = 10.0
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

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What follows from the protocol is not written down: records of before it could be said read the same."""
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if (name, value) != ("preprocess", None)}

    @property
    def crops(self) -> bool:
        """Whether images are cropped or mirrored at random."""
        return self.crop_min < 1 or self.flip

    @property
    def augments(self) -> bool:
        """Whether the model gets something else of an image at every step."""
        distorts = self.randaugment_n > 0 or self.trivial_augment or self.erase_prob > 0
        return self.crops or distorts or self.mixes

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

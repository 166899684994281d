"""What is measured: backbone, source and target under one name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from bench.spec.parsing import Frozen
from bench.spec.text import Name
from bench.spec.train import TrainConfig


class Backbone(Frozen):
    """A vision transformer and its weights."""

    name: Annotated[str, Field(description="tiny, a name of timm's, or an alias")]
    weights: Annotated[str | None, Field(description="a local file; random; timm's own if empty")] = None
    checkpoint_key: Annotated[
        Literal["teacher", "student"] | None,
        Field(description="which network of a file of weights that holds both; the teacher if empty"),
    ] = None
    image_size: Annotated[
        int | None, Field(ge=1, le=4096, description="pixels a side; the backbone's own if empty")
    ] = None

    @model_validator(mode="after")
    def _has_a_file(self) -> Self:
        if self.checkpoint_key is not None and self.weights in (None, "random"):
            raise ValueError(
                f"checkpoint_key = {self.checkpoint_key} chooses a network of a file: name the file with weights"
            )
        return self

    def __str__(self) -> str:
        given = filter(None, (self.weights, self.checkpoint_key))
        return self.name + (f" ({', '.join(given)})" if self.weights else "")


Count = Annotated[int | None, Field(ge=1, le=1_000_000_000)]
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
        Field(
            ge=5,
            le=1_000_000_000,
            description="images to learn from: 4/5 for training, 1/5 for validation; all if empty",
        ),
    ] = None
    bad_images: BadImages = "error"
    keep_decoded: KeepDecoded = False


@dataclass(frozen=True)
class Size:
    """The square that a picture file is decoded to: shorter side to ``pixels / crop_pct``, then the centre crop.

    With ``squash`` both sides are brought to ``pixels / crop_pct``, whatever shape the picture has.
    """

    pixels: int
    crop_pct: float = 224 / 256
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    crop_mode: Literal["center", "squash"] = "center"


class Benchmark(Frozen):
    """Backbone, source, target and training budget under one name."""

    name: Name
    summary: str
    backbone: Backbone
    source: Annotated[SourceData, Field(description="domain it was pre-trained on, whose loss is measured")]
    target: Annotated[TargetData, Field(description="data set it is fine-tuned on")]
    head_norm: Annotated[bool, Field(description="batch norm without parameters between the features and the head")] = (
        False
    )
    measure_precision: Annotated[
        Literal["fp32", "tf32"],
        Field(
            description="of the forward passes that are measured: fp32, or tf32 (on CUDA several times faster, the "
            "last digits of the features lost; elsewhere the same)"
        ),
    ] = "fp32"
    train: TrainConfig = TrainConfig()

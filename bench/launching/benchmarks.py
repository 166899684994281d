"""Benchmarks by name: backbone, source, target and training budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.spec import (
    Backbone,
    Benchmark,
    SourceData,
    SpecError,
    TargetData,
    TrainConfig,
    check_name,
    parse,
    unknown,
)

PAPER = TrainConfig(steps=10_000, batch_size=128, lr=0.01, warmup_steps=500, crop_min=0.08, flip=True)
"""The recipe of arXiv 2404.17245 is SGD 0.9 without weight decay, cosine with 500 warm-up steps."""


def _real(target: str, name: str | None = None) -> Benchmark:
    """The paper's backbone, fine-tuned on a target; ``--source imagenet1k:<path>`` completes it."""
    return Benchmark(
        name=name or target,
        summary=f"DINO ViT-B/16 learns {target}; give --source imagenet1k:<path>",
        backbone=Backbone(name="vit_base_patch16_224.dino"),
        source=SourceData(name="imagenet1k", per_class=50, queries=10),
        target=TargetData(name=target),
        train=PAPER,
    )


TARGETS = ("cifar10", "cifar100", "pets37", "flowers102", "food101", "dtd", "stl10", "aircraft", "cars")

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        *map(_real, TARGETS),
        Benchmark(
            name="tiny",
            summary="embedded: a micro ViT that knows 21 classes of drawn shapes learns handwritten digits",
            backbone=Backbone(name="tiny"),
            source=SourceData(name="shapes"),
            target=TargetData(name="digits"),
            # A feature of this micro ViT varies far less than the features of a large one; without this a linear
            # head hardly learns in 150 steps (docs/benchmarks.md has the figures).
            head_norm=True,
            train=TrainConfig(steps=150, batch_size=64, lr=0.05),
        ),
    )
}


def get(name: str) -> Benchmark:
    """The benchmark of that name; ``folder:<path>`` is the paper's with a target of one's own.

    Raises:
        SpecError: there is none, or the folder's name cannot be that of a benchmark.
    """
    kind, colon, path = name.partition(":")
    if kind == "folder" and colon:
        if not path:
            raise SpecError("say which folder, as in --benchmark folder:/data/birds")
        values = {**_real("folder").model_dump(), "name": f"folder-{Path(path).name}", "target": {"name": name}}
        return parse(Benchmark, values, where="benchmark")
    if name not in BENCHMARKS:
        raise unknown("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]


PARTS = ("backbone", "source", "target", "head_norm")
"""These parts of a benchmark can be changed for one launch; training is changed through the study
(``train.<field>``)."""


def adapted(benchmark: Benchmark, changes: Mapping[str, Any]) -> Benchmark:
    """A benchmark with some fields changed, under a name that says what it is measured on.

    Args:
        changes: values by dotted name, such as ``source.per_class``; the bare name of a part means its name.

    Raises:
        SpecError: a field does not exist, or cannot take that value; or the name would be none.
    """
    values = benchmark.model_dump()
    if "backbone" in changes or "backbone.name" in changes:  # weights and head norm belong to the one that is replaced
        values |= {"backbone": {}, "head_norm": False}
    for path, value in changes.items():
        part, _, field = path.partition(".")
        if part == "head_norm":
            if field:
                raise SpecError(f"benchmark {benchmark.name!r}: head_norm is a value, not a group of fields")
            values[part] = value
        else:
            values[part][field or "name"] = _absolute(field or "name", value)
    changed = parse(Benchmark, values, where=f"benchmark {benchmark.name!r}")
    return changed.model_copy(
        update={"name": check_name("-".join([benchmark.name, *_differences(benchmark, changed)]))}
    )


def _absolute(field: str, value: Any) -> Any:
    """A value with its path made absolute, if it holds one: workers may run in another folder."""
    if field == "weights" and isinstance(value, str) and value != "random":
        return str(Path(value).absolute())
    kind, colon, path = value.partition(":") if field == "name" and isinstance(value, str) else ("", "", "")
    return f"{kind}:{Path(path).absolute()}" if colon and path else value


def _differences(old: Benchmark, new: Benchmark) -> Iterator[str]:
    """What makes results on two benchmarks incomparable, in words for a folder's name."""
    if new.source.name != old.source.name and not new.source.name.startswith(f"{old.source.name}:"):
        yield f"source-{_slug(new.source.name)}"
    if new.target.name != old.target.name:
        yield f"target-{_slug(new.target.name)}"
    if new.target.samples != old.target.samples:
        yield f"samples-{new.target.samples}"
    if new.backbone.name != old.backbone.name or new.backbone.weights != old.backbone.weights:
        yield f"backbone-{_slug(new.backbone.name).replace('/', '-')}"
        if new.backbone.weights:
            yield Path(new.backbone.weights).stem
    if new.backbone.checkpoint_key != old.backbone.checkpoint_key:
        yield new.backbone.checkpoint_key or "teacher"
    if new.backbone.image_size != old.backbone.image_size:
        yield f"{new.backbone.image_size}px"


def _slug(name: str) -> str:
    """A data set's name as part of a folder's name: of a path its last part."""
    kind, _, argument = name.partition(":")
    return "-".join(filter(None, [kind, Path(argument).name]))

"""Benchmarks by name: backbone, source, target and training budget."""

from __future__ import annotations

from bench.spec import Backbone, Benchmark, TrainConfig, unknown

PAPER = TrainConfig(steps=10_000, batch_size=128, lr=0.01, warmup_steps=500, crop_min=0.08, flip=True)
"""The recipe of arXiv 2404.17245: SGD 0.9 without weight decay, cosine with 500 warm-up steps."""


def _real(target: str) -> Benchmark:
    """The paper's backbone, fine-tuned on one of its targets; ``--source imagenet1k:<path>`` completes it."""
    return Benchmark(
        name=target,
        summary=f"DINO ViT-B/16 learns {target}; give --source imagenet1k:<path>",
        backbone=Backbone(name="vit_base_patch16_224.dino"),
        source="imagenet1k",
        source_per_class=50,
        target=target,
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
            source="shapes",
            target="digits",
            # A feature of this micro ViT varies far less than the features of a large one; without this a linear
            # head hardly learns in 150 steps (docs/benchmarks.md has the figures).
            head_norm=True,
            train=TrainConfig(steps=150, batch_size=64, lr=0.05),
        ),
    )
}


def get(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        SpecError: there is none.
    """
    if name not in BENCHMARKS:
        raise unknown("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]

"""Benchmarks by name: backbone, source, target and training budget."""

from __future__ import annotations

from bench.spec import Backbone, Benchmark, TrainConfig, unknown

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
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

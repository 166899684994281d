"""What the step is measured on: model, images, batch, steps; the same for us and for the peers."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.launching import benchmarks, studies
from bench.spec import Backbone, Benchmark, SourceData, TargetData, Trial, make_trial

METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "top_k": {"k": 3},
    "linear": {},
    "lora": {"rank": 8},
    "block_expansion": {"p": 3},
}
CLASSES = 10
CROP_MIN = 0.08


@dataclass(frozen=True)
class Work:
    """One model with its training budget. Augmentation: random crops of 8 to 100 % of the image, flips."""

    model: str
    """``tiny``, or a name of timm's."""
    batch: int
    steps: int
    precision: str
    images: str | None
    """Folder of pictures; the embedded digits, which lie in memory, if None."""

    @property
    def benchmark(self) -> Benchmark:
        """As a benchmark, with little to evaluate: only training is timed.

        The head norm of ``tiny`` is left out: the peers have none.
        """
        if self.images is None:
            source = SourceData(name="digits", per_class=2, queries=2)
            return benchmarks.get("tiny").model_copy(update={"head_norm": False, "source": source})
        folder = f"folder:{self.images}"
        backbone = Backbone(name=self.model, weights="random")
        source, target = SourceData(name=folder, per_class=2), TargetData(name=folder)
        return Benchmark(name="perf", summary="", backbone=backbone, source=source, target=target)

    def trial(self, method: str, *, steps: int | None = None) -> Trial:
        """As a trial of one method."""
        settings = {
            "steps": steps or self.steps,
            "batch_size": self.batch,
            "precision": self.precision,
            "crop_min": CROP_MIN,
            "flip": "true",
        }
        overrides = [f"train.{name}={value}" for name, value in settings.items()]
        study = studies.load(method, overrides=overrides).studies[0]
        return make_trial(
            study.model_copy(update={"rows": ()}),
            self.benchmark,
            {**METHODS[method], "lr": 0.01},
            launch="perf",
            label="perf",
            seed=0,
            phase="search",
        )


@functools.cache
def pictures(folder: Path, *, per_class: int) -> str:
    """Write ten classes of JPEG files of photographs' size, once; each holds smooth random colours."""
    random = np.random.default_rng(0)
    for split, count in (("train", per_class), ("val", 2), ("test", 2)):
        for number in range(CLASSES * count):
            path = folder / split / f"class{number % CLASSES}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            small = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
    return str(folder)

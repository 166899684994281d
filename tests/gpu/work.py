"""What is trained: trials of every method, on pictures that are written for the purpose."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from bench import data, methods, models, training
from bench.data import Images, Split, shapes
from bench.launching import studies
from bench.models import Preprocess
from bench.spec import Backbone, Benchmark, SourceData, TargetData, TrainConfig, Trial, make_trial
from bench.vit import Vit
from tests.gpu.scale import Scale
from tests.gpu.timing import device_of
from tests.performance import works

CLASSES = 10
DISTINCT = 8
"""So many JPEG files of a class differ; the others are links to these, and cost as much to decode."""


def chosen(scale: Scale) -> list[str]:
    """Names of the methods that are measured, the paper's first."""
    names = dict.fromkeys([*works.METHODS, *methods.names()])
    return [name for name in names if not scale.methods or name in scale.methods]


def jpegs(scale: Scale) -> str:
    """A folder of JPEG files of photographs' size, ten classes of them; written once."""
    folder, few = Path(scale.folder, "jpegs"), Path(scale.folder, "few")
    if folder.is_dir():
        return str(folder)
    per_class = scale.pictures // CLASSES
    works.pictures(few, per_class=min(DISTINCT, per_class))
    new = Path(tempfile.mkdtemp(dir=scale.folder))  # it is renamed when it is whole
    for path in sorted(few.glob("*/*/*.jpg")):
        place = new / path.relative_to(few).parent
        place.mkdir(parents=True, exist_ok=True)
        copies = -(-per_class // DISTINCT) if "train" in place.parts else 1
        for number in range(copies):
            os.link(path, place / f"{path.stem}-{number}.jpg")
    new.rename(folder)
    return str(folder)


def drawn(scale: Scale) -> str:
    """A folder of drawn shapes, which the embedded backbone can learn; written once."""
    folder = Path(scale.folder, "shapes")
    if folder.is_dir():
        return str(folder)
    images, labels = shapes.generate(count=scale.drawn * shapes.NUM_CLASSES, seed=1)
    new = Path(tempfile.mkdtemp(dir=scale.folder))  # it is renamed when it is whole
    seen: Counter[int] = Counter()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        part = ("train", "train", "train", "val", "test")[seen[label] % 5]
        seen[label] += 1
        path = new / part / f"class{label:02}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    new.rename(folder)
    return str(folder)


def check_trial(method: str, scale: Scale, *, phase: Literal["search", "confirm"] = "search", **train: Any) -> Trial:
    """A short trial of the embedded backbone on drawn shapes: real weights, and something to learn."""
    name = f"folder:{drawn(scale)}"
    benchmark = Benchmark(
        name="gpu",
        summary="",
        backbone=models.TINY,
        source=SourceData(name=name),
        target=TargetData(name=name),
        head_norm=True,
    )
    return _trial(
        method, benchmark, phase=phase, **{"steps": scale.check_steps, "batch_size": scale.check_batch, **train}
    )


def speed_trial(method: str, scale: Scale, **train: Any) -> Trial:
    """A trial of the model whose speed is measured, with crops and flips."""
    name = f"folder:{jpegs(scale)}"
    benchmark = Benchmark(
        name="gpu",
        summary="",
        backbone=Backbone(name=scale.model, weights="random"),
        source=SourceData(name=name, per_class=2),
        target=TargetData(name=name),
    )
    recipe = {"steps": scale.steps, "batch_size": scale.batch, "crop_min": works.CROP_MIN, "flip": True, **train}
    return _trial(method, benchmark, phase="search", **{"precision": "bf16", **recipe})


def _trial(method: str, benchmark: Benchmark, *, phase: Literal["search", "confirm"], **train: Any) -> Trial:
    study = studies.load(method).studies[0]
    least = {name: space.corners[0] for name, space in study.search.items()}
    recipe = TrainConfig(**{"warmup_steps": 0, **train})
    return make_trial(
        study.model_copy(update={"rows": (), "train": {}}),
        benchmark.model_copy(update={"train": recipe}),
        {**least, **works.METHODS.get(method, {}), "lr": 0.01},
        launch="gpu",
        label=phase,
        seed=0,
        phase=phase,
    )


def model_of(trial: Trial, scale: Scale, classes: int = CLASSES) -> tuple[Vit, training.Terms]:
    """The model that a trial trains, on the device, and what its method says of training."""
    torch.manual_seed(0)
    place = device_of(scale)
    vit = models.build(trial, classes, place)
    method = methods.load(trial.method, **trial.fields)
    return vit, training.terms_of(method, vit, lambda: models.untouched(trial.benchmark.backbone, place))


def in_memory(scale: Scale) -> tuple[Split, Preprocess]:
    """Random uint8 pictures at the model's size, as a cache of decoded pictures holds them."""
    preprocess = models.preprocess(Backbone(name=scale.model))
    count = 4 * scale.batch
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, preprocess.size, preprocess.size), dtype=torch.uint8, generator=draw)
    return Images(pixels, torch.arange(count) % CLASSES), preprocess


def in_files(scale: Scale, *, keep_decoded: bool = False) -> tuple[Split, Preprocess]:
    """The JPEG files."""
    preprocess = models.preprocess(Backbone(name=scale.model))
    found = data.target(f"folder:{jpegs(scale)}", size=preprocess.files, keep_decoded=keep_decoded)
    return found.train, preprocess


def batch(scale: Scale) -> tuple[torch.Tensor, torch.Tensor]:
    """One normalised batch on the device, and its labels."""
    images, preprocess = in_memory(scale)
    indices = torch.arange(scale.batch)
    place = device_of(scale)
    return preprocess(images.take(indices).to(place)), images.labels[indices].to(place)

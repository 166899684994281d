"""Trained models after a study: measure them again, export them to plain timm, look at pictures with them.

A confirmed trial keeps its trained tensors only, beside its record: ``checkpoints/<trial>.safetensors``. Backbone and
method give the rest; a trial that started from another keeps all tensors.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench import backbones, evaluation, methods, records, trial
from bench.data._files import decode
from bench.records import Record
from bench.spec import Backbone
from bench.trial import load

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Evaluation:
    """A confirmed trial, measured again from its file. ``confusion[i, j]``: images of class i that were called j."""

    record: Record
    scores: Mapping[str, float]
    target_top5: float
    confusion: Tensor

    @property
    def deviation(self) -> float:
        """Largest absolute difference between what was measured now and what the record says, in points."""
        return max(abs(value - float(getattr(self.record, name))) for name, value in self.scores.items())

    @property
    def per_class(self) -> list[tuple[int, int, float]]:
        """Class, test images, accuracy in percent."""
        totals = self.confusion.sum(1)
        return [
            (index, int(totals[index]), 100 * int(self.confusion[index, index]) / max(1, int(totals[index])))
            for index in range(len(totals))
        ]


def evaluate(path: Path, device: torch.device = CPU) -> Evaluation:
    """Measure target test accuracy and source retention of a confirmed trial again."""
    record, spec, vit = load(path, device)
    benchmark = spec.benchmark
    measured = trial.measure(spec, vit, device)
    test = trial.target_of(benchmark).test
    predicted = evaluation.map_images(vit, test, backbones.preprocess(benchmark.backbone), device).argmax(1).cpu()
    classes = trial.target_of(benchmark).num_classes
    confusion = torch.bincount(test.labels * classes + predicted, minlength=classes**2).view(classes, classes)
    return Evaluation(record, measured.scores, measured.details["target_top5"], confusion)


def write_evaluation(found: Evaluation, folder: Path) -> None:
    """Write ``per_class.csv`` and ``confusion.png``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "images", "accuracy"])
    writer.writerows(found.per_class)
    records.write_atomically(folder / "per_class.csv", text.getvalue())
    _draw_confusion(found, folder / "confusion.png")


def _draw_confusion(found: Evaluation, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    share = found.confusion / found.confusion.sum(1, keepdim=True).clamp(min=1)
    figure, axes = pyplot.subplots(figsize=(6, 5), dpi=150, layout="constrained")
    image = axes.imshow(100 * share, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, label="percent of the class")
    axes.set(xlabel="predicted class", ylabel="true class", title=found.record.trial)
    figure.savefig(path)
    pyplot.close(figure)


def export(path: Path, out: Path) -> Sequence[str]:
    """Write a confirmed trial's model as a plain timm state dict: updates merged, inserted blocks as more depth.

    Returns:
        Python lines that load it with timm alone.
    """
    record, spec, vit = load(path, CPU)
    method = methods.load(spec.method, **spec.fields)
    merged = backbones.fold_head_norm(method.merge(vit))
    weights = {name: value.contiguous() for name, value in merged.state_dict().items()}
    backbone, depth = spec.benchmark.backbone, len(merged.blocks)
    classes = trial.target_of(spec.benchmark).num_classes
    facts = {
        "backbone": backbone.model_dump_json(),
        "depth": depth,
        "num_classes": classes,
        "target": spec.benchmark.target.name,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, out, metadata={key: str(value) for key, value in {**facts, "record": record.trial}.items()})
    return [
        "import timm, safetensors.torch",
        f"model = {backbones.constructor(backbone, num_classes=classes, depth=depth)}",
        f"model.load_state_dict(safetensors.torch.load_file({str(out)!r}))",
    ]


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of one picture, best first, with their probabilities in percent."""

    image: Path
    classes: tuple[int, ...]
    percent: tuple[float, ...]


def predict(model: Path, images: Sequence[Path], *, top: int = 5) -> list[Prediction]:
    """Classify pictures with an exported model.

    Raises:
        ValueError: the model was not made by :func:`export`, or a picture cannot be read.
    """
    vit, backbone = _load_export(model)
    preprocess = backbones.preprocess(backbone)
    pixels = torch.stack([decode(path, preprocess.files) for path in images])
    with torch.inference_mode():
        probabilities = vit(preprocess(pixels)).softmax(1)
    best = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
    return [
        Prediction(path, tuple(classes), tuple(100 * value for value in values))
        for path, classes, values in zip(images, best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _load_export(model: Path) -> tuple[Any, Backbone]:
    if not model.is_file():
        raise ValueError(f"there is no model {model}; python -m bench export makes one")
    try:
        with safe_open(model, framework="pt") as file:
            facts = file.metadata() or {}
        backbone = Backbone.model_validate_json(facts["backbone"])
        vit = backbones.plain(backbone, num_classes=int(facts["num_classes"]), depth=int(facts["depth"]))
        vit.load_state_dict(load_file(model))
    except (KeyError, OSError, RuntimeError) as error:
        raise ValueError(f"{model} was not written by python -m bench export ({error})") from None
    return vit.eval(), backbone

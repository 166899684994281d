"""Trained models after a study: measure them again, export them to plain timm, look at pictures with them.

A confirmed trial keeps its trained tensors only, beside its record: ``checkpoints/<trial>.safetensors``. Backbone and
method give the rest; a trial that started from another keeps all tensors.
"""

from __future__ import annotations

import csv
import dataclasses
import glob
import io
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Json, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench import data, folder, methods, models, records
from bench.measuring import Meter, map_images
from bench.models import Preprocess, Setting
from bench.readings import Reading
from bench.records import Record
from bench.spec import Backbone, SpecError, Trial, explain
from bench.vit import Vit

NAMED_CLASSES = 40
"""A confusion matrix has room for the names of so many classes."""

BATCH = 64
"""So many pictures are classified at once."""


def class_names(target: data.Target) -> Sequence[str]:
    """A target's class names; their numbers if it has none."""
    return target.class_names or [str(label) for label in range(target.num_classes)]


@dataclass(frozen=True)
class Evaluation:
    """A confirmed trial, measured again from its file. ``confusion[i, j]``: images of class i that were called j."""

    record: Record
    device: torch.device
    readings: Sequence[Reading]
    classes: Sequence[str]
    confusion: Tensor

    @property
    def pairs(self) -> dict[str, tuple[float, float]]:
        """Every measurement that the record has too: now, and what the record says."""
        again = self.record.model_copy(update={"readings": tuple(self.readings)})
        now, recorded = _numbers(again), _numbers(self.record)
        return {name: (value, recorded[name]) for name, value in now.items() if name in recorded}

    @property
    def deviation(self) -> float:
        """Largest absolute difference between what was measured now and what the record says, in points."""
        return max(abs(now - then) for now, then in self.pairs.values())

    @property
    def comparable(self) -> bool:
        """Whether this was measured on the kind of device that the record was made on, so that nothing may differ."""
        here = {torch.cuda.get_device_name(self.device)} if self.device.type == "cuda" else set()
        return here == set(_devices(self.record))

    @property
    def per_class(self) -> list[tuple[int, str, int, float]]:
        """Class, its name, test images, accuracy in percent."""
        totals = self.confusion.sum(1)
        return [
            (index, name, int(totals[index]), 100 * int(self.confusion[index, index]) / max(1, int(totals[index])))
            for index, name in enumerate(self.classes)
        ]


def _numbers(record: Record) -> dict[str, float]:
    """Scores and readings of a record by name, in percent: of the untouched backbone and of the model that was kept."""
    kept = [reading for reading in record.readings if reading.step in (0, record.measured_step)]
    named = {f"{reading.name} {name}": value for reading in kept for name, value in reading.numbers.items()}
    return {**record.scores_of(), **named}


def _devices(record: Record) -> list[str]:
    """Accelerators that a record was made on; none: the CPU."""
    devices: list[str] = record.provenance.get("hardware", {}).get("devices", [])
    return devices


def device_for(record: Record, asked: str | None) -> torch.device:
    """Where to measure a trial again: as asked, else on the kind of device it was made on if there is one here.

    Raises:
        ValueError: what is asked for is not here.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: there is no CUDA device here")
    recorded = "cuda" if _devices(record) and torch.cuda.is_available() else "cpu"
    return torch.device(asked or recorded)


def _restored(path: Path) -> tuple[Record, Trial, Vit]:
    record, weights = folder.trained(path)
    try:
        Trial.model_validate_json(json.dumps(record.config))
    except ValidationError as error:
        raise ValueError(f"{path}: config is not a trial's: {explain(error, Trial)}") from None
    try:
        return models.load(path)
    except (KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{weights} does not hold the tensors of {record.trial} ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def evaluate(path: Path, device: str | None = None) -> Evaluation:
    """Measure target test accuracy and source retention of a confirmed trial again.

    Args:
        path: the record's file.
        device: ``cpu`` or ``cuda``; by default the record's.

    Raises:
        ValueError: it is no record, its tensors were not kept or are damaged; or see :func:`device_for`.
    """
    record, spec, vit = _restored(path)
    setting = Setting.of(spec, device_for(record, device))
    vit = vit.to(setting.device)
    meter, target = Meter(spec, setting), setting.target
    meter.measure_all(vit, record.measured_step, methods.load(spec.method, **spec.fields))
    with meter.computing():
        predicted = map_images(vit, target.test, setting.preprocess, setting.device).argmax(1).cpu()
    count = target.num_classes
    confusion = torch.bincount(target.test.labels * count + predicted, minlength=count**2).view(count, count)
    return Evaluation(record, setting.device, meter.readings, class_names(target), confusion)


def write_evaluation(again: Evaluation, folder: Path) -> None:
    """Write ``per_class.csv`` and ``confusion.png``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "name", "images", "accuracy"])
    writer.writerows(again.per_class)
    records.write_atomically(folder / "per_class.csv", text.getvalue())
    _draw_confusion(again, folder / "confusion.png")


def _draw_confusion(again: Evaluation, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    share = again.confusion / again.confusion.sum(1, keepdim=True).clamp(min=1)
    count = len(again.classes)
    named = count <= NAMED_CLASSES
    side = max(5, 0.25 * count) if named else 5
    figure, axes = pyplot.subplots(figsize=(side + 1, side), dpi=150, layout="constrained")
    image = axes.imshow(100 * share, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, label="percent of the class")
    axes.set(xlabel="predicted class", ylabel="true class", title=again.record.trial)
    axes.title.set_parse_math(False)
    if named:
        axes.set_xticks(range(count), again.classes, rotation=90, parse_math=False)
        axes.set_yticks(range(count), again.classes, parse_math=False)
    figure.savefig(path)
    pyplot.close(figure)


@dataclass(frozen=True)
class Merged:
    """A confirmed trial's model as plain timm modules, in evaluation mode: updates merged, inserted blocks as depth."""

    record: Record
    backbone: Backbone
    preprocess: Preprocess
    target: data.Target
    model: Vit

    @property
    def depth(self) -> int:
        """Its transformer blocks."""
        return len(self.model.blocks)

    @property
    def facts(self) -> dict[str, str]:
        """What an export says of itself."""
        return {
            "record": self.record.trial,
            "backbone": self.backbone.model_dump_json(),
            "depth": str(self.depth),
            "num_classes": str(self.target.num_classes),
            "class_names": json.dumps(list(class_names(self.target))),
            "preprocess": json.dumps(dataclasses.asdict(self.preprocess)),
        }

    @property
    def example(self) -> Tensor:
        """Two normalised test images."""
        return self.preprocess(self.target.test.take(torch.arange(2)))


def check_out(out: Path) -> None:
    """Refuse a file that cannot be written to, before a model is built for it; its folder is made if need be.

    Raises:
        ValueError: it cannot.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            strange = out.exists() and not out.is_file()
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written to: {error.strerror}") from None
    if strange:
        raise ValueError(f"--out {out} cannot be written to: it is no regular file")


def merge(path: Path) -> Merged:
    """A confirmed trial's model, see :class:`Merged`.

    Raises:
        ValueError: as for :func:`evaluate`; or what the method trains cannot be merged.
    """
    record, spec, vit = _restored(path)
    method = methods.load(spec.method, **spec.fields)
    if not method.mergeable:
        raise ValueError(f"{path}: what {spec.method} trains cannot be merged into plain timm modules")
    setting = Setting.of(spec, models.CPU)
    model = models.fold_head_norm(method.merge(vit)).eval()
    return Merged(record, spec.benchmark.backbone, setting.preprocess, setting.target, model)


def export(merged: Merged, out: Path) -> Sequence[str]:
    """Write a model as a plain timm state dict.

    Returns:
        Python lines that load it with timm alone.

    Raises:
        ValueError: the file cannot be written.
    """
    check_out(out)
    weights = {name: value.contiguous() for name, value in merged.model.state_dict().items()}
    try:
        save_file(weights, out, metadata=merged.facts)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"--out {out} cannot be written to: {error}") from None
    build = models.constructor(merged.backbone, num_classes=merged.target.num_classes, depth=merged.depth)
    return [
        "import timm, safetensors.torch",
        f"model = {build}.eval()",
        f"model.load_state_dict(safetensors.torch.load_file({str(out)!r}))",
    ]


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of one picture, best first, with their probabilities in percent."""

    image: Path
    classes: tuple[str, ...]
    percent: tuple[float, ...]


def predict(model: Path, images: Sequence[str | Path], *, top: int = 5) -> Iterator[Prediction]:
    """Classify pictures with an exported model.

    Args:
        images: picture files, folders of them, or patterns such as ``holiday/*.jpg``.

    Raises:
        ValueError: the model was not made by :func:`export` or gives no probabilities; there is no such picture, or it
            cannot be read.
    """
    vit, preprocess, names = _load_export(model)
    files = pictures(images).pictures
    for paths in (files[start : start + BATCH] for start in range(0, len(files), BATCH)):
        with torch.inference_mode():
            probabilities = vit(preprocess.of_files(paths)).softmax(1)
        if not probabilities.isfinite().all():
            raise ValueError(f"{model} gives no probabilities: its weights are damaged, or its training diverged")
        best = probabilities.topk(min(top, len(names)), dim=1)
        for path, labels, shares in zip(paths, best.indices.tolist(), best.values.tolist(), strict=True):
            yield Prediction(path, tuple(names[label] for label in labels), tuple(100 * share for share in shares))


def pictures(images: Sequence[str | Path]) -> data.Listing:
    """Picture files that are named, lie in a named folder, or match a pattern; what is hidden counts if it is named.

    Raises:
        ValueError: there are none for one of these.
    """
    every = data.Listing([], Counter())
    for image in map(Path, images):
        if image.exists():
            matches = [image]
        else:
            found = sorted(map(Path, glob.glob(str(image), recursive=True)))  # noqa: PTH207 - Path takes no absolute ones
            outermost = [path for path in found if not set(path.parents) & set(found)]  # folders hold theirs
            matches = [path for path in outermost if not any(map(data.is_hidden, set(path.parts) - set(image.parts)))]
        listings = [data.listing(path) if path.is_dir() else data.Listing([path], Counter()) for path in matches]
        own = list(dict.fromkeys(path for found in listings for path in found.pictures))
        left_out = sum((found.left_out for found in listings), Counter[str]())
        if not own:
            missing = f"{image} holds no pictures{data.but(left_out)}" if matches else f"there is no picture {image}"
            raise SpecError(missing)
        every.pictures.extend(own)
        every.left_out.update(left_out)
    if strange := next((file for file in every.pictures if not file.is_file()), None):  # a pipe would be waited for
        raise SpecError(f"{strange} is no picture: it is {'a folder' if strange.is_dir() else 'no regular file'}")
    return every


class Facts(BaseModel):
    """What an export says of itself, checked; :attr:`Merged.facts` writes it."""

    model_config = ConfigDict(frozen=True)

    record: str
    backbone: Json[Backbone]
    depth: int
    num_classes: int
    class_names: Json[tuple[str, ...]]
    preprocess: Json[Preprocess]

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if len(self.class_names) != self.num_classes:
            raise ValueError(f"it has {self.num_classes} classes and {len(self.class_names)} names of classes")
        if not (len(self.preprocess.mean) == len(self.preprocess.std) == 3 and 0 not in self.preprocess.std):
            raise ValueError("preprocess needs mean and std of three channels, no std of which is 0")
        return self


def _load_export(model: Path) -> tuple[Vit, Preprocess, Sequence[str]]:
    if not model.is_file():
        raise ValueError(f"there is no model {model}; python -m bench export makes one")
    try:
        with safe_open(model, framework="pt") as file:
            facts = Facts.model_validate(file.metadata() or {})
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
        _check_shapes(facts, shapes)
        vit = models.plain(facts.backbone, num_classes=facts.num_classes, depth=facts.depth)
        vit.load_state_dict(load_file(model))
    except ValidationError as error:
        raise ValueError(f"{model} was not written by python -m bench export: {explain(error, Facts)}") from None
    except (AssertionError, OSError, RuntimeError, SafetensorError, SpecError, TypeError) as error:  # timm asserts, too
        raise ValueError(f"{model} was not written by python -m bench export ({_first_line(error)})") from None
    return vit.eval(), facts.preprocess, facts.class_names


def _check_shapes(facts: Facts, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse facts that are not those of the tensors, before a model of any size is built after them.

    Raises:
        RuntimeError: as torch says it of tensors that do not fit.
    """
    blocks = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
    classes = shapes.get("head.weight", (0,))[0]
    if (len(blocks), classes) != (facts.depth, facts.num_classes):
        raise RuntimeError(
            f"it says {facts.depth} blocks and {facts.num_classes} classes, and holds {len(blocks)} and {classes}"
        )
    with models.shapes_only():
        expected = models.plain(facts.backbone, num_classes=facts.num_classes, depth=facts.depth).state_dict()
    if wrong := [name for name, value in expected.items() if shapes.get(name) != tuple(value.shape)]:
        raise RuntimeError(f"its {wrong[0]} is not that of a {facts.backbone}")
    if facts.preprocess.size != models.preprocess(facts.backbone).size:
        raise RuntimeError(f"a {facts.backbone} does not take pictures of {facts.preprocess.size} pixels")

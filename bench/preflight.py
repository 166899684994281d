"""Before anything expensive starts: everything a launch needs is looked up, laid together and checked."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import benchmarks, data, methods, resources, studies, tracking
from bench.resources import Plan
from bench.spec import Backbone, Benchmark, SpecError, Suite, TrainConfig


@dataclass(frozen=True)
class Launch:
    """A checked request. ``plan`` is None where the resources are those of a cluster that is not joined yet."""

    suite: Suite
    benchmark: Benchmark
    results: Path
    tracking_uri: str
    workers: int
    slots: int | None
    address: str | None
    plan: Plan | None

    def run(self) -> int:
        """Carry it out; returns the exit code."""
        from bench import study

        if self.address is None:  # on a cluster every node fetches for itself, when its first trial needs the data
            for name in (self.benchmark.source, self.benchmark.target):
                data.fetch(name)

        return study.run(
            self.suite,
            self.benchmark,
            study.Options(
                results=self.results,
                tracking_uri=self.tracking_uri,
                workers=self.workers,
                slots=self.slots,
                address=self.address,
                cores=resources.cores(),
                gpus=resources.gpus(),
            ),
        )

    def describe(self) -> str:
        """What would run, and on what: the text of ``--dry-run``. Builds the models to count their parameters."""
        from bench import plans

        where = self.plan.describe() if self.plan else f"the Ray cluster at {self.address}, as large as it is then"
        return "\n".join(
            [
                *plans.describe(self.suite, self.benchmark),
                f"Resources: {where}",
                f"Results:   {self.results / self.suite.name / self.benchmark.name}",
                f"MLflow:    {self.tracking_uri}",
                "Nothing was started (--dry-run).",
            ]
        )


def prepare(
    *,
    study: str | None,
    benchmark: str,
    results: Path,
    backbone: str | None = None,
    weights: str | None = None,
    image_size: int | None = None,
    source: str | None = None,
    source_per_class: int | None = None,
    target: str | None = None,
    workers: int = 1,
    trials: int | None = None,
    seeds: Sequence[int] | None = None,
    slots: int | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
    overrides: Sequence[str] = (),
) -> Launch:
    """Check a request of the command line.

    Raises:
        SpecError: it cannot be carried out; the message is one sentence that says why.
    """
    if study is None:
        raise SpecError(f"say which study to run with --study (there are: {', '.join(studies.names())})")
    for name, value in (("--num-workers", workers), ("--slots", slots), ("--trials", trials)):
        if value is not None and value < 1:
            raise SpecError(f"{name} must be at least 1, not {value}")
    settings = {name: value for name, value in (("trials", trials), ("seeds", seeds)) if value is not None}
    chosen = _with_data(benchmarks.get(benchmark), source, target, source_per_class)
    chosen = _with_backbone(chosen, name=backbone, weights=weights, image_size=image_size)
    suite = studies.load(study, overrides=overrides, settings=settings)
    depth = _depth(chosen.backbone)
    for member in suite.studies:
        studies.check(member, chosen, depth=depth, workers=workers)
    plan = None
    if address is None:
        plan = resources.plan(cores=resources.cores(), gpus=resources.gpus(), workers=workers, slots=slots)
    results = _writable(results)
    uri = tracking_uri or tracking.default_uri(results)
    _trackable(uri)
    return Launch(suite, chosen, results, uri, workers, slots, address, plan)


TINY_DEPTH = 12
"""Of the embedded backbone, known without importing torch and timm, so that most mistakes are answered at once."""


def _depth(backbone: Backbone) -> int:
    """Transformer blocks of a backbone; one that is not embedded is built, so that its weights are known to fit."""
    if backbone == Backbone(name="tiny"):
        return TINY_DEPTH
    from bench import backbones

    if backbone.weights not in (None, "random"):
        backbones.create(backbone, num_classes=0)
    return backbones.depth(backbone)


def _with_backbone(benchmark: Benchmark, *, name: str | None, weights: str | None, image_size: int | None) -> Benchmark:
    """The benchmark with another backbone, under a name that says so."""
    if name is None and weights is None and image_size is None:
        return benchmark
    if weights is not None and weights != "random":
        weights = str(Path(weights).absolute())
    own = benchmark.backbone
    kept = own.weights if name is None else None
    other = Backbone(name=name or own.name, weights=weights or kept, image_size=image_size or own.image_size)
    parts = [benchmark.name, f"backbone-{other.name}", *([Path(other.weights).stem] if other.weights else [])]
    changed = {"backbone": other, "name": "-".join(parts), "head_norm": benchmark.head_norm and name is None}
    return benchmark.model_copy(update=changed)


def _with_data(benchmark: Benchmark, source: str | None, target: str | None, per_class: int | None) -> Benchmark:
    """The benchmark with another source or target, under a name that says so."""
    parts = [benchmark.name]
    completed = source is not None and source.startswith(f"{benchmark.source}:")  # only says where the source lies
    others = (("source", None if completed else source), ("target", target))
    parts += [f"{role}-{_slug(name)}" for role, name in others if name is not None]
    changed = {"source": _absolute(source or benchmark.source), "target": _absolute(target or benchmark.target)}
    data.check(changed["source"], "source")
    data.check(changed["target"], "target")
    more = {"name": "-".join(parts), "source_per_class": per_class or benchmark.source_per_class}
    return benchmark.model_copy(update={**changed, **more})


def _absolute(name: str) -> str:
    """A data set's name with an absolute path: workers may run in another folder."""
    kind, colon, argument = name.partition(":")
    return f"{kind}:{Path(argument).absolute()}" if colon and argument else name


def _slug(name: str) -> str:
    """A data set's name as part of a folder's name: of a path its last part."""
    kind, _, argument = name.partition(":")
    return "-".join(filter(None, [kind, Path(argument).name]))


def _writable(folder: Path) -> Path:
    folder = folder.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise SpecError(f"--results {folder} cannot be written to: {error.strerror}") from None


def _trackable(uri: str) -> None:
    try:
        tracking.check(uri)
    except ValueError as error:
        raise SpecError(f"--tracking-uri: {error}") from None


def listing() -> str:
    """Studies, benchmarks and methods with what there is to set: the text of ``--list``."""
    lines = ["studies (--study):"]
    lines += [f"  {name:<18} {studies.headline(name)}" for name in studies.names()]
    lines += ["", "benchmarks (--benchmark):"]
    lines += [f"  {name:<18} {found.summary}" for name, found in benchmarks.BENCHMARKS.items()]
    lines += ["", f"data sets (--source, --target): {', '.join(data.names())}"]
    lines += ["", "methods, with their fields (search.<field>, fixed.<field>):"]
    for name in methods.names():
        lines.append(f"  {name:<18} {methods.summary(name)}")
        lines += [f"    {field:<16} {_field(about)}" for field, about in methods.fields(name).items()]
    lines += ["", "training fields (train.<field>, or searched under their own name):"]
    for field, about in TrainConfig.model_fields.items():
        lines.append(f"    {field:<16} {about.description} (default: {about.default})")
    return "\n".join(lines)


def _field(about: Any) -> str:
    return f"{about.doc} (default: {about.default})"

"""Before anything expensive starts: everything a launch needs is looked up, laid together and checked."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import benchmarks, data, methods, resources, studies, tracking
from bench.aliases import ALIASES
from bench.resources import Plan
from bench.spec import Backbone, Benchmark, SourceData, SpecError, Suite, TargetData, TrainConfig


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
        from bench import study  # torch is imported below where it is needed, and not for the embedded benchmark

        if self.address is None:  # on a cluster every node fetches for itself, when its first trial needs the data
            for own in (self.benchmark.source, self.benchmark.target):
                data.fetch(own.name)
            if self.benchmark != benchmarks.get("tiny"):
                from bench import backbones

                for reason in _read_data(self.benchmark, files_only=False):
                    print(f"skipped: {reason}")
                backbones.create(self.benchmark.backbone, num_classes=0)  # downloaded once, before the workers start

            if self._depends_on_images:
                from bench import plans

                plans.check(self.suite, self.benchmark)
                plans.decode_kept(self.benchmark)
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

    @property
    def _depends_on_images(self) -> bool:
        """Whether something can only be checked when the images are at hand."""
        if self.benchmark.source.keep_decoded or self.benchmark.target.keep_decoded:
            return True
        trials = (trial for study in self.suite.studies for trial in studies.corners(study, self.benchmark))
        return any(trial.train.epochs is not None or trial.train.views is not None for trial in trials)

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
    bad_images: str | None = None,
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
    flags = {
        "backbone.name": backbone,
        "backbone.weights": weights,
        "backbone.image_size": image_size,
        "source.name": source,
        "source.per_class": source_per_class,
        "source.bad_images": bad_images,
        "target.name": target,
        "target.bad_images": bad_images,
    }
    changes, overrides = _changes(flags, overrides)
    chosen = benchmarks.adapted(benchmarks.get(benchmark), changes)
    data.check(chosen.source.name, "source")
    data.check(chosen.target.name, "target")
    suite = studies.load(study, overrides=overrides, settings=settings)
    depth = _depth(chosen.backbone)
    for member in suite.studies:
        studies.check(member, chosen, depth=depth, workers=workers)
    if ":" in chosen.source.name + chosen.target.name:  # they lie in folders
        _read_data(chosen, files_only=True)
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


def _changes(flags: Mapping[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What is asked of the benchmark, by dotted name, and the overrides that are for the study."""
    changes = {name: value for name, value in flags.items() if value is not None}
    rest = []
    for text in overrides:
        path, value = studies.assignment(text)
        if path[0] in benchmarks.PARTS:
            changes[".".join(path)] = value
        else:
            rest.append(text)
    return changes, rest


def _read_data(benchmark: Benchmark, *, files_only: bool) -> list[str]:
    """Build the data sets of a benchmark, or those of them that lie in folders; returns what is skipped.

    Files are read through here, so that a bad image is found before anything expensive starts.
    """
    from bench import backbones

    size = backbones.preprocess(benchmark.backbone).files
    source, target = benchmark.source, benchmark.target
    skipped: dict[str, None] = {}
    if ":" in target.name or not files_only:
        found = data.target(target.name, size=size, samples=target.samples, bad_images=target.bad_images)
        skipped |= dict.fromkeys(data.skipped(found.train, found.val, found.test))
    if ":" in source.name or not files_only:
        domain = data.source(source.name, size=size, bad_images=source.bad_images)
        skipped |= dict.fromkeys(data.skipped(domain.bank, domain.val, domain.test))
    return list(skipped)


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
    lines += ["", f"backbones (--backbone): tiny, any of timm's ViTs with a class token, or {', '.join(ALIASES)}"]
    lines += ["", "methods, with their fields (search.<field>, fixed.<field>):"]
    for name in methods.names():
        lines.append(f"  {name:<18} {methods.summary(name)}")
        lines += [f"    {field:<16} {_field(about)}" for field, about in methods.fields(name).items()]
    lines += ["", "training fields (train.<field>, or searched under their own name):"]
    for field, about in TrainConfig.model_fields.items():
        lines.append(f"    {field:<16} {about.description} (default: {about.default})")
    lines += ["", "benchmark fields (<part>.<field>):"]
    for part, fields in (("backbone", Backbone), ("source", SourceData), ("target", TargetData)):
        for field, about in fields.model_fields.items():
            default = "" if about.is_required() else f" (default: {about.default})"
            lines.append(f"    {f'{part}.{field}':<26} {about.description}{default}")
    return "\n".join(lines)


def _field(about: Any) -> str:
    return f"{about.doc} (default: {about.default})"

"""Before anything expensive starts: everything a launch needs is looked up, laid together and checked."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import get_args

from bench import data, records, resources
from bench.launching import benchmarks, studies
from bench.launching.changes import Change
from bench.launching.launch import Launch, at_once
from bench.launching.request import Request
from bench.launching.where import resolved
from bench.reporting import mlflow_store
from bench.spec import Backbone, Benchmark, Phase, SourceData, SpecError, Suite, shown
from bench.spec.characters import UNDECODED, is_shown


def prepare(request: Request) -> Launch:
    """Check a request.

    Raises:
        SpecError: it cannot be carried out; the message is one sentence that says why.
    """
    if request.study is None:
        raise SpecError(f"say which study to run with --study (there are: {', '.join(studies.names())})")
    _check_text(request)
    options, said = resolved(request.options)
    _check_commit()
    benchmark = _benchmark(request)
    suite = studies.load(request.study, overrides=[one for one in request.changes if not _of_benchmark(one)])
    if benchmark.backbone.image_size is not None:
        said += _check_image_size(benchmark.backbone)
    depth = _depth(benchmark.backbone)
    for study in suite.studies:
        studies.check(study, benchmark, depth=depth, workers=options.workers)
    if in_folders := {name for name in _data_sets(benchmark) if ":" in name}:
        _read_data(benchmark, in_folders)
    plan = resources.plan_of_machine(options, at_once(suite)) if options.address is None else None
    results = _writable(Path(options.results))
    uri = options.tracking_uri or mlflow_store.default_uri(results)
    _trackable(uri, results)
    if options.optuna_storage is not None:
        _check_optuna(options.optuna_storage, results)
    return Launch(suite, benchmark, options, results, uri, plan, tuple(said))


def _check_commit() -> None:
    try:
        records.commit()
    except ValueError as error:
        raise SpecError(str(error)) from None


def _check_text(request: Request) -> None:
    """Refuse names that Ray, MLflow and records cannot hold."""
    options = request.options
    names = [
        request.study,
        request.benchmark,
        options.results,
        mlflow_store.without_password(options.tracking_uri or ""),
    ]
    for name in [*names, *(change.value for change in request.changes)]:
        if isinstance(name, str) and UNDECODED.search(name):
            raise SpecError(
                f"{name} is not UTF-8, or this terminal's locale is not, and records cannot hold it: rename it or make "
                f"a link to it with a plain name (the files inside may be called anything)"
            )
    for name in (options.results, options.optuna_storage):
        if name is not None and not (all(map(is_shown, name)) and all(part.strip() for part in Path(name).parts)):
            raise SpecError(f"{shown(name)} is blank in part, or holds control characters: choose another name")


def _of_benchmark(change: Change) -> bool:
    return change.path[0] in benchmarks.PARTS


def _benchmark(request: Request) -> Benchmark:
    changes = {change.name: change.value for change in request.changes if _of_benchmark(change)}
    adapted = benchmarks.adapted(benchmarks.get(request.benchmark), changes)
    data.check(adapted.source.name, "source")
    data.check(adapted.target.name, "target")
    return adapted


def make_ready(launch: Launch) -> list[str]:
    """Fetch, read and decode what all workers need, and check what can only be checked with that at hand.

    Returns:
        What is to be said of the data.

    Raises:
        SpecError: something cannot be had, or a trial could not be carried out.
    """
    benchmark = launch.benchmark
    if launch.options.address is not None:
        return []  # on a cluster every node fetches for itself, when its first trial needs the data
    check_room(launch)
    remarks: list[str] = []
    for name in _data_sets(benchmark):
        data.fetch(name)
    if benchmark != benchmarks.get("tiny"):  # for which no torch is needed here
        from bench import models

        remarks = _read_data(benchmark, _data_sets(benchmark))
        models.create(benchmark.backbone, num_classes=0)  # downloaded once, before the workers start
    _check_trials(launch)
    if benchmark.source.keep_decoded or benchmark.target.keep_decoded:
        from bench.launching import plans

        plans.decode_kept(benchmark)
    return remarks


RECORD_BYTES = 64 * 2**10
"""A trial's record, its points in MLflow and its lines in logs take so much at most."""

STORE_BYTES = 2 * 2**20
"""A new MLflow store, tables and the picture."""


def check_room(launch: Launch) -> None:
    """Refuse a results folder that has too little room for the launch.

    The trained tensors of the embedded backbone are small, and are not counted: for that torch would be needed.

    Raises:
        SpecError: with what is needed, and what there is.
    """
    needed = STORE_BYTES + launch.trials * RECORD_BYTES
    if launch.benchmark.backbone != Backbone(name="tiny"):
        from bench.launching import plans

        needed += 2 * plans.checkpoint_bytes(launch.suite, launch.benchmark)  # MLflow keeps a copy
    free = shutil.disk_usage(_nearest(launch.results)).free
    if free < needed:
        raise SpecError(
            f"{free / 2**20:,.0f} MiB are free in {launch.results}, and this launch needs {needed / 2**20:,.0f} MiB "
            f"there for records and trained tensors: make room, or choose another --results"
        )


def rehearse(launch: Launch) -> None:
    """Check what :func:`make_ready` checks, as far as nothing has to be downloaded and nothing is decoded for it.

    Raises:
        SpecError: a trial could not be carried out.
    """
    _read_data(launch.benchmark, {name for name in _data_sets(launch.benchmark) if data.at_hand(name)})
    if launch.options.address is None:
        check_room(launch)
        _check_trials(launch)


def _data_sets(benchmark: Benchmark) -> tuple[str, str]:
    return benchmark.source.name, benchmark.target.name


def _check_trials(launch: Launch) -> None:
    """Check what depends on images or on other trials' models."""
    if _starts_from_another(launch.suite, launch.benchmark):
        from bench.launching import plans

        plans.check_starts(launch.suite, launch.benchmark)
    if _depends_on_images(launch.suite, launch.benchmark):
        from bench.launching import plans

        plan = launch.plan
        plans.check(launch.suite, launch.benchmark, plan.slots * plan.workers if plan else 1)


def _starts_from_another(suite: Suite, benchmark: Benchmark) -> bool:
    """Whether a trial starts from another one's model."""
    return any(trial.train.start_from for study in suite.studies for trial in studies.corners(study, benchmark))


def _depends_on_images(suite: Suite, benchmark: Benchmark) -> bool:
    """Whether something can only be checked when the images are at hand."""
    trials = (trial for study in suite.studies for trial in studies.corners(study, benchmark))
    return any(trial.train.epochs is not None or trial.train.views is not None for trial in trials)


TINY_DEPTH = 12
"""The embedded backbone has so many blocks; known without importing torch, so that mistakes are answered at once."""


def _depth(backbone: Backbone) -> int:
    """Transformer blocks of a backbone; one that is not embedded is built, so that its weights are known to fit."""
    if backbone == Backbone(name="tiny"):
        return TINY_DEPTH
    from bench import models

    if backbone.weights not in (None, "random"):
        models.create(backbone, num_classes=0)
    return models.depth(backbone)


def _check_image_size(backbone: Backbone) -> list[str]:
    """Refuse images that are smaller than a patch; returns what is to be said of what patches leave over of others."""
    from bench import models

    models.check_size(backbone)
    said = models.unseen_border(backbone)
    return [f"note: {said}"] if said else []


def _read_data(benchmark: Benchmark, names: Collection[str]) -> list[str]:
    """Build those data sets of a benchmark that bear one of some names; returns what is to be said of them.

    Files are read through here, so that a bad image is found before anything expensive starts.
    """
    from bench import models

    size = models.preprocess(benchmark.backbone).files
    source, target = benchmark.source, benchmark.target
    remarks: dict[str, None] = {}
    if target.name in names:
        learned = data.target(target.name, size=size, samples=target.samples, bad_images=target.bad_images)
        remarks |= _remarks("target", learned.train, learned.val, learned.test)
    if source.name in names:
        domain = data.source(source.name, size=size, bad_images=source.bad_images)
        remarks |= _remarks("source", domain.bank, domain.val, domain.test)
        _check_banks(source, domain.bank)
    return list(remarks)


def _remarks(role: str, *splits: data.Split) -> dict[str, None]:
    skipped = [f"skipped: {reason}" for reason in data.skipped(*splits)]
    return dict.fromkeys([*skipped, *(f"{role}: {remark}" for remark in data.remarks(*splits))])


def _check_banks(source: SourceData, bank: data.Split) -> None:
    """Refuse a bank that is too small for the probe, in either phase."""
    from bench import measuring

    counts = bank.labels.bincount()
    for phase in get_args(Phase):
        per_class, _ = source.size(phase)
        try:
            measuring.check_bank(int(counts.clamp(max=per_class).sum() if per_class else counts.sum()))
        except ValueError as error:
            raise SpecError(f"source {source.name!r}: {error}") from None


def _writable(folder: Path) -> Path:
    """A results folder, absolute, that can be written to, or made; it is made when the launch starts."""
    folder = folder.absolute()
    try:
        with tempfile.TemporaryFile(dir=_nearest(folder)):
            return folder
    except OSError as error:
        raise SpecError(f"--results {folder} cannot be written to: {error.strerror}") from None


def _nearest(folder: Path) -> Path:
    """A folder, or the one above it that is there already.

    Raises:
        OSError: it cannot be made: its name is too long, or something above it is no folder.
    """
    for place in (folder, *folder.parents):
        with suppress(FileNotFoundError):
            place.lstat()
            return place
    raise AssertionError(f"{folder} is in no file system")


def _trackable(uri: str, results: Path) -> None:
    try:
        if not _comes_with(mlflow_store.database_file(uri), results):
            mlflow_store.check(uri)
    except ValueError as error:
        raise SpecError(f"--tracking-uri: {error}") from None


def _check_optuna(storage: str, results: Path) -> None:
    from bench.cluster import search_storage

    if not _comes_with(search_storage.file_of(storage), results):
        search_storage.check(storage)


def _comes_with(file: Path | None, results: Path) -> bool:
    """Whether a file lies in the results folder, which is not there yet, or in one that is made on the way to it."""
    return file is not None and not file.parent.exists() and file.parent in (results, *results.parents)

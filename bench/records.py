"""Records: one JSON file per trial, schema-checked on the way out and on the way in, with its provenance."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import platform
import re
import secrets
import subprocess
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from bench import __version__
from bench.readings import EQUAL, FLAT, SCORES, Reading, flat, of_schema_1, scores
from bench.spec import LARGEST, Name, SearchContext, Value, printable, read_text, shown

if TYPE_CHECKING:
    from bench.spec import Trial

SCHEMA_VERSION: Literal[2] = 2
PACKAGES = ("ray", "torch", "torchvision", "timm", "peft", "optuna", "mlflow", "numpy", "scikit-learn")

Status = Literal["ok", "failed", "stopped"]

Seconds = Annotated[float, Field(ge=0)] | None

MOST = 32_000_000
"""Bytes of a record's file; a trial with ten thousand readings has a tenth of it."""

INSIDE: Mapping[tuple[str, ...], type] = {
    ("config", "benchmark"): dict,
    ("config", "fields"): dict,
    ("config", "train"): dict,
    ("config", "train", "batch_size"): int,
    ("details", "kept_step"): int,
    ("details", "checkpoint_bytes"): int,
    ("details", "images"): dict,
    ("details", "images", "identity"): dict,
    ("details", "images", "per_class"): dict,
    ("details", "images", "per_class", "target_test"): dict,
    ("details", "images", "source_classes"): list,
    ("provenance", "versions"): dict,
    ("provenance", "workers"): int,
    ("provenance", "peak_memory"): dict,
    ("provenance", "peak_memory", "bytes"): int,
    ("provenance", "hardware"): dict,
    ("provenance", "hardware", "devices"): list,
}
"""What is looked up in a record's free parts, and what it has to be if it is there."""

ASKED: Mapping[str, str] = {"trial": "id"} | {
    name: name for name in ("study", "method", "hyperparameters", "row", "seed", "phase", "protocol", "search")
}
"""What a record repeats of its ``config``, and what it is called there."""

DETAILS_OF_SCHEMA_1 = ("target_top5", "knn", "knn_before")
"""The details held these, which readings hold now."""


class Record(BaseModel):
    """The result of one trial, as readings (see :mod:`bench.readings`).

    The JSON also holds the flat names (``target_accuracy``, ``val_mean``, ...), which are views of the readings: a
    search trial is measured on validation data and has those with ``val_``, a confirmation on test data. What was not
    measured is ``None``. Records of schema 1 are read, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    schema_version: Literal[2] = SCHEMA_VERSION
    trial: Name
    study: Name
    benchmark: Name
    method: str
    hyperparameters: dict[str, Value]
    row: dict[str, Value]
    seed: int
    phase: Literal["search", "confirm"]
    status: Status
    protocol: Literal["clean", "paper"] = "clean"
    """``paper``: chosen on test data, as in arXiv 2404.17245; not comparable with clean results."""
    search: SearchContext | None = None
    """The search that proposed the configuration, or whose outcome is confirmed; None in schema 1."""
    error: str | None = None
    readings: tuple[Reading, ...] = Field(default=(), strict=False)
    trainable_parameters: Annotated[int, Field(ge=0)] | None = None
    steps: Annotated[int, Field(ge=0)]
    train_seconds: Seconds = None
    eval_seconds: Seconds = None
    images_per_second: Annotated[float, Field(ge=0)] | None = None
    details: dict[str, Any] = Field(default_factory=dict)
    """Further facts, such as the precision and how many images were read."""
    config: dict[str, Any]
    """The whole trial as it was asked for."""
    provenance: dict[str, Any]

    @property
    def measured_step(self) -> int:
        """The step whose model was measured at the end: the last one, or the best one's where that was kept."""
        step: int = self.details.get("kept_step", self.steps)
        return step

    @property
    def is_tried_again(self) -> bool:
        """Whether a launch that is gone on with runs the trial again: it failed, and not by its own doing, as it is
        when a loss becomes NaN."""
        return self.status == "failed" and "traceback" in self.details

    def scores_of(self, variant: str | None = None) -> dict[str, float]:
        """Scores of the trained model, or of a variant of it, in percent (see :data:`bench.readings.SCORES`)."""
        if self.status == "failed":
            return {}
        split = "test" if self.phase == "confirm" else None
        step = self.measured_step if self.status == "ok" else None
        return scores(self.readings, split=split, step=step, variant=variant)

    @property
    def scores(self) -> dict[str, float | None]:
        """The trial's five scores, measured on what its phase measures; None where there is none."""
        return {**dict.fromkeys(SCORES), **self.scores_of()}

    @property
    def variants(self) -> list[str]:
        """What the method made of the trained model besides, by name."""
        return list(dict.fromkeys(reading.variant for reading in self.readings if reading.variant is not None))

    @property
    def configuration(self) -> str:
        """Everything that was asked for but the seed: records that agree in it are repeats of each other."""
        own = {name: value for name, value in self.config.items() if name not in ("id", "seed", "phase", "search")}
        return json.dumps(
            [self.method, self.row, self.hyperparameters, self.protocol, own], sort_keys=True, default=str
        )

    @property
    def repeat(self) -> int | None:
        """Which of several searches it belongs to, from 0; None if there was one."""
        return None if self.search is None else self.search.repeat

    @property
    def family(self) -> str:
        """What a leaderboard's line is about: the configuration, or where the search was repeated, everything that was
        asked for but the seeds and what the searches chose: their outcomes are averaged."""
        if self.repeat is None:
            return self.configuration
        own = {name: value for name, value in self.config.items() if name not in ("id", "seed", "phase", "search")}
        for part in ("fields", "train"):
            if isinstance(own.get(part), Mapping):
                kept = own[part].items()
                own[part] = {name: value for name, value in kept if name not in self.hyperparameters}
        own.pop("hyperparameters", None)
        assert self.search is not None
        search = {**self.search.model_dump(mode="json"), "seed": None, "repeat": None}
        return json.dumps([self.method, self.row, self.protocol, search, own], sort_keys=True, default=str)

    @model_validator(mode="wrap")
    @classmethod
    def _from_json(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Compare the flat names with the readings; a record of schema 1 becomes one of schema 2."""
        if not isinstance(values, Mapping):
            return handler(values)
        _check_integers(values)
        record = handler(_without_views(values))
        _check_views(record, values)
        return record

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.status == "failed" and not self.error:
            raise ValueError("a failed record says why in error")
        for (part, *names), kind in INSIDE.items():
            found = getattr(self, part)
            for name in names:
                found = None if found is None else found.get(name)
            if found is not None and not isinstance(found, kind):
                raise ValueError(f"{'.'.join([part, *names])} = {shown(found)}: it must be a {kind.__name__}")
        self._agree_with_config()
        self._agree_among_themselves()
        keys = [reading.key for reading in self.readings]
        if len(set(keys)) < len(keys):
            raise ValueError("two readings have the same step, split, domain, probe and variant")
        missing = [name for name, value in self.scores.items() if value is None]
        if self.status == "ok" and missing:
            (name,) = flat({missing[0]: None}, self.phase)
            raise ValueError(f"a successful {self.phase} record needs {name}")
        return self

    def _agree_among_themselves(self) -> None:
        """Forgetting is a difference of readings that were taken alike."""
        of_source = [reading for reading in self.readings if reading.domain == "source"]
        for split, name in itertools.product(("val", "test"), ("k", "bank")):
            said = {r.settings[name] for r in of_source if r.split == split and name in r.settings}
            if len(said) > 1:
                mixed = " and ".join(map(str, sorted(said)))
                raise ValueError(f"readings of the source with {name} = {mixed} are mixed")

    def _agree_with_config(self) -> None:
        """What tables say of a trial is what was asked for."""
        for name, asked in ASKED.items():
            own, said = _plain(getattr(self, name)), self.config.get(asked)
            if said is not None and said != own:
                raise ValueError(f"{name} = {shown(own)} contradicts config, which says {shown(said)}")
        benchmark = self.config.get("benchmark", {}).get("name")
        if benchmark not in (None, self.benchmark):
            raise ValueError(f"benchmark = {self.benchmark} contradicts config, which says {shown(benchmark)}")

    @model_serializer(mode="wrap")
    def _with_views(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        own: dict[str, Any] = handler(self)
        views = {**dict.fromkeys(FLAT), **flat(self.scores, self.phase)}
        before = list(own).index("readings")
        return {**dict(list(own.items())[:before]), **views, **dict(list(own.items())[before:])}

    def write(self, folder: Path) -> Path:
        """Write ``<folder>/<trial>.json`` so that a reader sees either all of it or nothing; returns the path."""
        path = folder / f"{self.trial}.json"
        write_atomically(path, self.model_dump_json(indent=2) + "\n")
        return path


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    return json.loads(json.dumps(value.model_dump(mode="json") if isinstance(value, BaseModel) else value))


def _check_integers(values: Mapping[str, Any]) -> None:
    """Refuse integers that neither tables nor floats hold, however deep they lie."""
    left: list[Any] = [values]
    while left:
        one = left.pop()
        if isinstance(one, Mapping):
            left += one.values()
        elif isinstance(one, list | tuple):
            left += one
        elif isinstance(one, int) and abs(one) > LARGEST:
            raise ValueError("an integer does not fit into 64 bits")


def _without_views(values: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: value for name, value in values.items() if name not in FLAT}
    if values.get("schema_version") != 1:
        return own
    try:
        own |= {"schema_version": SCHEMA_VERSION, "readings": of_schema_1(values)}
        own["details"] = {k: v for k, v in (values.get("details") or {}).items() if k not in DETAILS_OF_SCHEMA_1}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the details are not those of schema 1 ({type(error).__name__}: {error})") from None
    return own


def _check_views(record: Record, given: Mapping[str, Any]) -> None:
    """Refuse flat names that say something else than the readings that they are views of."""
    views = flat(record.scores, record.phase)
    for name in FLAT:
        value, own = given.get(name), views.get(name)
        if value is None and (own is None or name not in given):
            continue
        number = isinstance(value, int | float) and math.isfinite(value)
        if own is None or not number or abs(own - value) > EQUAL:
            raise ValueError(f"{name} = {shown(value)} contradicts the readings, which say {own}")


def of(
    trial: Trial,
    *,
    status: Status,
    workers: int = 1,
    devices: Iterable[str] = (),
    steps: int = 0,
    readings: Sequence[Reading] = (),
    **measured: Any,
) -> Record:
    """The record of a trial, with its configuration and the provenance of this process.

    Args:
        workers: processes that trained it together.
        devices: names of their accelerators.
        steps: optimizer steps done.
        readings: what was measured.
        measured: further fields of :class:`Record`.
    """
    return Record(
        trial=trial.id,
        study=trial.study,
        benchmark=trial.benchmark.name,
        method=trial.method,
        hyperparameters=trial.hyperparameters,
        row=trial.row,
        seed=trial.seed,
        phase=trial.phase,
        status=status,
        protocol=trial.protocol,
        search=trial.search,
        readings=tuple(readings),
        steps=steps,
        config=trial.model_dump(mode="json"),
        provenance=provenance(devices=devices) | {"workers": workers},
        **measured,
    )


def failed(trial: Trial, error: BaseException) -> Record:
    """The record of a trial that raised, with the traceback under ``details``."""
    text = printable("".join(traceback.format_exception(error)), keep="\n")
    said = printable(f"{type(error).__name__}: {error}")
    return of(trial, status="failed", error=said, details={"traceback": text})


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file's content in one step, through another file in the same folder, which is made if need be.

    Who may read it is what the umask says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with written.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        written.replace(path)
    except OSError as error:  # one of a full disk does not say which
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        written.unlink(missing_ok=True)  # it is still there if the disk is full


def read(path: Path) -> Record:
    """Read one record.

    Raises:
        ValueError: the file is no record; the message names the file and the first fault.
    """
    try:
        text = read_text(path, most=MOST)
    except ValueError as error:
        raise ValueError(f"{path} is not a record: {error}") from None
    try:
        record = Record.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise ValueError(f"{path} is not a record: {printable(where)}: {first['msg']}") from None
    if fault := _doubled(text) or _other_values(record):
        raise ValueError(f"{path} is not a record: {fault}")
    return record


def _doubled(text: str) -> str:
    """Which key of a JSON text is there twice, of which the last would count; empty if none."""
    found: list[str] = []

    def pairs(given: Sequence[tuple[str, Any]]) -> None:
        names = [name for name, _ in given]
        found.extend(f"{shown(name)} is there twice" for name in set(names) if names.count(name) > 1)

    json.loads(text, object_pairs_hook=pairs)
    return found[0] if found else ""


def _other_values(record: Record) -> str:
    """Which of the hyper-parameters or row values is not what the trial was trained with; empty if none."""
    train = record.config.get("train", {})
    asked = None if train.get("epochs") is not None else train.get("steps")
    if record.status == "ok" and asked not in (None, record.steps):
        return f"steps = {record.steps} contradicts config.train, which says {shown(asked)}"
    for name, value in _plain(record.hyperparameters).items():
        for part in ("fields", "train"):
            said = record.config.get(part, {}).get(name, value)
            if said != value:
                return f"hyperparameters.{name} = {shown(value)} contradicts config.{part}, which says {shown(said)}"
    for name, value in record.row.items():
        if record.hyperparameters.get(name, value) != value:
            return f"row.{name} = {shown(value)} contradicts the hyperparameters"
    return ""


def provenance(*, devices: Iterable[str] = ()) -> dict[str, Any]:
    """Where a number comes from: versions, commit, hardware, time.

    Args:
        devices: names of the accelerators that the trial ran on.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), "vit-forgetting-bench": __version__, **_versions()},
        **commit(),
        "hardware": {"cpu": _cpu(), "cores": os.cpu_count(), "devices": list(devices)},
        "platform": platform.platform(),
        "host": platform.node(),
        "pid": os.getpid(),
    }


@functools.cache
def _versions() -> dict[str, str]:
    """Of the packages that are here: a trial needs neither Ray nor Optuna nor MLflow."""
    found = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


COMMIT = "BENCH_COMMIT"
"""This variable says what a copy without git is a copy of, as ``git describe --always --dirty --abbrev=40`` does."""

RUNS = ("bench", "launch.py", "search_spaces", "constraints.txt", "pyproject.toml")
"""What of a checkout makes numbers; a cluster's nodes have no more of it."""


@functools.cache
def commit() -> dict[str, Any]:
    """Commit of the code that runs, and whether it was changed since; both ``None`` where nobody knows.

    Raises:
        ValueError: the variable BENCH_COMMIT is set, and is no commit.
    """
    here = Path(__file__).parent
    try:
        # Where this file is not a part of it, the project is installed inside somebody else's checkout.
        found, _ = _git(here, "rev-parse", "HEAD", f"HEAD:./{Path(__file__).name}").split()
        changed = _git(here.parent, "status", "--porcelain", "--untracked-files=no", "--", *RUNS)
        return {"commit": found, "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return _told(os.environ.get(COMMIT, ""))


def _told(text: str) -> dict[str, Any]:
    if not text:
        return {"commit": None, "dirty": None}
    read = re.fullmatch(r"([0-9a-f]{40})(-dirty)?", text)
    if read is None:
        raise ValueError(
            f"{COMMIT} = {shown(text)}: set it to the output of git describe --always --dirty --abbrev=40 --exclude '*'"
        )
    return {"commit": read[1], "dirty": read[2] is not None}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@functools.cache
def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

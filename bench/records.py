"""Records: one JSON file per trial, schema-checked on the way out and on the way in, with its provenance."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import tempfile
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

if TYPE_CHECKING:
    from bench.spec import Trial

SCHEMA_VERSION: Literal[1] = 1
PACKAGES = ("ray", "torch", "torchvision", "timm", "peft", "optuna", "mlflow", "numpy", "scikit-learn")

Percent = Annotated[float, Field(ge=0, le=100)]
Change = Annotated[float, Field(ge=-100, le=100)]


class Record(BaseModel):
    """The result of one trial. Accuracies and forgetting are in percent; what was not measured is ``None``.

    A search trial is measured on validation data (``val_*``) only; a confirmation on test data only.
    ``forgetting = source_accuracy_before - source_accuracy``; ``mean = (target_accuracy + source_accuracy) / 2``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    schema_version: Literal[1] = SCHEMA_VERSION
    trial: str
    study: str
    benchmark: str
    method: str
    hyperparameters: dict[str, bool | int | float | str | None]
    row: dict[str, bool | int | float | str | None]
    seed: int
    phase: Literal["search", "confirm"]
    status: Literal["ok", "failed", "stopped"]
    protocol: Literal["clean", "paper"] = "clean"
    """``paper``: chosen on test data, as in arXiv 2404.17245; not comparable with clean results."""
    error: str | None = None
    target_accuracy: Percent | None = None
    source_accuracy: Percent | None = None
    source_accuracy_before: Percent | None = None
    forgetting: Change | None = None
    mean: Percent | None = None
    val_target_accuracy: Percent | None = None
    val_source_accuracy: Percent | None = None
    val_source_accuracy_before: Percent | None = None
    val_forgetting: Change | None = None
    val_mean: Percent | None = None
    trainable_parameters: int | None = None
    steps: int
    train_seconds: float | None = None
    eval_seconds: float | None = None
    images_per_second: float | None = None
    details: dict[str, Any] = Field(default_factory=dict)
    """Further measurements, such as top-5 and other values of k."""
    config: dict[str, Any]
    """The whole trial as it was asked for."""
    provenance: dict[str, Any]

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.status == "failed" and not self.error:
            raise ValueError("a failed record says why in error")
        if self.status == "ok":
            prefix = "val_" if self.phase == "search" else ""
            for name in (
                "target_accuracy",
                "source_accuracy",
                "source_accuracy_before",
                "forgetting",
                "mean",
            ):
                if getattr(self, prefix + name) is None:
                    raise ValueError(f"a successful {self.phase} record needs {prefix}{name}")
        return self

    def write(self, folder: Path) -> Path:
        """Write ``<folder>/<trial>.json`` so that a reader sees either all of it or nothing; returns the path."""
        path = folder / f"{self.trial}.json"
        write_atomically(path, self.model_dump_json(indent=2) + "\n")
        return path


def of(
    trial: Trial,
    *,
    status: Literal["ok", "failed", "stopped"],
    workers: int = 1,
    devices: Iterable[str] = (),
    steps: int = 0,
    **measured: Any,
) -> Record:
    """The record of a trial, with its configuration and the provenance of this process.

    Args:
        workers: processes that trained it together.
        devices: names of their accelerators.
        steps: optimizer steps done.
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
        steps=steps,
        config=trial.model_dump(mode="json"),
        provenance=provenance(devices=devices) | {"workers": workers},
        **measured,
    )


def failed(trial: Trial, error: BaseException) -> Record:
    """The record of a trial that raised, with the traceback under ``details``."""
    text = "".join(traceback.format_exception(error))
    return of(trial, status="failed", error=f"{type(error).__name__}: {error}", details={"traceback": text})


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file's content in one step, through a temporary file in the same folder, which is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def read(path: Path) -> Record:
    """Read one record.

    Raises:
        ValueError: the file is no record; the message names the file and the first fault.
    """
    try:
        return Record.model_validate_json(path.read_text())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise ValueError(f"{path} is not a record: {where}: {first['msg']}") from None


def weights_of(record: Path) -> Path:
    """Where the trained tensors of a record file are kept."""
    return record.parent.parent / "checkpoints" / f"{record.stem}.safetensors"


def trained(path: Path) -> tuple[Record, Path]:
    """A confirmed trial's record and the file of its trained tensors.

    Args:
        path: of either of the two.

    Raises:
        ValueError: it is no record, or its trained tensors were not kept.
    """
    if path.suffix == ".safetensors":
        path = path.parent.parent / "records" / f"{path.stem}.json"
    if not path.is_file():
        raise ValueError(f"there is no record {path}; records are in results/<study>/<benchmark>/records/")
    record, weights = read(path), weights_of(path)
    if not weights.is_file():
        reason = "only confirmed trials that succeeded keep their weights"
        raise ValueError(
            f"there is no checkpoint {weights} for this record ({record.phase}, {record.status}): {reason}"
        )
    return record, weights


def read_all(folder: Path) -> list[Record]:
    """All records of ``<folder>/*.json``, by file name.

    Raises:
        ValueError: there are none, or one of them is no record.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise ValueError(f"there are no records in {folder}; run a study first")
    return [read(path) for path in paths]


def provenance(*, devices: Iterable[str] = ()) -> dict[str, Any]:
    """Where a number comes from: versions, commit, hardware, time.

    Args:
        devices: names of the accelerators that the trial ran on.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **_versions()},
        **_commit(),
        "hardware": {"cpu": _cpu(), "cores": os.cpu_count(), "devices": list(devices)},
        "platform": platform.platform(),
        "host": platform.node(),
        "pid": os.getpid(),
    }


@functools.cache
def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in PACKAGES}


@functools.cache
def _commit() -> dict[str, Any]:
    """Commit and dirty flag of the code that runs; both ``None`` where it is no git checkout."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {
            "commit": commit,
            "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@functools.cache
def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
